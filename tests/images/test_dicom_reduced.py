"""JPEG 2000 at a half or a quarter looks like the whole film, and is not taken where it would not."""

import hashlib
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pydicom.uid
import pytest
from dicoms import dicom, encapsulated

from cxrpipe.images import letterbox, radiographs
from cxrpipe.images.letterbox import Preparation
from cxrpipe.images.rasters import LeastSize
from cxrpipe.images.squares import decode_view

WINDOW = {"WindowCenter": 2048, "WindowWidth": 4096}


def film(rows: int = 400, columns: int = 320) -> np.ndarray:
    """(rows, columns) uint16 of 12 bits, with edges as sharp as a detector draws them, and with its noise."""
    rng = np.random.default_rng(7)
    smooth = cv2.resize(rng.random((9, 7)).astype(np.float32), (columns, rows), interpolation=cv2.INTER_CUBIC)
    for place in rng.integers(0, (rows, columns), (10, 2)):
        cv2.circle(smooth, (int(place[1]), int(place[0])), int(rng.integers(4, 40)), float(rng.random()), 3)
    smooth = cv2.GaussianBlur(smooth, (0, 0), 1.5)
    return np.rint((smooth + rng.normal(0, 0.008, smooth.shape)).clip(0, 1) * 4095).astype(np.uint16)


FILM = film()


def jpeg_2000(
    values: np.ndarray, *, resolutions: int = 6, bits: int = 12, of_frame: int | None = None, **tags: object
) -> bytes:
    """A DICOM file; `resolutions` - 1 levels of it can be left out."""
    frame = imagecodecs.jpeg2k_encode(
        values, 0, codecformat="J2K", bitspersample=of_frame or bits, reversible=True, resolutions=resolutions
    )
    return encapsulated(frame, pydicom.uid.JPEG2000Lossless, values, **({"bits": bits} | WINDOW | tags))


def shape(data: bytes, enough_px: int, intensity: str = "voi") -> tuple[int, ...]:
    """The shape in which the film is decoded; its size is always that of the file."""
    decoded = radiographs.decode(data, intensity, at_least=LeastSize(enough_px))
    assert decoded.size_px == FILM.shape
    return decoded.pixels.shape


def differences(data: bytes, side_px: int, enough_px: int) -> np.ndarray:
    """Between the square of the reduced film and that of the whole, in grey levels."""
    whole, reduced = radiographs.decode(data, "voi"), radiographs.decode(data, "voi", at_least=LeastSize(enough_px))
    assert reduced.size_px == whole.size_px
    assert reduced.pixels.size < whole.pixels.size
    return np.abs(letterbox.prepare(whole, side_px).astype(int) - letterbox.prepare(reduced, side_px))


# ---- When -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("enough_px", "expected"), [(201, (400, 320)), (200, (200, 160)), (100, (100, 80)), (9, (100, 80))]
)
def test_a_film_is_decoded_at_the_least_scale_that_is_enough_but_for_an_eighth(enough_px, expected):
    assert shape(jpeg_2000(FILM), enough_px) == expected


@pytest.mark.parametrize(("resolutions", "expected"), [(1, (400, 320)), (2, (200, 160)), (3, (100, 80))])
def test_a_film_with_few_levels_is_decoded_at_what_they_allow(resolutions, expected):
    assert shape(jpeg_2000(FILM, resolutions=resolutions), 50) == expected


@pytest.mark.parametrize(
    "tags",
    [
        {"WindowCenter": None, "WindowWidth": None},  # the range would be that of averages
        {"WindowWidth": 0},
        {"WindowWidth": 400},  # too steep: noise becomes black and white before it is averaged
        {"WindowCenter": 90_000},  # leaves nothing to see
        {"PixelPaddingValue": 0},
        {"RescaleSlope": 0, "RescaleIntercept": 0},
        {"BitsStored": 10, "HighBit": 9},
        {"PixelRepresentation": 1},
    ],
)
def test_a_film_is_decoded_whole_where_averages_could_not_be_shown_as_its_values_are(tags):
    assert shape(jpeg_2000(FILM, **tags), 50) == FILM.shape


def test_a_frame_of_more_bits_than_are_stored_is_decoded_whole():
    """An overlay may lie in the others."""
    assert shape(jpeg_2000(FILM, of_frame=16), 50) == FILM.shape


@pytest.mark.parametrize("bits", [8, 9])
def test_a_frame_of_few_bits_is_decoded_whole(bits):
    """The reversible wavelet rounds up, by 0.4 values a halving. Of 8 bits these are grey levels."""
    values = (FILM >> (12 - bits)).astype(np.uint8 if bits == 8 else np.uint16)
    assert shape(jpeg_2000(values, bits=bits, WindowCenter=2 ** (bits - 1), WindowWidth=2**bits), 50) == FILM.shape


@pytest.mark.parametrize("intensity", ["chexpert_v1", "mimic_v2"])
def test_an_intensity_that_depends_on_all_pixels_needs_the_whole_film(intensity):
    assert shape(jpeg_2000(FILM), 50, intensity) == FILM.shape


def test_a_film_without_contrast_is_blank_at_any_scale():
    noise = (
        np.random.default_rng(0).normal(2048, 30, FILM.shape).astype(np.uint16)
    )  # 1.9 grey levels; 0.5 when averaged
    wanted = [Preparation("voi", 32)]
    assert not decode_view(jpeg_2000(noise), "film", wanted).blank
    assert decode_view(jpeg_2000(noise // 64 + 2000), "film", wanted).blank


def test_a_window_that_hides_the_film_is_told_from_the_whole():
    hidden = radiographs.decode(
        jpeg_2000(FILM // 4, WindowCenter=3000, WindowWidth=1000), "voi", at_least=LeastSize(50)
    )
    assert hidden.flags == ("display_element_ignored",)
    assert hidden.pixels.shape == FILM.shape


# ---- What -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(400, 320), (399, 317), (401, 323), (398, 321)])
@pytest.mark.parametrize("enough_px", [192, 96])
def test_prepared_pixels_differ_by_less_than_a_grey_level_on_average(size, enough_px):
    """The sides need not be multiples of four."""
    assert differences(jpeg_2000(film(*size)), 48, enough_px).mean() < 1


def test_a_reduced_film_is_not_moved():
    """A quarter lies 1.5 pixels of the film aside, if nobody puts it back. Here that is 0.93 grey levels."""
    rows, columns = np.mgrid[:400, :320]
    ramp = (5 * rows + 5 * columns + np.random.default_rng(0).integers(0, 64, rows.shape)).astype(np.uint16)
    aside = []
    for values in (ramp, 4095 - ramp):
        data = jpeg_2000(values)
        whole, reduced = (radiographs.decode(data, "voi", at_least=at_least) for at_least in (None, LeastSize(50)))
        means = whole.pixels.reshape(100, 4, 80, 4).mean(axis=(1, 3))
        aside.append((reduced.pixels - means)[2:-2, 2:-2].mean())
    assert abs(aside[0] - aside[1]) / 2 < 0.05


@pytest.mark.parametrize("kind", ["signed", "10 bits", "MONOCHROME1", "lossy", "HTJ2K"])
def test_other_kinds_of_values_are_reduced_too(kind):
    if kind == "signed":
        data = jpeg_2000((FILM.astype(np.int32) - 2048).astype(np.int16), WindowCenter=0)
    elif kind == "10 bits":
        data = jpeg_2000(FILM >> 2, bits=10, WindowCenter=512, WindowWidth=1024)
    elif kind == "MONOCHROME1":
        data = jpeg_2000(FILM, PhotometricInterpretation="MONOCHROME1")
    elif kind == "lossy":
        frame = imagecodecs.jpeg2k_encode(FILM, 60, codecformat="J2K", bitspersample=12, reversible=False)
        data = encapsulated(frame, pydicom.uid.JPEG2000, FILM, bits=12, **WINDOW)
    else:
        frame = imagecodecs.htj2k_encode(FILM << 4, reversible=True)
        window = {"WindowCenter": 32768, "WindowWidth": 65536}
        data = encapsulated(frame, pydicom.uid.HTJ2KLossless, FILM << 4, bits=16, **window)
    assert differences(data, 48, 96).mean() < 1


GOLDEN = {"raw": "6947b3bc5c8e79c7", "half": "b4b7da1c1d81307f", "quarter": "821b19177df64499"}


@pytest.mark.parametrize("scale", GOLDEN)
def test_prepared_pixels_of_dicom_change_only_with_the_preparation_version(scale):
    """When this fails, scores change too: raise PREPARATION_VERSION and take the new hashes."""
    y, x = np.mgrid[:237, :190]
    values = (2048 + (y * y // 7 + x * 31 + (x * y) // 11) % 2048).astype(np.uint16)
    wanted = Preparation("voi", {"raw": 64, "half": 50, "quarter": 25}[scale])
    data = dicom(values, bits=12, **WINDOW) if scale == "raw" else jpeg_2000(values)
    square = decode_view(data, scale, [wanted]).squares[wanted]
    assert (letterbox.PREPARATION_VERSION, hashlib.sha256(square).hexdigest()[:16]) == (4, GOLDEN[scale])


def test_a_real_film_of_odd_size_is_reduced_to_a_quarter(real_data: Path):
    """1955 x 1841 px: Pillow's own reader fails for it, for it rounds 1841 / 4 down."""
    data = (real_data / "dicom" / "RG1_J2KI").read_bytes()
    assert radiographs.decode(data, "voi", at_least=LeastSize(448)).pixels.shape == (489, 461)
    found = differences(data, 224, 448)
    assert found.mean() < 0.5
    assert found.max() <= 8

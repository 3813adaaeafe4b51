"""A intensity does what its authors did, and is defined for every kind of source."""

import warnings
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
import torchxrayvision as xrv
from builders import jpeg, png, radiograph
from dicoms import dicom

from cxrpipe.images import radiographs
from cxrpipe.images.intensity import INTENSITIES

GREY = radiograph(rows=40, columns=30)
DEEP = np.random.default_rng(3).integers(200, 3000, (40, 30)).astype(np.uint16)
SOURCES = {"8-bit": png(GREY), "16-bit": png(DEEP), "DICOM": dicom(DEEP, bits=12)}


def as_chexpert(values: np.ndarray, inverted: bool) -> np.ndarray:
    """stanfordmlgroup/chexpert-labeler, issue 11."""
    scaled = cv2.convertScaleAbs(values, alpha=255.0 / values.max())
    return cv2.equalizeHist(cv2.bitwise_not(scaled) if inverted else scaled)


def as_mimic(values: np.ndarray, inverted: bool) -> np.ndarray:
    """MIT-LCP/mimic-cxr, issue 16."""
    values = values - values.min()
    scaled = (values / values.max() * 255).astype(np.uint8)
    return cv2.equalizeHist(cv2.bitwise_not(scaled) if inverted else scaled)


PUBLISHED = [("chexpert_v1", as_chexpert), ("mimic_v2", as_mimic)]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("intensity", INTENSITIES)
def test_every_recipe_is_defined_for_every_kind_of_source(intensity, source):
    pixels = radiographs.decode(SOURCES[source], intensity).pixels
    assert pixels.dtype == np.uint8
    assert not radiographs.is_blank(pixels)


@pytest.mark.parametrize(("intensity", "authors"), PUBLISHED)
def test_a_16_bit_file_is_taken_for_the_stored_values_of_a_dicom_file(intensity, authors):
    assert np.array_equal(radiographs.decode(png(DEEP), intensity).pixels, authors(DEEP, inverted=False))


@pytest.mark.parametrize("intensity", INTENSITIES)
def test_8_bits_are_as_they_are(intensity):
    assert np.array_equal(radiographs.decode(png(GREY), intensity).pixels, GREY)
    assert np.array_equal(
        radiographs.decode(jpeg(GREY), intensity).pixels, radiographs.decode(jpeg(GREY), "voi").pixels
    )


def test_padchest_divides_by_65535():
    assert np.abs(radiographs.decode(png(DEEP), "padchest").pixels - DEEP / 65535 * 255).max() <= 0.5


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(("intensity", "authors"), PUBLISHED)
def test_a_published_recipe_gives_what_its_authors_code_gives(intensity, authors, photometric):
    """A window is no part of it."""
    data = dicom(DEEP, bits=12, PhotometricInterpretation=photometric, WindowCenter=1000, WindowWidth=10)
    assert np.array_equal(radiographs.decode(data, intensity).pixels, authors(DEEP, photometric == "MONOCHROME1"))


# ---- xrv ------------------------------------------------------------------------------------------------------


def as_xrv(data: bytes, folder: Path) -> np.ndarray:
    """(H, W) float, 0..255: what torchxrayvision reads, which it scales to -1024..1024."""
    (folder / "film.dcm").write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return (xrv.utils.read_xray_dcm(folder / "film.dcm") / 1024 + 1) / 2 * 255


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_xrv_takes_stored_values_over_the_range_of_their_bits_and_no_window(tmp_path, bits, photometric):
    values = (DEEP >> 4).astype(np.uint8) if bits == 8 else DEEP >> max(0, 12 - bits)
    tags = {"PhotometricInterpretation": photometric, "WindowCenter": 1000, "WindowWidth": 10, "RescaleIntercept": 50}
    data = dicom(values, bits=bits, **tags)
    assert np.abs(radiographs.decode(data, "xrv").pixels - as_xrv(data, tmp_path)).max() <= 0.501


def test_xrv_shows_signed_values_below_zero_as_zero():
    values = DEEP.astype(np.int16) - 1000
    pixels = radiographs.decode(dicom(values, bits=16), "xrv").pixels
    assert np.abs(pixels - np.maximum(values, 0) / 65535 * 255).max() <= 0.5


def test_xrv_divides_16_bit_files_by_257():
    assert np.array_equal(radiographs.decode(png(DEEP), "xrv").pixels, radiographs.decode(png(DEEP), "voi").pixels)


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("RG1_J2KI", 0.501),  # 15 bits, MONOCHROME1
        ("RG1_JLSN", 0.501),
        ("Fake_MONOHR1.dcm", 1.001),  # a lossy JPEG: decoders differ by a grey level
        ("1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819.dcm", 1.001),
    ],
)
def test_xrv_on_real_files(real_data: Path, tmp_path: Path, name, most):
    data = (real_data / "dicom" / name).read_bytes()
    assert np.abs(radiographs.decode(data, "xrv").pixels - as_xrv(data, tmp_path)).max() <= most


@pytest.mark.parametrize("intensity", ["chexpert_v1", "mimic_v2"])
def test_a_flat_image_is_flat_under_every_intensity(intensity):
    for value in (0, 7):
        flat = radiographs.decode(dicom(np.full((20, 20), value, np.uint16), bits=12), intensity).pixels
        assert radiographs.is_blank(flat)


@pytest.mark.parametrize(("intensity", "authors"), PUBLISHED)
def test_a_published_recipe_on_a_real_file(real_data: Path, intensity, authors):
    path = real_data / "dicom" / "RG1_J2KI"
    expected = authors(pydicom.dcmread(path).pixel_array, inverted=True)
    assert np.array_equal(radiographs.decode(path.read_bytes(), intensity).pixels, expected)

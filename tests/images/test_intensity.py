"""A intensity does what its authors did, and is defined for every kind of source."""

from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
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

"""Lung masks: one bit a pixel on their way to a row, and fractions of the image without its padding."""

import struct
from pathlib import Path

import numpy as np
import pytest

from cxrpipe.images import letterbox, masks, radiographs


def noise(side_px: int) -> np.ndarray:
    return np.random.default_rng(side_px).random((side_px, side_px)) < 0.3


@pytest.mark.parametrize("side_px", [1, 7, 8, 224, 512])
def test_a_mask_comes_back_from_its_png(side_px):
    assert np.array_equal(masks.decode(masks.encode(noise(side_px))), noise(side_px))


@pytest.mark.parametrize("fill", [False, True])
def test_an_empty_and_a_full_mask_come_back(fill):
    mask = np.full((32, 32), fill)
    assert np.array_equal(masks.decode(masks.encode(mask)), mask)
    assert masks.decode(masks.encode(mask)).dtype == bool


def test_a_stored_mask_is_a_grey_png_of_one_bit():
    png = masks.encode(noise(224))
    columns, rows, bits, colour_type = struct.unpack(">IIBB", png[16:26])
    assert (columns, rows, bits, colour_type) == (224, 224, 1, 0)


def test_any_viewer_shows_a_stored_mask_white_on_black():
    assert set(np.unique(radiographs.decode(masks.encode(noise(64)), "voi").pixels)) == {0, 255}


def test_a_mask_is_put_on_the_grid_of_its_image():
    original = np.zeros((301, 203), bool)
    original[60:200, 30:160] = True
    stored = masks.decode(masks.encode(letterbox.prepare_mask(original, 128)))
    found = masks.on_image(stored, 301, 203)
    assert found.shape == original.shape
    assert 2 * (found & original).sum() / (found.sum() + original.sum()) > 0.98


# --- Fractions ---


def two_lungs(rows: int, columns: int) -> np.ndarray:
    """On the left of the image a tenth of its area, on the right a fifth."""
    mask = np.zeros((rows, columns), bool)
    mask[: rows // 2, : columns // 5] = True
    mask[: rows // 2, -2 * columns // 5 :] = True
    return mask


def test_the_left_lung_is_the_one_on_the_right_of_the_image():
    found = masks.lung_fractions(two_lungs(100, 100), 100, 100)
    assert (found.lung, found.left, found.right) == pytest.approx((0.3, 0.2, 0.1))


@pytest.mark.parametrize(("rows_px", "columns_px"), [(1000, 1000), (1000, 600), (600, 1000), (3001, 1503)])
def test_padding_is_no_part_of_the_image(rows_px, columns_px):
    square = letterbox.prepare_mask(two_lungs(rows_px, columns_px), 200)
    found = masks.lung_fractions(square, rows_px, columns_px)
    assert (found.lung, found.left, found.right) == pytest.approx((0.3, 0.2, 0.1), abs=0.01)


def test_what_a_network_paints_on_the_padding_does_not_count():
    square = np.ones((200, 200), bool)
    assert masks.lung_fractions(square, 1000, 500).lung == 1.0


def test_the_sides_add_up():
    found = masks.lung_fractions(noise(64), 640, 400)
    assert found.left + found.right == pytest.approx(found.lung)


def test_no_lung_at_all_covers_nothing():
    assert masks.lung_fractions(np.zeros((64, 64), bool), 640, 400) == (0.0, 0.0, 0.0)


def test_the_left_masks_of_the_real_set_lie_on_the_right(real_data: Path):
    folder = real_data / "montgomery" / "ManualMask"
    for left in sorted((folder / "leftMask").iterdir())[:12]:
        columns = [
            np.nonzero(radiographs.decode_mask((folder / side / left.name).read_bytes()))[1].mean()
            for side in ("leftMask", "rightMask")
        ]
        assert columns[0] > columns[1], left.name

"""A radiograph fits into its square as the contract says, and a mask finds the way back."""

import base64
import hashlib
import random
import struct
import zlib

import cv2
import numpy as np
import pytest
from builders import png, radiograph
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrpipe.images import letterbox
from cxrpipe.images.letterbox import Letterbox, Preparation
from cxrpipe.images.radiographs import Radiograph
from cxrpipe.images.squares import decode_view

sides = st.integers(1, 2000)


# --- Where the image lies ---


@pytest.mark.parametrize(
    ("rows_px", "columns_px", "side_px", "expected"),
    [
        (1024, 1024, 224, Letterbox(224, 0, 0, 224, 224)),
        (512, 512, 512, Letterbox(512, 0, 0, 512, 512)),
        (3000, 2000, 512, Letterbox(512, 0, 85, 512, 341)),  # 341.33; (512 - 341) / 2 = 85.5
        (2000, 3000, 512, Letterbox(512, 85, 0, 341, 512)),
        (20, 31, 224, Letterbox(224, 39, 0, 145, 224)),  # 144.52
        (4000, 16, 64, Letterbox(64, 0, 31, 64, 1)),  # 0.26, and at least 1
        (16, 4000, 64, Letterbox(64, 31, 0, 1, 64)),
        (1, 1, 32, Letterbox(32, 0, 0, 32, 32)),
    ],
)
def test_the_letterbox_of_the_contract(rows_px, columns_px, side_px, expected):
    assert Letterbox.of(rows_px, columns_px, side_px) == expected


@given(sides, sides, st.integers(1, 600))
def test_the_longer_side_is_full_and_the_aspect_is_kept(rows_px, columns_px, side_px):
    box = Letterbox.of(rows_px, columns_px, side_px)
    assert max(box.rows, box.columns) == side_px
    assert min(box.rows, box.columns) >= 1
    exact = side_px * min(rows_px, columns_px) / max(rows_px, columns_px)
    assert abs(min(box.rows, box.columns) - max(1, exact)) < 0.501


@given(sides, sides, st.integers(1, 600))
def test_the_image_lies_in_the_middle_of_its_square(rows_px, columns_px, side_px):
    box = Letterbox.of(rows_px, columns_px, side_px)
    below, right = side_px - box.top - box.rows, side_px - box.left - box.columns
    assert below - box.top in (0, 1)
    assert right - box.left in (0, 1)


@settings(deadline=None, max_examples=40)
@given(st.integers(16, 300), st.integers(16, 300), st.integers(8, 128))
def test_around_the_image_all_is_black(rows_px, columns_px, side_px):
    square = letterbox.prepare(Radiograph(np.full((rows_px, columns_px), 200, np.uint8)), side_px)
    inside = Letterbox.of(rows_px, columns_px, side_px).inside
    assert (square[inside] == 200).all()
    square[inside] = 0
    assert not square.any()


def test_prepared_pixels_are_a_square_of_uint8():
    square = letterbox.prepare(Radiograph(radiograph(rows=61, columns=47)), 32)
    assert (square.shape, square.dtype) == ((32, 32), np.uint8)


def test_an_image_of_the_right_size_is_left_alone():
    pixels = radiograph(rows=64, columns=64)
    assert np.array_equal(letterbox.prepare(Radiograph(pixels), 64), pixels)


def test_shrinking_averages_areas():
    pixels = radiograph(rows=64, columns=64)
    means = pixels.reshape(16, 4, 16, 4).mean(axis=(1, 3))
    assert np.abs(letterbox.prepare(Radiograph(pixels), 16) - means).max() <= 0.51


def test_growing_is_linear():
    ramp = np.tile(np.arange(0, 160, 10, dtype=np.uint8), (16, 1))
    grown = letterbox.prepare(Radiograph(ramp), 64)[0].astype(int)
    steps = np.diff(grown[2:-2])
    assert set(steps) <= {2, 3}


# --- The way back ---


def blobs(rows_px: int, columns_px: int, seed: int) -> np.ndarray:
    """(H, W) bool: two ellipses somewhere, each a quarter to half as long as the image."""
    draw = random.Random(seed)
    mask = np.zeros((rows_px, columns_px), np.uint8)
    for _ in range(2):
        centre = draw.randrange(columns_px), draw.randrange(rows_px)
        axes = [int(draw.uniform(0.25, 0.5) * side) for side in (columns_px, rows_px)]
        cv2.ellipse(mask, centre, axes, draw.uniform(0, 180), 0, 360, 1, -1)
    return mask > 0


@settings(deadline=None, max_examples=60)
@given(st.integers(150, 900), st.integers(150, 900), st.integers(0, 10**6))
def test_a_mask_comes_back_as_it_went(rows_px, columns_px, seed):
    mask = blobs(rows_px, columns_px, seed)
    square = letterbox.prepare_mask(mask, 256)
    back = Letterbox.of(rows_px, columns_px, 256).undo(square, rows_px, columns_px)
    assert back.shape == mask.shape
    assert 2 * (back & mask).sum() / (back.sum() + mask.sum()) > 0.98


def test_a_mask_is_not_moved_on_its_way():
    mask = np.zeros((301, 203), bool)
    mask[10:150, 20:90] = True
    back = Letterbox.of(301, 203, 128).undo(letterbox.prepare_mask(mask, 128), 301, 203)
    for axis in (0, 1):
        assert abs(np.nonzero(back)[axis].mean() - np.nonzero(mask)[axis].mean()) < 0.7


def test_the_way_back_favours_no_side():
    """INTER_NEAREST would shift by half a pixel."""
    square = blobs(63, 63, 3)
    box = Letterbox.of(301, 301, 63)
    assert np.array_equal(box.undo(square[:, ::-1], 301, 301), box.undo(square, 301, 301)[:, ::-1])
    assert np.array_equal(box.undo(square[::-1], 301, 301), box.undo(square, 301, 301)[::-1])


def test_a_mask_and_its_image_meet_in_the_same_frame():
    pixels = np.where(blobs(333, 241, 7), 255, 0).astype(np.uint8)
    square = letterbox.prepare(Radiograph(pixels), 96)
    assert np.array_equal(letterbox.prepare_mask(pixels > 0, 96), square >= 128)


def test_a_mask_of_all_is_all_of_the_inside():
    box = Letterbox.of(300, 200, 64)
    square = letterbox.prepare_mask(np.ones((300, 200), bool), 64)
    assert square[box.inside].all()
    assert square.sum() == box.rows * box.columns


# --- Golden pixels ---

_JPEG = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABALDA4MChAODQ4SERATGCgaGBYWGDEjJR0oOjM9PDkzODdASFxOQERXRTc4UG1RV19iZ2hnPk1x"
    "eXBkeFxlZ2P/wAALCAAsACQBAREA/8QAGQAAAwEBAQAAAAAAAAAAAAAAAwUGAQIE/8QAHhAAAgMBAQEBAQEAAAAAAAAAAQIAAxEEBSETEjH/"
    "2gAIAQEAAD8AYdPGKl3Ih6+s0sQDM5ew2sATHvLxi5QSIV+ABsyej0LVas5Iz0q2aw5OfOqZbBss/OtVaxsPbcpeTi9/7fNhV4v3+5Nbh/H7"
    "kC3d+HzZg9L+vuxN5zMbBstvMVTWNnXpKorOSJ9JmFhyAqZ/4jenhNLbkaUdgoGbNu7RcM2K7+I3HcnC+cVGZKLsqRUOCTHdYyucM54rXZxp"
    "lPxVqyDRDWUoG/yf/9k="
)


def pattern(rows: int, columns: int) -> np.ndarray:
    """(rows, columns) uint8: waves made of whole numbers only, the same on every machine."""
    y, x = np.mgrid[:rows, :columns]
    return ((y * y // 7 + x * 5 + (x * y) // 11) % 256).astype(np.uint8)


def rgba() -> np.ndarray:
    grey = pattern(70, 90)
    return np.dstack([grey, grey, grey, np.where(grey > 40, 255, 128).astype(np.uint8)])


def palette() -> bytes:
    """24 x 20 pixels of four colours."""
    lines = b"".join(b"\0" + bytes((x + y) % 4 for x in range(20)) for y in range(24))
    parts = {
        b"IHDR": struct.pack(">IIBBBBB", 20, 24, 8, 3, 0, 0, 0),
        b"PLTE": bytes([0, 0, 0, 255, 0, 0, 10, 200, 90, 250, 250, 250]),
        b"IDAT": zlib.compress(lines),
        b"IEND": b"",
    }
    chunks = (struct.pack(">I", len(v)) + k + v + struct.pack(">I", zlib.crc32(k + v)) for k, v in parts.items())
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


GOLDEN = {
    "8 bits, shrunk": (png(pattern(300, 200)), 64, "075fffdca5f5c66a"),
    "8 bits, grown": (png(pattern(40, 56)), 128, "4fd541dbce63fc22"),
    "8 bits, as it is": (png(pattern(64, 64)), 64, "1117428c77eac6e7"),
    "16 bits": (png(pattern(90, 120) * np.uint16(251) + np.uint16(99)), 64, "5567e8eecb890615"),
    "colour": (
        png(np.dstack([pattern(80, 70), pattern(80, 70)[::-1], pattern(80, 70)[:, ::-1]])),
        48,
        "084cff60b0ebdb07",
    ),
    "transparent in parts": (png(rgba()), 48, "3ace7770e2b63f33"),
    "palette": (palette(), 32, "a72a6598f9fa1562"),
    "jpeg": (_JPEG, 32, "af90f4f84fa67c5c"),
    "jpeg, at reduced scale": (_JPEG, 8, "9e9ec39b72f63e3e"),
    "narrow": (png(pattern(400, 16)), 32, "8f7408d6a6fe1955"),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_prepared_pixels_change_only_with_the_preparation_version(name):
    """When this fails, scores change too: raise PREPARATION_VERSION and take the new hashes."""
    data, side_px, expected = GOLDEN[name]
    wanted = Preparation("voi", side_px)
    square = decode_view(data, name, [wanted]).squares[wanted]
    assert (letterbox.PREPARATION_VERSION, hashlib.sha256(square).hexdigest()[:16]) == (3, expected)

"""A radiograph fits into its square as the contract says, and a mask finds the way back."""

import base64
import functools
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

from cxrpipe.archives import phantom
from cxrpipe.images import fits, letterbox
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


@pytest.mark.parametrize(("side_px", "rounded"), [(48, 1), (32, 1), (16, 2), (12, 3), (4, 3)])
def test_shrinking_averages_areas(side_px, rounded):
    """Each halving rounds, and so does the rest: at most half a grey level."""
    pixels = radiograph(rows=96, columns=96)
    square = letterbox.prepare(Radiograph(pixels), side_px)
    assert np.abs(square - area_means(pixels, side_px, side_px)).max() <= 0.5 * rounded + 0.01


@functools.cache
def drawn() -> np.ndarray:
    return phantom.radiograph(np.random.default_rng(5), side_px=1024).pixels


def area_means(pixels: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """(H, W) → (rows, columns) float: exact means over areas."""

    def weights(length: int, parts: int) -> np.ndarray:
        edges = np.linspace(0, length, parts + 1)
        starts, ends = edges[:-1, None], edges[1:, None]
        places = np.arange(length)
        return np.clip(np.minimum(ends, places + 1) - np.maximum(starts, places), 0, 1) * parts / length

    return weights(pixels.shape[0], rows) @ pixels.astype(float) @ weights(pixels.shape[1], columns).T


@pytest.mark.parametrize(("rows_px", "columns_px"), [(1024, 1024), (1023, 1021), (901, 1024)])
def test_a_film_differs_from_its_exact_area_means_by_less_than_a_grey_level_on_average(rows_px, columns_px):
    film = drawn()[:rows_px, :columns_px]
    for side_px in (64, 224, 256):
        square = letterbox.prepare(Radiograph(film), side_px)
        box = Letterbox.of(rows_px, columns_px, side_px)
        difference = square[box.inside] - area_means(film, box.rows, box.columns)
        assert np.abs(difference).mean() < 0.6
        assert abs(difference.mean()) < 0.4


@pytest.mark.parametrize("rows_px", [1024, 1023, 1025, 1027])
def test_halving_moves_nothing(rows_px):
    """A ramp keeps its slope from end to end, also where an odd number of rows is halved twice."""
    noise = np.random.default_rng(0).uniform(-20, 20, (rows_px, 1024))  # so that roundings cancel
    ramp = (np.linspace(20, 235, rows_px)[:, None] + noise).round().astype(np.uint8)
    box = Letterbox.of(rows_px, 1024, 96)
    difference = letterbox.prepare(Radiograph(ramp), 96)[box.inside] - area_means(ramp, box.rows, box.columns)
    assert abs(difference[-9:].mean() - difference[:9].mean()) < 0.1  # a shift by half a pixel at one end would be 1.1


@pytest.mark.parametrize("side_px", [96, 224])
def test_what_is_finer_than_the_square_comes_back_coarse_no_more_than_from_exact_area_means(side_px):
    """Aliasing: waves of every length that is shorter than two pixels of the square."""
    found, exact = [], []
    for waves in np.linspace(side_px / 2 + 1, 500, 60):
        wave = 127.5 + 120 * np.sin(np.linspace(0, 2 * np.pi * waves, 1000))
        pixels = np.tile(wave.round().astype(np.uint8), (1000, 1))
        found.append(letterbox.prepare(Radiograph(pixels), side_px)[0].std())
        exact.append(area_means(pixels[:1], 1, side_px).std())
    assert max(found) <= max(exact)
    assert np.mean(found) <= np.mean(exact)


def test_a_square_does_not_depend_on_the_squares_that_are_prepared_with_it():
    film = Radiograph(radiograph(rows=401, columns=333))
    for preparation, square in fits.fitted(
        film, [Preparation("voi", side_px) for side_px in (64, 30, 200, 48)]
    ).items():
        assert np.array_equal(square, letterbox.prepare(film, preparation.side_px))


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
    "8 bits, shrunk": (png(pattern(300, 200)), 64, "e031e1e0acbeaf1e"),
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
    "narrow": (png(pattern(400, 16)), 32, "2607fd096bccb3a7"),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_prepared_pixels_change_only_with_the_preparation_version(name):
    """When this fails, scores change too: raise PREPARATION_VERSION and take the new hashes."""
    data, side_px, expected = GOLDEN[name]
    wanted = Preparation("voi", side_px)
    square = decode_view(data, name, [wanted]).squares[wanted]
    assert (letterbox.PREPARATION_VERSION, hashlib.sha256(square).hexdigest()[:16]) == (4, expected)

"""A view becomes the square that the model's own library makes of it, and a mask of the square finds its way back."""

import io
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.io
import torchxrayvision as xrv
from builders import jpeg, png, radiograph
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from cxrpipe.archives.index import index
from cxrpipe.archives.reader import Reader
from cxrpipe.errors import StudyError
from cxrpipe.images import fits, letterbox, radiographs
from cxrpipe.images.fits import Frame, in_letterbox
from cxrpipe.images.isolation import Isolated
from cxrpipe.images.letterbox import FITS, RESIZERS, Preparation
from cxrpipe.images.radiographs import Radiograph
from cxrpipe.images.squares import decode_view, least_size
from cxrpipe.records.study_table import StudyTable

SIZES = [(301, 200), (200, 301), (257, 257), (96, 97), (64, 64), (50, 40), (401, 63)]
"""Portrait, landscape, square, odd, smaller than the square of 64 px, and of the very size."""


def square(pixels: np.ndarray, fit: str, resize: str = "area", side_px: int = 64, fraction: float = 1.0) -> np.ndarray:
    preparation = Preparation("voi", side_px, fit, fraction, resize)
    return fits.fitted(Radiograph(pixels), [preparation])[preparation]


def film(rows: int, columns: int) -> np.ndarray:
    """Smooth, with detail: noise alone would be grey once it is resized."""
    coarse = cv2.resize(radiograph(rows=12, columns=9), (columns, rows), interpolation=cv2.INTER_CUBIC)
    return cv2.addWeighted(coarse, 0.7, radiograph(1, rows, columns), 0.3, 0)


# ---- as the libraries do --------------------------------------------------------------------------------------


def as_xrv(pixels: np.ndarray, side_px: int, engine: str = "skimage") -> np.ndarray:
    """torchxrayvision's own way from 8 bits to a square, brought back to 0..255."""
    whole = xrv.utils.normalize(pixels, 255)
    whole = whole[..., 0] if whole.ndim == 3 else whole
    resized = xrv.datasets.XRayResizer(side_px, engine=engine)(xrv.datasets.XRayCenterCrop()(whole[None]))[0]
    return (resized / 1024 + 1) / 2 * 255


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("engine", "resize"), [("skimage", "skimage"), ("cv2", "area")])
def test_a_center_crop_is_that_of_torchxrayvision(size, engine, resize):
    pixels = film(*size)
    if engine == "cv2" and min(size) < 64:
        return  # theirs grows by repeating pixels, ours is linear
    assert np.abs(square(pixels, "center-crop", resize) - as_xrv(pixels, 64, engine)).max() <= 0.501


def nih_films(real_data: Path, folder: Path) -> Iterator[bytes]:
    index(str(real_data / "nih"), str(folder / "studies.parquet"))
    table = StudyTable(str(folder / "studies.parquet"))
    with Reader(table.seek_points) as reader:
        for study in table.studies():
            yield from (reader.read(view) for view in study.views)


@pytest.mark.slow  # 10 s of skimage
def test_real_films_are_those_of_torchxrayvision_to_the_rounding_of_8_bits(real_data: Path, tmp_path: Path):
    """220 films, whole and cut to an odd size, since all of NIH is square. Measured: 0.50 at most, 0.25 on average."""
    whole, cut, of_letterbox, of_area = [], [], [], []
    for number, data in enumerate(nih_films(real_data, tmp_path)):
        theirs = skimage.io.imread(io.BytesIO(data))
        exact = Preparation("voi", 224, "center-crop", resize="skimage")
        ours = decode_view(data, "film", [exact]).squares[exact]
        whole.append(np.abs(ours - as_xrv(theirs, 224)))
        if number % 10 == 0:
            part = radiographs.decode(data, "voi").pixels[: 1023 - number // 10, : 601 + number]
            expected = as_xrv(part, 224)
            cut.append(np.abs(square(part, "center-crop", "skimage", 224) - expected))
            of_letterbox.append(np.abs(square(part, "letterbox", "skimage", 224) - expected))
            of_area.append(np.abs(square(part, "center-crop", "area", 224) - expected))
    assert len(whole) == 220
    for differences in (whole, cut):
        assert np.max(differences) <= 0.501  # in grey levels of 255: rounding alone
        assert np.mean(differences) < 0.25
    assert min(np.max(difference) for difference in of_letterbox) > 50
    assert min(np.max(difference) for difference in of_area) > 3


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("resize", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("edge_px", [73, 65])
def test_a_smaller_crop_is_that_of_torchvision_and_timm(size, resize, edge_px):
    pixels = film(*size)
    steps = Compose([Resize(edge_px, InterpolationMode(resize)), CenterCrop(64)])
    assert np.array_equal(square(pixels, "center-crop", resize, fraction=64 / edge_px), steps(Image.fromarray(pixels)))


@pytest.mark.parametrize("size", SIZES)
def test_a_squash_is_a_plain_resize(size):
    pixels = film(*size)
    expected = Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC)
    assert np.array_equal(square(pixels, "squash", "bicubic"), expected)


def test_every_fit_with_every_resizer_gives_a_square_of_its_own():
    pixels = film(301, 200)
    made = [square(pixels, fit, resize) for fit in FITS for resize in RESIZERS]
    assert {(each.shape, str(each.dtype)) for each in made} == {((64, 64), "uint8")}
    assert len({each.tobytes() for each in made}) == len(FITS) * len(RESIZERS)


@pytest.mark.parametrize("resize", RESIZERS)
def test_a_flat_film_stays_flat_inside_its_frame(resize):
    """A rim would tell that a resizer sees what is not there. That of skimage is grey, as its library has it."""
    for fit in FITS:
        made = square(np.full((301, 200), 128, np.uint8), fit, resize)
        inside = made[Frame.of(301, 200, Preparation("voi", 64, fit)).inside]
        assert (inside == 128).all()


def test_a_strip_that_would_fill_the_memory_is_refused():
    strip = np.zeros((16, 200_000), np.uint8)
    assert square(strip, "center-crop", "bicubic").shape == (64, 64)
    with pytest.raises(StudyError, match="which is 248x3100000 before its middle") as refused:
        square(strip, "center-crop", "bicubic", side_px=224, fraction=224 / 248)
    assert refused.value.reason == "too_large"


# ---- pixels that a fit needs ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preparation", "rows", "columns", "at_a_quarter"),
    [
        (Preparation("voi", 64), 512, 100, True),
        (Preparation("voi", 64, "center-crop"), 512, 500, False),
        (Preparation("voi", 64, "center-crop"), 700, 512, True),
        (Preparation("voi", 64, "center-crop", 0.875), 700, 512, False),
        (Preparation("voi", 64, "squash"), 700, 500, False),
    ],
)
def test_a_jpeg_at_reduced_scale_keeps_the_side_that_its_fit_needs(preparation, rows, columns, at_a_quarter):
    at_least = least_size([preparation])
    pixels = radiographs.decode(jpeg(film(rows, columns)), "voi", at_least=at_least).pixels
    assert (pixels.shape[0] <= rows // 4) == at_a_quarter


def test_a_crop_of_a_reduced_jpeg_is_that_of_the_whole():
    data = jpeg(cv2.GaussianBlur(film(1003, 517), (0, 0), 3))
    preparation = Preparation("voi", 64, "center-crop")
    reduced = decode_view(data, "film", [preparation]).squares[preparation].astype(int)
    pixels = radiographs.decode(data, "voi").pixels
    whole, moved = (square(each, "center-crop").astype(int) for each in (pixels, np.roll(pixels, 8, axis=0)))
    assert np.abs(reduced - whole).mean() < 0.4 * np.abs(moved - whole).mean()  # 8 px are one of the square


def test_resizers_of_others_see_every_pixel():
    assert least_size([Preparation("voi", 64), Preparation("voi", 64, "squash", resize="bicubic")]) is None


def test_one_view_gives_the_squares_of_all_fits_at_once():
    wanted = [Preparation("voi", 64, fit, 1.0, resize) for fit in FITS for resize in RESIZERS]
    pixels = film(301, 200)
    squares = decode_view(png(pixels), "film", wanted).squares
    for preparation in wanted:
        assert np.array_equal(squares[preparation], square(pixels, preparation.fit, preparation.resize))
    whole = Preparation("voi", 64)
    assert np.array_equal(squares[whole], letterbox.prepare(Radiograph(pixels), 64))


# ---- the way back ---------------------------------------------------------------------------------------------

FRAMES = [
    Preparation("voi", 96, "center-crop"),
    Preparation("voi", 96, "center-crop", 0.8),
    Preparation("voi", 96, "squash"),
]


def spot(rows: int, columns: int, down: float, right: float) -> np.ndarray:
    """A bright disc whose centre lies at fractions of the view."""
    pixels = np.zeros((rows, columns), np.uint8)
    cv2.circle(pixels, (round(right * columns), round(down * rows)), min(rows, columns) // 12, 255, -1)
    return pixels


def centre(values: np.ndarray) -> np.ndarray:
    """(down, right) of the mean place, in fractions of the square."""
    places = np.mgrid[: len(values), : len(values)] + 0.5
    return (places * values).sum((1, 2)) / values.sum() / len(values)


@pytest.mark.parametrize("preparation", FRAMES)
@pytest.mark.parametrize("size", [(600, 400), (400, 600), (500, 500)])
@pytest.mark.parametrize(("down", "right"), [(0.5, 0.5), (0.4, 0.62), (0.6, 0.35)])
def test_a_spot_comes_back_to_its_place_in_the_letterbox(preparation, size, down, right):
    view = spot(*size, down, right)
    made = square(view, preparation.fit, side_px=96, fraction=preparation.crop_fraction)
    expected = centre(letterbox.prepare(Radiograph(view), 64))
    grid = cv2.resize(made, (24, 24), interpolation=cv2.INTER_AREA).astype(np.float32)
    for values in (made >= 128, made.astype(np.float32), grid):
        back = in_letterbox(values, preparation, *size, 64)
        assert back.shape == (64, 64)
        assert np.abs(centre(back) - expected).max() < 0.6 / 64  # of a pixel, 0.6


@settings(max_examples=40, deadline=None)
@given(st.integers(16, 500), st.integers(16, 500), st.sampled_from(FRAMES))
def test_nothing_lies_outside_of_what_the_square_shows(rows, columns, preparation):
    mask = in_letterbox(np.ones((96, 96), bool), preparation, rows, columns, 64)
    heat = in_letterbox(np.ones((7, 7), np.float32), preparation, rows, columns, 64)
    assert np.array_equal(mask, heat > 0)
    box = letterbox.Letterbox.of(rows, columns, 64)
    outside = np.ones_like(mask)
    outside[box.inside] = False
    assert not mask[outside].any()
    if preparation.fit == "squash":
        assert mask[box.inside].all()
    else:
        share = preparation.crop_fraction**2 * min(rows, columns) / max(rows, columns)
        assert mask.sum() == pytest.approx(share * box.rows * box.columns, abs=2.5 * 64)


def test_a_mask_of_training_lies_in_the_frame_of_its_pixels():
    view = spot(501, 400, 0.45, 0.55)
    for preparation in (*FRAMES, Preparation("voi", 96)):
        pixels = fits.fitted(Radiograph(view), [preparation])[preparation]
        assert np.array_equal(fits.fitted_mask(view > 0, preparation), pixels >= 128)


def test_every_resizer_works_behind_the_wall_of_a_decoder():
    """Libraries that are imported only now must be readable there."""
    wanted = [Preparation("voi", 64, "center-crop", resize=resize) for resize in RESIZERS]
    data = png(film(301, 200))
    with Isolated(decode_view, timeout_s=30) as isolated:
        squares = isolated(data, "film", wanted).squares
    for preparation, expected in decode_view(data, "film", wanted).squares.items():
        assert np.array_equal(squares[preparation], expected), preparation.resize

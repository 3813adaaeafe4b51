"""Values of a mask are labels where they are few, and brightness where they are many; what is neither is refused."""

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from builders import png, radiograph
from PIL import Image

from cxrpipe.errors import StudyError
from cxrpipe.images import radiographs

LEFT, RIGHT, HEART = (np.zeros((128, 128), np.uint8) for _ in range(3))
cv2.ellipse(LEFT, (36, 60), (20, 42), 0, 0, 360, 1, -1)
cv2.ellipse(RIGHT, (92, 60), (20, 42), 0, 0, 360, 1, -1)
cv2.ellipse(HEART, (64, 84), (10, 12), 0, 0, 360, 1, -1)
LUNGS = (LEFT | RIGHT) > 0


def labelled(left: int, right: int, other: int = 0, dtype: type = np.uint8) -> np.ndarray:
    return (LEFT.astype(dtype) * left + RIGHT.astype(dtype) * right + (HEART * ~LUNGS).astype(dtype) * other).astype(
        dtype
    )


def saved(image: Image.Image, form: str = "PNG", **settings: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **settings)
    return file.getvalue()


def colours(left: tuple[int, int, int], right: tuple[int, int, int]) -> np.ndarray:
    """(H, W, 3) red, green, blue on black."""
    return LEFT[..., None] * np.array(left, np.uint8) + RIGHT[..., None] * np.array(right, np.uint8)


@pytest.mark.parametrize(
    ("left", "right", "dtype"),
    [
        *((left, right, np.uint8) for left, right in ((1, 2), (127, 255), (255, 127), (1, 1), (255, 255), (85, 170))),
        *((left, right, np.uint16) for left, right in ((1, 2), (1, 1), (32767, 65535), (1, 65535), (65535, 65535))),
    ],
)
def test_one_or_two_labels_are_the_lungs_whatever_their_values(left, right, dtype):
    assert np.array_equal(radiographs.decode_mask(png(labelled(left, right, dtype=dtype))), LUNGS)


@pytest.mark.parametrize(
    ("left", "right"), [((255, 0, 0), (0, 255, 0)), ((128, 0, 0), (0, 128, 0)), ((255, 255, 255), (0, 0, 255))]
)
@pytest.mark.parametrize("palette", [False, True])
def test_two_colours_on_black_are_the_lungs(left, right, palette):
    image = Image.fromarray(colours(left, right))
    image = image.quantize(3, dither=Image.Dither.NONE) if palette else image
    assert np.array_equal(radiographs.decode_mask(saved(image)), LUNGS)


def test_the_labels_of_a_palette_are_known_by_their_colours():
    """The colours of Pascal VOC: label 1 is dark red, 2 dark green, and no brightness says which is lung."""
    image = Image.fromarray(labelled(1, 2)).convert("P")
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    assert np.array_equal(radiographs.decode_mask(saved(image)), LUNGS)


def test_colours_that_jpeg_has_blurred_are_the_lungs_still():
    found = radiographs.decode_mask(saved(Image.fromarray(colours((255, 0, 0), (0, 255, 0))), "JPEG", quality=90))
    assert (found != LUNGS).mean() < 0.02


@pytest.mark.parametrize("quality", [60, 75, 95])
def test_a_jpeg_of_a_mask_ends_at_half(quality):
    found = radiographs.decode_mask(saved(Image.fromarray(labelled(255, 255)), "JPEG", quality=quality))
    assert (found != LUNGS).mean() < 0.005


@pytest.mark.parametrize("side", [48, 64, 96, 200, 512])
@pytest.mark.parametrize("how", [cv2.INTER_LINEAR, cv2.INTER_AREA, cv2.INTER_CUBIC])
def test_soft_edges_end_at_half_at_any_scale(side, how):
    soft = cv2.resize(labelled(255, 255), (side, side), interpolation=how)
    assert np.array_equal(radiographs.decode_mask(png(soft)), soft > soft.max() // 2)


@pytest.mark.parametrize(
    "values",
    [
        labelled(1, 2, 3),
        labelled(85, 170, 255),
        labelled(2, 3, 1),
        labelled(50, 100, 150),
        labelled(1, 2, 255),
        np.where(LUNGS, labelled(2, 3), 1).astype(np.uint8),  # no background
        radiograph(rows=128, columns=128),
        np.tile(np.arange(128, dtype=np.uint8), (128, 1)),
    ],
    ids=["three", "spread", "heart first", "grey", "void", "no zero", "a photograph", "a ramp"],
)
def test_more_labels_than_two_are_refused_with_what_was_found(values):
    with pytest.raises(
        StudyError, match=r"study 7: a mask with \d+ grey values \(.*expected 0 and one or two"
    ) as refused:
        radiographs.decode_mask(png(values), "study 7")
    assert f"({int(values.min())}, " in refused.value.detail


def test_more_colours_than_two_are_refused_with_what_was_found():
    drawn = colours((255, 0, 0), (0, 255, 0)) + (HEART * ~LUNGS)[..., None] * np.array((0, 0, 255), np.uint8)
    with pytest.raises(StudyError, match=r"a mask with 4 colours .#000000, #0000ff, #00ff00, #ff0000"):
        radiographs.decode_mask(saved(Image.fromarray(drawn)))
    with pytest.raises(StudyError, match="colours"):
        radiographs.decode_mask(saved(Image.fromarray(drawn), "JPEG", quality=90))


def test_a_picture_in_colour_is_no_mask():
    photograph = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    with pytest.raises(StudyError, match="colours"):
        radiographs.decode_mask(saved(Image.fromarray(photograph)))


@pytest.mark.parametrize("colour", [(255, 255, 255), (0, 0, 0), (255, 0, 0)])
def test_alpha_is_the_mask_where_all_pixels_have_one_colour(colour):
    image = np.dstack([np.full((128, 128, 3), colour, np.uint8), np.where(LUNGS, 255, 0).astype(np.uint8)])
    assert np.array_equal(radiographs.decode_mask(saved(Image.fromarray(image))), LUNGS)


def test_what_is_transparent_is_background():
    image = np.dstack([np.where(LUNGS[..., None], 200, 90).repeat(3, -1), np.where(LUNGS, 255, 0)]).astype(np.uint8)
    assert np.array_equal(radiographs.decode_mask(saved(Image.fromarray(image))), LUNGS)


def test_an_opaque_alpha_changes_nothing():
    grey = labelled(1, 2)
    image = np.dstack([grey, grey, grey, np.full_like(grey, 255)])
    assert np.array_equal(radiographs.decode_mask(saved(Image.fromarray(image))), LUNGS)


@pytest.mark.parametrize("form", ["TIFF", "BMP"])
def test_labels_are_read_from_any_format(form):
    assert np.array_equal(radiographs.decode_mask(saved(Image.fromarray(labelled(1, 2)), form)), LUNGS)


def test_a_mask_that_is_black_or_white_all_over_is_what_it_says():
    assert not radiographs.decode_mask(png(np.zeros((40, 30), np.uint8))).any()
    assert radiographs.decode_mask(png(np.full((40, 30), 255, np.uint8))).all()


def test_the_labelled_masks_of_the_field_hold_both_lungs(real_data: Path):
    folder = real_data / "field" / "masks_labelled_1_and_2"
    if not folder.exists():
        pytest.skip("real data not found")
    assert [radiographs.decode_mask((folder / name).read_bytes()).sum() for name in ("m0.png", "m1.png")] == [
        6020,
        6020,
    ]

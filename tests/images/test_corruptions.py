"""Corruptions: what every one of them keeps, and that a higher grade goes further."""

import cv2
import numpy as np
import pytest

from cxrpipe.images.corruptions import CLEAN, COPIES, GRADES, MEANINGS, Copy, corrupt, corrupt_mask

MOVES = ("crop", "rotation")


def film(rows: int = 120, columns: int = 100, seed: int = 0) -> np.ndarray:
    """A smooth image with an edge, as a film has; it uses most grey levels and none at the ends."""
    rng = np.random.default_rng(seed)
    smooth = cv2.resize(rng.uniform(60, 190, (8, 8)).astype(np.float32), (columns, rows), interpolation=cv2.INTER_CUBIC)
    smooth[rows // 3 : rows // 2] += 30
    return np.clip(smooth, 20, 235).astype(np.uint8)


def change(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.abs(first.astype(float) - second).mean())


@pytest.mark.parametrize("copy", COPIES, ids=str)
@pytest.mark.parametrize("shape", [(120, 100), (28, 28), (1, 300)])
def test_a_copy_has_the_grid_of_the_original_and_leaves_it_as_it_is(copy: Copy, shape: tuple[int, int]):
    pixels = film(*shape)
    before = pixels.copy()
    copied = corrupt(pixels, copy, "a")
    assert (copied.shape, copied.dtype) == (shape, np.uint8)
    assert np.array_equal(pixels, before)


def test_there_are_seven_corruptions_of_three_grades_and_the_clean_copy():
    assert len(MEANINGS) == 7
    assert len(COPIES) == 22
    assert COPIES[0] == CLEAN
    assert corrupt(film(), CLEAN, "a").tolist() == film().tolist()


@pytest.mark.parametrize("corruption", MEANINGS)
def test_a_higher_grade_changes_more(corruption: str):
    for seed in "abcd":
        pixels = film(400, 320)
        changes = [change(pixels, corrupt(pixels, Copy(corruption, grade), seed)) for grade in GRADES]
        assert 0.02 < changes[0] < changes[1] < changes[2]


@pytest.mark.parametrize("corruption", MEANINGS)
def test_the_same_view_gets_the_same_copy_and_another_seed_another_one(corruption: str):
    copies = [corrupt(film(), Copy(corruption, 2), seed) for seed in ["a", "a", *"bcdefghij"]]
    assert np.array_equal(copies[0], copies[1])
    others = sum(not np.array_equal(copies[0], other) for other in copies[2:])
    assert (others > 0) == (corruption not in ("blur", "resolution"))


@pytest.mark.parametrize("corruption", ["exposure", "contrast", "rotation"])
def test_both_directions_come_about_equally_often(corruption: str):
    copies = {corrupt(film(), Copy(corruption, 3), str(seed)).tobytes() for seed in range(40)}
    assert len(copies) == 2
    first = [corrupt(film(), Copy(corruption, 3), str(seed)).tobytes() == min(copies) for seed in range(40)]
    assert 10 <= sum(first) <= 30


@pytest.mark.parametrize("corruption", MEANINGS)
def test_a_mask_moves_with_its_radiograph(corruption: str):
    mask = np.zeros((120, 100), bool)
    mask[30:80, 20:60] = True
    for seed in "abc":
        copy = Copy(corruption, 3)
        moved = corrupt_mask(mask, copy, seed)
        assert np.array_equal(moved, mask) == (corruption not in MOVES)
        if corruption in MOVES:
            assert np.array_equal(moved, corrupt(mask.astype(np.uint8) * 255, copy, seed) >= 128)


def test_exposure_is_a_gamma_and_contrast_keeps_the_mean():
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    exposed = {corrupt(pixels, Copy("exposure", 2), seed)[4, 0] for seed in "abcdefgh"}
    assert exposed == {round(255 * (64 / 255) ** 1.7), round(255 * (64 / 255) ** (1 / 1.7))}
    weaker = min((corrupt(pixels, Copy("contrast", 2), seed) for seed in "abcdefgh"), key=np.std)
    assert weaker.std() == pytest.approx(pixels.std() / 2, rel=0.01)
    assert weaker.mean() == pytest.approx(pixels.mean(), abs=0.5)


def test_noise_has_the_strength_that_it_says_at_any_size():
    for side in (100, 1024):
        grey = np.full((side, side), 128, np.uint8)
        noisy = corrupt(grey, Copy("noise", 2), "a")
        assert noisy.std() / 255 == pytest.approx(0.05, rel=0.05)
    assert len(np.unique(cv2.resize(noisy, (512, 512), interpolation=cv2.INTER_AREA))) > 50


def test_a_rotation_turns_about_the_centre_and_shows_black_beyond_the_border():
    white = np.full((101, 101), 255, np.uint8)
    turned = corrupt(white, Copy("rotation", 3), "a")
    assert turned[0, 0] == turned[-1, -1] == 0
    assert turned[50, 50] == 255
    assert np.array_equal(turned, turned[::-1, ::-1])


def test_a_crop_enlarges_a_part_of_the_image():
    pixels = np.tile(np.arange(100, dtype=np.uint8), (100, 1))
    cropped = corrupt(pixels, Copy("crop", 3), "a")
    assert int(cropped[50].max()) - int(cropped[50].min()) == pytest.approx(0.8 * 99, abs=1.5)
    assert np.array_equal(cropped[0], cropped[99])


@pytest.mark.parametrize("corruption", ["blur", "resolution"])
def test_a_small_film_becomes_less_sharp_too(corruption: str):
    changes = [change(film(28, 28), corrupt(film(28, 28), Copy(corruption, grade), "a")) for grade in GRADES]
    assert 0.1 < changes[0] < changes[1] < changes[2]

"""What scanners, processing and storage do to a radiograph, at three grades: copies that test robustness.

A corruption is a pure function of the pixels, the grade and a seed, the SHA-256 of the view. The seed decides where
there is a choice: darker or brighter, to which side, which noise. The choice is the same at every grade, so a higher
grade goes further in the same direction. Sizes are fractions of the image: a film of 512 px and one of 3,000 px lose
the same. The pixels of a copy are on the grid of the original.
"""

import hashlib
import math
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

GRADES = (1, 2, 3)
_GAMMA = (1.3, 1.7, 2.4)
_CONTRAST = (1.4, 2.0, 3.0)
_NOISE = (0.02, 0.05, 0.10)
_GRAIN_PX = 512
_SIGMA = (0.004, 0.008, 0.016)
_LEAST_SIGMA_PX = (0.4, 0.8, 1.2)
"""So that a film of 28 px is blurred, too: 0.4% of it would be a tenth of a pixel, which changes nothing."""
_KEPT = (0.95, 0.88, 0.80)
_DEGREES = (3.0, 7.0, 15.0)
_LONGER_SIDE_PX = (256, 128, 64)
_OF_LONGER_SIDE = (3 / 4, 1 / 2, 1 / 3)


class Copy(NamedTuple):
    """A way to copy a radiograph: a name of `MEANINGS` and a grade, or `CLEAN`."""

    corruption: str
    grade: int


CLEAN = Copy("none", 0)
MEANINGS = {
    "exposure": "a gamma of 1.3, 1.7 or 2.4, darker or brighter",
    "contrast": "contrast about the mean times 1.4, 2 or 3, or divided by it",
    "noise": "Gaussian noise of 2, 5 or 10% of the range, in grains of 1/512 of the longer side",
    "blur": "a Gaussian blur of 0.4, 0.8 or 1.6% of the longer side, at least 0.4, 0.8 or 1.2 px",
    "crop": "95, 88 or 80% of both sides, enlarged to the whole",
    "rotation": "3, 7 or 15 degrees to one side, black from beyond the border",
    "resolution": "a longer side of 256, 128 or 64 px, or 3/4, 1/2 or 1/3 of itself where that is less",
}
"""Corruption → what its three grades are, for a person."""
COPIES = (CLEAN, *(Copy(corruption, grade) for corruption in MEANINGS for grade in GRADES))


def corrupt(pixels: np.ndarray, copy: Copy, seed: str) -> np.ndarray:
    """Corrupt a radiograph: (H, W) uint8 → (H, W) uint8."""
    if copy == CLEAN:
        return pixels
    rng = _choices(copy, seed)
    if copy.corruption in _MOVES:
        return _moved(pixels, _MOVES[copy.corruption](pixels.shape, copy.grade, rng), cv2.INTER_LINEAR)
    return _CHANGES[copy.corruption](pixels, copy.grade, rng)


def corrupt_mask(mask: np.ndarray, copy: Copy, seed: str) -> np.ndarray:
    """Move a mask as `corrupt` moves its radiograph: (H, W) bool → (H, W) bool. Most corruptions move nothing."""
    if copy.corruption not in _MOVES:
        return mask
    matrix = _MOVES[copy.corruption](mask.shape, copy.grade, _choices(copy, seed))
    return _moved(mask.astype(np.uint8) * 255, matrix, cv2.INTER_LINEAR) >= 128


def _choices(copy: Copy, seed: str) -> np.random.Generator:
    """The random numbers of a corruption of one view, the same at every grade."""
    digest = hashlib.sha256(f"{copy.corruption}:{seed}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


# ---- values ---------------------------------------------------------------------------------------------------


def _exposure(pixels: np.ndarray, grade: int, rng: np.random.Generator) -> np.ndarray:
    gamma = _GAMMA[grade - 1] ** rng.choice([-1, 1])
    return cv2.LUT(pixels, _as_pixels(255 * (np.arange(256) / 255) ** gamma))


def _contrast(pixels: np.ndarray, grade: int, rng: np.random.Generator) -> np.ndarray:
    factor = _CONTRAST[grade - 1] ** rng.choice([-1, 1])
    mean = cv2.mean(pixels)[0]
    return cv2.LUT(pixels, _as_pixels((np.arange(256) - mean) * factor + mean))


def _noise(pixels: np.ndarray, grade: int, rng: np.random.Generator) -> np.ndarray:
    rows, columns = pixels.shape
    shrink = min(1.0, _GRAIN_PX / max(rows, columns))
    grains = rng.standard_normal((max(1, round(rows * shrink)), max(1, round(columns * shrink))), np.float32)
    noise = cv2.resize(grains, (columns, rows), interpolation=cv2.INTER_NEAREST)
    return _as_pixels(pixels + 255 * _NOISE[grade - 1] * noise)


def _blur(pixels: np.ndarray, grade: int, _: np.random.Generator) -> np.ndarray:
    sigma_px = max(_SIGMA[grade - 1] * max(pixels.shape), _LEAST_SIGMA_PX[grade - 1])
    blurred: np.ndarray = cv2.GaussianBlur(pixels, (0, 0), sigma_px, borderType=cv2.BORDER_REPLICATE)
    return blurred


def _resolution(pixels: np.ndarray, grade: int, _: np.random.Generator) -> np.ndarray:
    rows, columns = pixels.shape
    longer = max(rows, columns)
    scale = min(_LONGER_SIDE_PX[grade - 1] / longer, _OF_LONGER_SIDE[grade - 1])
    size = max(1, round(columns * scale)), max(1, round(rows * scale))
    few = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    enlarged: np.ndarray = cv2.resize(few, (columns, rows), interpolation=cv2.INTER_LINEAR)
    return enlarged


def _as_pixels(values: np.ndarray) -> np.ndarray:
    rounded: np.ndarray = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return rounded


_CHANGES: dict[str, Callable[[np.ndarray, int, np.random.Generator], np.ndarray]] = {
    "exposure": _exposure,
    "contrast": _contrast,
    "noise": _noise,
    "blur": _blur,
    "resolution": _resolution,
}


# ---- places ---------------------------------------------------------------------------------------------------


def _crop(shape: tuple[int, ...], grade: int, rng: np.random.Generator) -> np.ndarray:
    """The window keeps its aspect ratio and lies anywhere in the image."""
    (rows, columns), kept = shape, _KEPT[grade - 1]
    down, right = rng.random(2) * (1 - kept)
    return np.array([[1 / kept, 0, -right * columns / kept], [0, 1 / kept, -down * rows / kept]])


def _rotation(shape: tuple[int, ...], grade: int, rng: np.random.Generator) -> np.ndarray:
    angle = math.radians(_DEGREES[grade - 1] * rng.choice([-1, 1]))
    cos, sin, x, y = math.cos(angle), math.sin(angle), shape[1] / 2, shape[0] / 2
    return np.array([[cos, -sin, x - cos * x + sin * y], [sin, cos, y - sin * x - cos * y]])


_MOVES: dict[str, Callable[[tuple[int, ...], int, np.random.Generator], np.ndarray]] = {
    "crop": _crop,
    "rotation": _rotation,
}


def _moved(pixels: np.ndarray, matrix: np.ndarray, interpolation: int) -> np.ndarray:
    """Apply a map (2, 3) of places, x and y in pixels from the corner of the image, to (H, W) uint8."""
    rows, columns = pixels.shape
    of_centres = matrix.copy()
    of_centres[:, 2] += matrix[:, :2].sum(axis=1) / 2 - 0.5  # OpenCV counts from the centre of the first pixel
    moved: np.ndarray = cv2.warpAffine(pixels, of_centres, (columns, rows), flags=interpolation)
    return moved

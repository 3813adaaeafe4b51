"""Fits a radiograph into a square of uint8 with black bars, and maps results back: the fit of models trained here."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

if TYPE_CHECKING:
    from cxrpipe.images.radiographs import Radiograph

PREPARATION_VERSION = 4
"""Increased whenever decoding or fitting changes a pixel. Golden pixels in a test guard it."""
_SPARE = 2
"""An image is halved while at least twice the rows and columns that it has in its square remain."""
_HALVINGS = 2
"""Most halvings: OpenCV rounds halves up, so each makes an image brighter by an eighth of a grey level."""


FITS = ("letterbox", "center-crop", "squash")
"""See `cxrpipe.images.fits`."""
RESIZERS = ("area", "skimage", "bilinear", "bicubic", "lanczos")
"""See `cxrpipe.images.resizers`."""


class Preparation(NamedTuple):
    """How a model wants its views prepared. Models with equal preparations share the squares."""

    intensity: str
    """A name of `cxrpipe.images.intensity.INTENSITIES`."""
    side_px: int
    fit: str = "letterbox"
    """`letterbox`, `center-crop` or `squash`."""
    crop_fraction: float = 1.0
    """Of `center-crop`: the side of the square as a fraction of the resized shorter edge."""
    resize: str = "area"
    """A name of `RESIZERS`."""


class Letterbox(NamedTuple):
    """Where an image lies in a square of `side_px`. The image keeps its aspect ratio; the padding is black."""

    side_px: int
    top: int
    left: int
    rows: int
    columns: int

    @classmethod
    def of(cls, rows_px: int, columns_px: int, side_px: int) -> Letterbox:
        scale = side_px / max(rows_px, columns_px)
        rows, columns = max(1, round(rows_px * scale)), max(1, round(columns_px * scale))
        return cls(side_px, (side_px - rows) // 2, (side_px - columns) // 2, rows, columns)

    @property
    def inside(self) -> tuple[slice, slice]:
        """The part of the square that is image, not padding."""
        return slice(self.top, self.top + self.rows), slice(self.left, self.left + self.columns)

    def fit(self, image: Halvings) -> np.ndarray:
        """(H, W) uint8 → (S, S) uint8. Shrinking averages by area; growing is linear."""
        pixels, rows, columns = image.smallest_for(self)
        shrinks = self.rows < rows or self.columns < columns
        square = np.zeros((self.side_px, self.side_px), np.uint8)
        square[self.inside] = cv2.resize(
            pixels,
            None,  # OpenCV computes (self.columns, self.rows); given the size, it would ignore the exact factors
            fx=self.columns / columns,
            fy=self.rows / rows,
            interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR,
        )
        return square

    def undo(self, mask: np.ndarray, rows_px: int, columns_px: int) -> np.ndarray:
        """(S, S) bool → (rows, columns) bool on the original grid, by nearest neighbour."""
        inside = mask[self.inside].astype(np.uint8)
        return cv2.resize(inside, (columns_px, rows_px), interpolation=cv2.INTER_NEAREST_EXACT) > 0


class _Level(NamedTuple):
    """An image at the full size, a half or a quarter."""

    pixels: np.ndarray
    rows: float
    """Rows of the image, in those of `pixels`. An odd last row is doubled to be halved, so that it counts as a part."""
    columns: float


class Halvings:
    """An image (H, W) uint8, and its halvings, which are made when they are first needed and shared by all squares.

    Averaging 2 x 2 pixels costs a tenth of averaging areas that are no whole number of pixels.
    """

    def __init__(self, pixels: np.ndarray) -> None:
        self._levels = [_Level(pixels, *map(float, pixels.shape))]

    def smallest_for(self, box: Letterbox) -> _Level:
        """The level with the fewest pixels that are enough for a square."""
        number = 0
        while number < _HALVINGS and _is_enough(self._level(number), box):
            number += 1
        return self._level(number)

    def _level(self, number: int) -> _Level:
        while len(self._levels) <= number:
            self._levels.append(_halved(self._levels[-1]))
        return self._levels[number]


def _is_enough(level: _Level, box: Letterbox) -> bool:
    """Whether half of a level is enough for a square."""
    return level.rows / 2 >= _SPARE * box.rows and level.columns / 2 >= _SPARE * box.columns


def _halved(level: _Level) -> _Level:
    """Average 2 x 2 pixels."""
    pixels = level.pixels
    rows, columns = pixels.shape
    if rows % 2 or columns % 2:
        pixels = cv2.copyMakeBorder(pixels, 0, rows % 2, 0, columns % 2, cv2.BORDER_REPLICATE)
    size = pixels.shape[1] // 2, pixels.shape[0] // 2
    return _Level(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), level.rows / 2, level.columns / 2)


def prepare(radiograph: Radiograph, side_px: int) -> np.ndarray:
    """(H, W) radiograph → (S, S) uint8: its letterbox, resized by `area`. `fits.fitted` makes squares of any fit."""
    return Letterbox.of(*radiograph.size_px, side_px).fit(Halvings(radiograph.pixels))


def prepare_mask(mask: np.ndarray, side_px: int) -> np.ndarray:
    """(H, W) bool → (S, S) bool in the frame of `prepare`. A pixel is set if the mask covers at least half of it."""
    rows_px, columns_px = mask.shape
    return Letterbox.of(rows_px, columns_px, side_px).fit(Halvings(mask.astype(np.uint8) * 255)) >= 128

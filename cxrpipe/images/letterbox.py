"""Fits a radiograph into a fixed square of uint8, and maps results back. Training and scoring share `prepare`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

if TYPE_CHECKING:
    from cxrpipe.images.radiographs import Radiograph

PREPARATION_VERSION = 3
"""Increased whenever decoding or fitting changes a pixel. Golden pixels in a test guard it."""


class Preparation(NamedTuple):
    """How a model wants its views prepared. Models with equal preparations share the squares."""

    intensity: str
    """A name of `cxrpipe.images.intensity.INTENSITIES`."""
    side_px: int


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

    def fit(self, pixels: np.ndarray, interpolation: int | None = None) -> np.ndarray:
        """(H, W) uint8 → (S, S) uint8. Shrinking averages by area; growing is linear."""
        if interpolation is None:
            shrinks = self.rows < pixels.shape[0] or self.columns < pixels.shape[1]
            interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        square = np.zeros((self.side_px, self.side_px), np.uint8)
        square[self.inside] = cv2.resize(pixels, (self.columns, self.rows), interpolation=interpolation)
        return square

    def undo(self, mask: np.ndarray, rows_px: int, columns_px: int) -> np.ndarray:
        """(S, S) bool → (rows, columns) bool on the original grid, by nearest neighbour."""
        inside = mask[self.inside].astype(np.uint8)
        return cv2.resize(inside, (columns_px, rows_px), interpolation=cv2.INTER_NEAREST_EXACT) > 0


def prepare(radiograph: Radiograph, side_px: int) -> np.ndarray:
    """(H, W) radiograph → (S, S) uint8, ready for a network."""
    return Letterbox.of(*radiograph.size_px, side_px).fit(radiograph.pixels)


def prepare_mask(mask: np.ndarray, side_px: int) -> np.ndarray:
    """(H, W) bool → (S, S) bool in the frame of `prepare`. A pixel is set if the mask covers at least half of it."""
    rows_px, columns_px = mask.shape
    return Letterbox.of(rows_px, columns_px, side_px).fit(mask.astype(np.uint8) * 255) >= 128

"""Fits radiographs into squares as a model wants them, and maps what it says about a square back onto the whole view.

| fit           | the square shows                                                                               |
|---------------|------------------------------------------------------------------------------------------------|
| `letterbox`   | the whole view between black bars (see `letterbox`)                                             |
| `center-crop` | the middle. With `crop_fraction` 1 a square as wide as the shorter side is cut out, then        |
|               | resized (torchvision's and timm's order gives the same to half a pixel). Below 1 the shorter    |
|               | side is resized to round(side / crop_fraction), then the middle is cut out                      |
| `squash`      | the whole view; it loses its aspect ratio                                                       |

Masks and heat maps are stored in the letterbox frame of the whole view, whatever the fit of the model that made them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from cxrpipe.errors import StudyError
from cxrpipe.images.letterbox import Halvings, Letterbox, Preparation, prepare_mask
from cxrpipe.images.rasters import MAX_PIXELS
from cxrpipe.images.resizers import resized

if TYPE_CHECKING:
    from cxrpipe.images.radiographs import Radiograph


class Extent(NamedTuple):
    """What becomes of one axis of a view. `start` to `stop` of its pixels are resized to `size`, and put at `place`."""

    start: int
    stop: int
    size: int
    place: int
    """Where the resized pixels begin in the square; negative: the square begins behind their first."""
    side_px: int
    """Of the square, whose pixels lie from 0 to here."""

    @property
    def inside(self) -> slice:
        """The part of the square that shows the view."""
        return slice(max(0, self.place), min(self.side_px, self.place + self.size))

    @property
    def shown(self) -> slice:
        """The part of the resized pixels that the square shows."""
        return slice(self.inside.start - self.place, self.inside.stop - self.place)

    def at_scale(self, scale: float) -> slice:
        """The pixels from `start` to `stop` of a view that was decoded at reduced scale, to half a pixel."""
        return slice(round(self.start * scale), round(self.stop * scale))

    def to_square(self, edges: np.ndarray) -> np.ndarray:
        """Places on the view (0: its first edge) → places on the square."""
        return self.place + (edges - self.start) * self.size / (self.stop - self.start)

    def to_view(self, edges: np.ndarray) -> np.ndarray:
        """The inverse of `to_square`."""
        return self.start + (edges - self.place) * (self.stop - self.start) / self.size


class Frame(NamedTuple):
    """Where a view lies in the square of a preparation."""

    rows: Extent
    columns: Extent

    @classmethod
    def of(cls, rows_px: int, columns_px: int, preparation: Preparation) -> Frame:
        """The frame of a view of this size."""
        side_px, sizes = preparation.side_px, (rows_px, columns_px)
        if preparation.fit == "letterbox":
            box = Letterbox.of(rows_px, columns_px, side_px)
            return cls(
                Extent(0, rows_px, box.rows, box.top, side_px), Extent(0, columns_px, box.columns, box.left, side_px)
            )
        if preparation.fit == "squash":
            return cls(*(Extent(0, size, side_px, 0, side_px) for size in sizes))
        shorter = min(sizes)
        if preparation.crop_fraction == 1:
            starts = [size // 2 - shorter // 2 for size in sizes]
            return cls(*(Extent(start, start + shorter, side_px, 0, side_px) for start in starts))
        edge_px = round(side_px / preparation.crop_fraction)
        resized_px = [edge_px * size // shorter for size in sizes]
        return cls(
            *(
                Extent(0, size, now, -round((now - side_px) / 2), side_px)
                for size, now in zip(sizes, resized_px, strict=True)
            )
        )

    @property
    def inside(self) -> tuple[slice, slice]:
        """The part of the square that shows the view."""
        return self.rows.inside, self.columns.inside


def fitted(radiograph: Radiograph, preparations: Iterable[Preparation]) -> dict[Preparation, np.ndarray]:
    """Preparation → (S, S) uint8, ready for a network; of all preparations the intensity is that of the radiograph."""
    image = Halvings(radiograph.pixels)
    return {preparation: _square(image, radiograph, preparation) for preparation in preparations}


def _square(image: Halvings, radiograph: Radiograph, preparation: Preparation) -> np.ndarray:
    if preparation.fit == "letterbox" and preparation.resize == "area":
        return Letterbox.of(*radiograph.size_px, preparation.side_px).fit(image)
    return _placed(radiograph.pixels, radiograph.size_px, preparation)


def _placed(pixels: np.ndarray, size_px: tuple[int, int], preparation: Preparation) -> np.ndarray:
    """Cut, resize and place the pixels of a view of `size_px`, which may have been decoded at reduced scale."""
    frame = Frame.of(*size_px, preparation)
    if frame.rows.size * frame.columns.size > MAX_PIXELS:  # a strip of 16 x 6,000,000 pixels would be a bomb
        raise StudyError(
            "too_large",
            f"a view of {size_px[0]}x{size_px[1]} pixels, which is {frame.rows.size}x{frame.columns.size} before its "
            f"middle is cut out; expected at most {MAX_PIXELS:,} pixels",
        )
    rows, columns = (
        axis.at_scale(now / before) for axis, now, before in zip(frame, pixels.shape, size_px, strict=True)
    )
    part = np.ascontiguousarray(pixels[rows, columns])
    whole = resized(part, frame.rows.size, frame.columns.size, preparation.resize)
    square = np.zeros((preparation.side_px, preparation.side_px), np.uint8)
    square[frame.inside] = whole[frame.rows.shown, frame.columns.shown]
    return square


def fitted_mask(mask: np.ndarray, preparation: Preparation) -> np.ndarray:
    """(H, W) bool → (S, S) bool in the frame of a preparation. A pixel is set if the mask covers half of it or more."""
    if preparation.fit == "letterbox":
        return prepare_mask(mask, preparation.side_px)
    by_area = preparation._replace(resize="area")
    return _placed(mask.astype(np.uint8) * 255, (mask.shape[0], mask.shape[1]), by_area) >= 128


def in_letterbox(
    square: np.ndarray, preparation: Preparation, rows_px: int, columns_px: int, side_px: int
) -> np.ndarray:
    """A mask or heat map of a square → the same in the letterbox of the whole view, of `side_px`.

    square  (h, w) bool, or float of 0 and more, on any grid over the whole of the square of `preparation`. A mask is
            mapped by nearest neighbour, a heat map linearly. What the square does not show is false, or 0. A square
            that is a letterbox stays as it is
    """
    if preparation.fit == "letterbox":
        return square
    frame = Frame.of(rows_px, columns_px, preparation)
    letterbox = Frame.of(rows_px, columns_px, Preparation(preparation.intensity, side_px))
    places, shown = [], []
    for axis, cells in enumerate(square.shape):
        on_square = frame[axis].to_square(letterbox[axis].to_view(np.arange(side_px) + 0.5))
        inside = frame[axis].inside
        shown.append((on_square > inside.start) & (on_square < inside.stop))
        places.append(on_square * cells / preparation.side_px - 0.5)
    visible = shown[0][:, None] & shown[1]
    if square.dtype == bool:
        down, across = (
            np.clip(np.rint(each), 0, cells - 1).astype(int) for each, cells in zip(places, square.shape, strict=True)
        )
        return np.asarray(square[np.ix_(down, across)] & visible)
    down, across = (each.astype(np.float32) for each in np.meshgrid(*places, indexing="ij"))
    mapped = cv2.remap(square.astype(np.float32), across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(mapped * visible)

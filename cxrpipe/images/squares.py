"""The bytes of one view → the squares that the networks take.

This code runs in the decoder's process, because it may crash. It imports neither Arrow nor boto3.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from cxrpipe.images import fits
from cxrpipe.images.letterbox import Preparation
from cxrpipe.images.rasters import LeastSize

_SPARE = 2
"""A JPEG decoded at reduced scale keeps at least twice the side of the square; averaging by area does the rest."""


class Decoded(NamedTuple):
    """One view, decoded and fitted."""

    rows_px: int
    """Rows of the file, not of a square."""
    columns_px: int
    blank: bool
    """Whether the view has no contrast under at least one intensity."""
    squares: dict[Preparation, np.ndarray]
    """One (S, S) uint8 square for every preparation."""
    flags: tuple[str, ...] = ()
    """Flags of the pixels under any of the intensities (see `radiographs.Radiograph`)."""


Decode = Callable[[bytes, str, Sequence[Preparation]], Decoded]
"""`decode_view`, or a function of the same signature such as `Isolated(decode_view, …)`."""


def decode_view(data: bytes, name: str, preparations: Sequence[Preparation]) -> Decoded:
    """Decode once per intensity and fit once per preparation. At least one preparation must be given.

    Raises StudyError if the bytes are at fault.
    """
    from cxrpipe.images import radiographs  # only the decoder's process pays 0.3 s for pydicom

    of_intensity: dict[str, list[Preparation]] = {}
    for preparation in preparations:
        of_intensity.setdefault(preparation.intensity, []).append(preparation)
    at_least = least_size(preparations)
    decoded = {intensity: radiographs.decode(data, intensity, name, at_least=at_least) for intensity in of_intensity}
    rows_px, columns_px = next(iter(decoded.values())).size_px
    squares: dict[Preparation, np.ndarray] = {}
    for intensity, radiograph in decoded.items():
        squares |= fits.fitted(radiograph, of_intensity[intensity])
    return Decoded(
        rows_px,
        columns_px,
        blank=any(radiographs.is_blank(radiograph.pixels) for radiograph in decoded.values()),
        squares=squares,
        flags=tuple(sorted({flag for radiograph in decoded.values() for flag in radiograph.flags})),
    )


def least_size(preparations: Sequence[Preparation]) -> LeastSize | None:
    """The size that a view must keep when it is decoded at reduced scale; None: it may not be.

    A letterbox needs the longer side, a crop the shorter one. A resizer of others is to see the pixels that theirs saw.
    """
    if any(preparation.resize != "area" for preparation in preparations):
        return None
    longer = max(_SPARE * preparation.side_px for preparation in preparations)
    shorter = [_SPARE * each.side_px / each.crop_fraction for each in preparations if each.fit != "letterbox"]
    return LeastSize(longer, math.ceil(max(shorter, default=0)))

"""The bytes of one view → the squares that the networks take.

This code runs in the decoder's process, because it may crash. It imports neither Arrow nor boto3.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cxrpipe.images import fits
from cxrpipe.images.letterbox import Preparation
from cxrpipe.images.rasters import LeastSize, is_blank

if TYPE_CHECKING:
    from cxrpipe.images.radiographs import Radiograph

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


Radiographs = Mapping[str, "Radiograph"]
"""Intensity → a view, decoded under it."""
Decode = Callable[[bytes, str, Sequence[Preparation]], Decoded]
"""`decode_view`, or a function of the same signature such as `Isolated(decode_view, …)`."""


def decode_view(data: bytes, name: str, preparations: Sequence[Preparation]) -> Decoded:
    """Decode once per intensity and fit once per preparation. At least one preparation must be given.

    Raises StudyError if the bytes are at fault.
    """
    return fitted(radiographs_of(data, name, preparations), preparations)


def radiographs_of(data: bytes, name: str, preparations: Sequence[Preparation]) -> Radiographs:
    """Decode once per intensity. Raises StudyError if the bytes are at fault."""
    from cxrpipe.images import radiographs  # only the decoder's process pays 0.3 s for pydicom

    intensities = dict.fromkeys(preparation.intensity for preparation in preparations)
    at_least = least_size(preparations)
    return {intensity: radiographs.decode(data, intensity, name, at_least=at_least) for intensity in intensities}


def fitted(radiographs: Radiographs, preparations: Sequence[Preparation]) -> Decoded:
    """Fit the radiographs of a view once per preparation."""
    rows_px, columns_px = next(iter(radiographs.values())).size_px
    squares: dict[Preparation, np.ndarray] = {}
    for intensity, radiograph in radiographs.items():
        squares |= fits.fitted(radiograph, [each for each in preparations if each.intensity == intensity])
    return Decoded(
        rows_px,
        columns_px,
        blank=any(is_blank(radiograph.pixels) for radiograph in radiographs.values()),
        squares=squares,
        flags=tuple(sorted({flag for radiograph in radiographs.values() for flag in radiograph.flags})),
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

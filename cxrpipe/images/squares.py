"""The bytes of one view → the squares that the networks take.

This code runs in the decoder's process, because it may crash. It imports neither Arrow nor boto3.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from cxrpipe.images import letterbox
from cxrpipe.images.letterbox import Preparation

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

    sides_px: dict[str, list[int]] = {}
    for preparation in preparations:
        sides_px.setdefault(preparation.intensity, []).append(preparation.side_px)
    enough_px = _SPARE * max(preparation.side_px for preparation in preparations)
    decoded = {intensity: radiographs.decode(data, intensity, name, enough_px=enough_px) for intensity in sides_px}
    rows_px, columns_px = next(iter(decoded.values())).size_px
    squares = {
        Preparation(intensity, side_px): square
        for intensity, radiograph in decoded.items()
        for side_px, square in letterbox.prepare_all(radiograph, sides_px[intensity]).items()
    }
    return Decoded(
        rows_px,
        columns_px,
        blank=any(radiographs.is_blank(radiograph.pixels) for radiograph in decoded.values()),
        squares=squares,
        flags=tuple(sorted({flag for radiograph in decoded.values() for flag in radiograph.flags})),
    )

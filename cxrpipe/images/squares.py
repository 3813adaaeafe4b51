"""The bytes of one view → what the networks are given. What may crash is here, and imports neither Arrow nor boto3."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from cxrpipe.images import letterbox, radiographs
from cxrpipe.images.letterbox import Preparation

_SPARE = 2
"""A JPEG is decoded at reduced scale as long as twice the side remains: the rest of the way is averaged by area."""


class Decoded(NamedTuple):
    rows_px: int
    columns_px: int
    blank: bool
    """No contrast, under one recipe at least."""
    squares: dict[Preparation, np.ndarray]
    """(S, S) uint8 each."""
    flags: tuple[str, ...] = ()
    """Of the pixels, under any recipe: see `images.Radiograph`."""


Decode = Callable[[bytes, str, Sequence[Preparation]], Decoded]
"""`decode_view`, or what stands for it: `Isolated(decode_view, …)`."""


def decode_view(data: bytes, name: str, preparations: Sequence[Preparation]) -> Decoded:
    """Decode once per recipe, and fit once per preparation; there is one at least.

    StudyError where the bytes are at fault.
    """
    recipes = dict.fromkeys(preparation.recipe for preparation in preparations)
    enough_px = _SPARE * max(preparation.side_px for preparation in preparations)
    decoded = {recipe: radiographs.decode(data, recipe, name, enough_px=enough_px) for recipe in recipes}
    rows_px, columns_px = next(iter(decoded.values())).size_px
    return Decoded(
        rows_px,
        columns_px,
        blank=any(radiographs.is_blank(radiograph.pixels) for radiograph in decoded.values()),
        squares={each: letterbox.prepare(decoded[each.recipe], each.side_px) for each in preparations},
        flags=tuple(sorted({flag for radiograph in decoded.values() for flag in radiograph.flags})),
    )

"""The bytes of one view → what the networks are given. What may crash is here, and imports neither Arrow nor boto3."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from cxrpipe import images, transforms
from cxrpipe.transforms import Preparation


class Decoded(NamedTuple):
    rows_px: int
    columns_px: int
    squares: dict[Preparation, np.ndarray]
    """(S, S) uint8 each. Empty: the picture is blank."""


Decode = Callable[[bytes, str, Sequence[Preparation]], Decoded]
"""`decode_view`, or what stands for it: `Isolated(decode_view, …)`."""


def decode_view(data: bytes, name: str, preparations: Sequence[Preparation]) -> Decoded:
    """Decode once per recipe and fit once per preparation. StudyError where the bytes are at fault."""
    decoded: dict[str, images.Radiograph] = {}
    for recipe in dict.fromkeys(preparation.recipe for preparation in preparations):
        decoded[recipe] = images.decode(data, recipe, name)
        rows_px, columns_px = decoded[recipe].pixels.shape
        if images.is_blank(decoded[recipe].pixels):
            return Decoded(rows_px, columns_px, {})
    squares = {each: transforms.prepare(decoded[each.recipe], each.side_px) for each in preparations}
    return Decoded(rows_px, columns_px, squares)

"""Stands for decoding in the part `actor`. Preparers import this module: it takes no torch."""

from collections.abc import Sequence

import numpy as np

from cxrpipe.images.letterbox import Preparation
from cxrpipe.images.squares import Decoded


def nothing_decoded(data: bytes, name: str, preparations: Sequence[Preparation]) -> Decoded:
    """Squares that depend on no pixel of the file."""
    squares = {}
    for preparation in preparations:
        squares[preparation] = np.full((preparation.side_px, preparation.side_px), len(data) % 255, np.uint8)
        squares[preparation][0] = 255
    return Decoded(1024, 1024, False, squares)

"""Masks and heat maps of a score row as transparent PNGs, which a page lays on the picture of their view.

They are stored in the letterboxed frame of the networks. Here the padding is cut off, so that a layer covers exactly
the image.
"""

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from cxrpipe.images import heatmaps, masks
from cxrpipe.images.letterbox import Letterbox
from cxrpipe.report.sheet import LUNG, draw_outline, heat_layer, on_grid

_OUTLINED_PX, _HEATED_PX = 1_024, 512
"""Longer side of a layer. A heat map is smooth, so the browser may enlarge it."""
_LINE_PX = 2
_FILL = 14
"""Opacity of the area of a mask, of 255: the film stays to be read."""
_FAST = [cv2.IMWRITE_PNG_COMPRESSION, 2]


def mask_png(png: bytes, view: Mapping[str, Any]) -> bytes:
    """The outline of a stored mask, with a faint area; PNG with transparency.

    view  an entry of `views` of the score row, with the size of its file
    """
    mask, size = _inside(masks.decode(png), view), _size(view, _OUTLINED_PX)
    drawn = np.zeros((*size, 4), np.uint8)
    drawn[on_grid(mask, size)] = (*LUNG, _FILL)
    draw_outline(drawn, mask, (*LUNG, 255), _LINE_PX)
    return _encoded(drawn)


def heat_png(png: bytes, view: Mapping[str, Any]) -> bytes:
    """A stored heat map in colours, the more opaque the hotter; PNG with transparency."""
    colours, opacity = heat_layer(_inside(heatmaps.decode(png), view), _size(view, _HEATED_PX))
    return _encoded(np.dstack([colours, np.rint(255 * opacity).astype(np.uint8)]))


def _inside(square: np.ndarray, view: Mapping[str, Any]) -> np.ndarray:
    return square[Letterbox.of(view["rows_px"], view["columns_px"], len(square)).inside]


def _size(view: Mapping[str, Any], longer_px: int) -> tuple[int, int]:
    box = Letterbox.of(view["rows_px"], view["columns_px"], longer_px)
    return box.rows, box.columns


def _encoded(drawn: np.ndarray) -> bytes:
    _, data = cv2.imencode(".png", drawn, _FAST)
    return data.tobytes()

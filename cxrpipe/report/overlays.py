"""Masks and heat maps over a radiograph: one look for the sheets of `show` and the gallery of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

LUNG = "#5fc9f8"
"""Blue: the outline that a model predicted."""
TRUTH = "#ffd166"
"""Yellow: the outline that a person drew."""
_HEAT_OPACITY = 0.55


def bgr(colour: str) -> tuple[int, int, int]:
    """`#rrggbb` → blue, green and red of 0..255, the order of OpenCV."""
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return blue, green, red


def heat_opacity(heat: np.ndarray) -> np.ndarray:
    """(H, W) uint8 → (H, W) float of 0..0.55: the hotter a place, the less of the radiograph is seen."""
    opacity: np.ndarray = _HEAT_OPACITY * heat / 255
    return opacity


def heatmaps_of(row: Mapping[str, Any], number: int) -> Sequence[Mapping[str, Any]]:
    """Give the heat maps of view `number` of a score row, `finding` and `png` each; empty where the row has none."""
    return (row["heatmaps"][number] or ()) if row["heatmaps"] else ()

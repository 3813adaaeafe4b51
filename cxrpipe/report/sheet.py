"""Studies drawn for people: every view with its masks as outlines, and its heat maps beside it; PNG."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_INK, _PAPER, _LUNG, _TRUTH = "#dfe2e6", "#15181c", "#5fc9f8", "#ffd166"
_DPI = 110
_PANEL_INCHES = 4.2
_LONGEST_PX = 1_024
_PANELS_A_ROW = 4
_TITLE = 50
"""Characters that fit above a panel."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One picture of a study."""

    title: str
    pixels: np.ndarray | None = None
    """(H, W) uint8, bright = dense; None: the title says why there are none."""
    masks: Sequence[np.ndarray] = field(default_factory=tuple)
    """Each (H, W) bool: what a model outlined."""
    truth: np.ndarray | None = None
    """(H, W) bool: what a person outlined."""
    heat: np.ndarray | None = None
    """(H, W) uint8: where a finding was seen."""


def draw(panels: Sequence[Panel], heading: str, in_a_row: int = _PANELS_A_ROW) -> bytes:
    """All panels on one sheet, row by row; PNG."""
    columns = min(len(panels), in_a_row)
    rows = math.ceil(len(panels) / columns)
    size = (_PANEL_INCHES * max(columns, 1.6), _PANEL_INCHES * rows + 0.2 * (2 + heading.count("\n")))
    figure = Figure(figsize=size, facecolor=_PAPER, layout="constrained")
    figure.suptitle(heading, color=_INK, fontsize=10, x=0.02, ha="left", family="monospace")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, panel in zip(grid.flat, panels, strict=False):
        _draw_panel(axes, panel)
    return png_of(figure, _DPI)


def png_of(figure: Figure, dpi: int) -> bytes:
    """A figure on its own paper; PNG."""
    png = io.BytesIO()
    figure.savefig(png, dpi=dpi, format="png")
    return png.getvalue()


def _draw_panel(axes: Axes, panel: Panel) -> None:
    axes.set_title(_shortened(panel.title), color=_INK, fontsize=9)
    if panel.pixels is None:
        axes.text(0.5, 0.5, "no image", color=_INK, ha="center", va="center", transform=axes.transAxes)
        return
    axes.imshow(_smaller(panel.pixels), cmap="gray", vmin=0, vmax=255)
    if panel.heat is not None:
        heat = _smaller(panel.heat)
        axes.imshow(heat, cmap="inferno", vmin=0, vmax=255, alpha=0.55 * heat / 255)
    for mask in panel.masks:
        _outline(axes, mask, _LUNG)
    if panel.truth is not None:
        _outline(axes, panel.truth, _TRUTH)


def _shortened(title: str) -> str:
    """The middle left out where it is too long: names differ at either end."""
    half = _TITLE // 2
    return title if len(title) <= _TITLE else f"{title[:half]}…{title[-half:]}"


def _outline(axes: Axes, mask: np.ndarray, colour: str) -> None:
    if mask.any() and not mask.all():
        axes.contour(_smaller(mask.astype(np.uint8) * 255), levels=[127], colors=colour, linewidths=1.0)


def _smaller(pixels: np.ndarray) -> np.ndarray:
    """At most 1,024 pixels a side: a sheet has no room for more."""
    scale = _LONGEST_PX / max(pixels.shape)
    return pixels if scale >= 1 else cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)

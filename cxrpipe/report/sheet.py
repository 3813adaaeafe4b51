"""Draws studies for people: every view with its masks as outlines, and its heat maps beside it; PNG.

OpenCV and Pillow draw the sheet. Matplotlib takes 0.6 s to import and 0.3 s for a sheet (two cores), and reads a `$` in
the name of a file as the beginning of a formula.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:  # matplotlib
    from matplotlib.figure import Figure

Colour = tuple[int, int, int]
"""Blue, green, red: OpenCV's order."""
LUNG, TRUTH = (248, 201, 95), (102, 209, 255)  # blue, yellow
HEAT_SHARE = 0.55
"""Opacity of the hottest place of a heat map that is drawn onto an image."""
_INK, _PAPER = "#dfe2e6", "#15181c"
_PANEL_PX = 462
_GAP_PX = 12
_PANELS_A_ROW = 4
_LEAST_WIDTH_PX = 740
"""Room for a line of the heading beside a single panel."""
_HEADING_PX, _TITLE_PX = 14, 13
"""Sizes of the letters."""
_LINE_PX = 19


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One picture of a study. Masks and heat map lie on the whole of the image, on pixel grids of any size."""

    title: str
    pixels: np.ndarray | None = None
    """(H, W) uint8, bright = dense; None: the title says why there are none."""
    masks: Sequence[np.ndarray] = field(default_factory=tuple)
    """Each (h, w) bool: what a model outlined."""
    truth: np.ndarray | None = None
    """(h, w) bool: what a person outlined."""
    heat: np.ndarray | None = None
    """(h, w) uint8: where a finding was seen."""

    @property
    def outlines(self) -> Iterator[tuple[np.ndarray, Colour]]:
        yield from ((mask, LUNG) for mask in self.masks)
        if self.truth is not None:
            yield self.truth, TRUTH


def draw(panels: Sequence[Panel], heading: str, in_a_row: int = _PANELS_A_ROW) -> bytes:
    """Draw all panels on one sheet, row by row, below the heading; PNG."""
    columns = max(1, min(len(panels), in_a_row))
    rows = math.ceil(len(panels) / columns)
    lines = heading.splitlines()
    top = _GAP_PX + _LINE_PX * len(lines)
    step = _PANEL_PX + _GAP_PX
    width, height = max(_LEAST_WIDTH_PX, _GAP_PX + step * columns), top + (_LINE_PX + step) * rows + _GAP_PX
    sheet = Image.new("RGB", (width, height), _PAPER)
    for number, line in enumerate(lines):
        _write(sheet, line, (_GAP_PX, _GAP_PX + _LINE_PX * number), _HEADING_PX, width - 2 * _GAP_PX)
    for number, panel in enumerate(panels):
        row, column = divmod(number, columns)
        _draw_panel(sheet, panel, _GAP_PX + step * column, top + (_LINE_PX + step) * row + _GAP_PX)
    png = io.BytesIO()
    sheet.save(png, "png", compress_level=3)  # the default, 6, takes three times as long for 3% less on films
    return png.getvalue()


def overlaid(
    grey: np.ndarray, outlines: Sequence[tuple[np.ndarray, Colour]] = (), heat: np.ndarray | None = None
) -> np.ndarray:
    """(h, w) uint8 → (h, w, 3) uint8 in OpenCV's order, with outlines and a heat map resized to the image."""
    drawn = cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR)
    if heat is not None:
        colours, opacity = heat_layer(heat, grey.shape)
        share = HEAT_SHARE * opacity[..., None]
        drawn = np.rint(drawn * (1 - share) + colours * share).astype(np.uint8)
    for mask, colour in outlines:
        draw_outline(drawn, mask, colour)
    return drawn


def heat_layer(heat: np.ndarray, size_px: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """A heat map (h, w) uint8 → its colours (H, W, 3) uint8 in OpenCV's order, and its opacity (H, W) float, 0..1.

    size_px  (H, W) of the image that the heat map lies on
    """
    fitted = cv2.resize(heat, size_px[::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.applyColorMap(fitted, cv2.COLORMAP_INFERNO)), fitted / 255


def on_grid(mask: np.ndarray, size_px: tuple[int, ...]) -> np.ndarray:
    """A mask (h, w) bool on a grid of another size, (H, W) bool, with smooth borders."""
    rows, columns = size_px
    return np.asarray(cv2.resize(mask.astype(np.float32), (columns, rows), interpolation=cv2.INTER_LINEAR) > 0.5)


def draw_outline(drawn: np.ndarray, mask: np.ndarray, colour: Sequence[int], thickness_px: int = 1) -> None:
    """Draw the outline of a mask (h, w) bool onto an image (H, W, C) uint8, whose grid may have another size."""
    smooth = on_grid(mask, drawn.shape[:2]).astype(np.uint8)
    lines, _ = cv2.findContours(smooth, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(drawn, lines, -1, colour, thickness_px, cv2.LINE_AA)


def resized(pixels: np.ndarray, longest_px: int) -> np.ndarray:
    """Resize (H, W) uint8 so that its longer side has `longest_px`. A side has one pixel at least."""
    scale = longest_px / max(pixels.shape)
    rows, columns = (max(1, round(scale * side)) for side in pixels.shape)
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, (columns, rows), interpolation=interpolation))


def png_of(figure: Figure, dpi: int) -> bytes:
    """Draw a figure of matplotlib on the paper of that figure; PNG."""
    png = io.BytesIO()
    figure.savefig(png, dpi=dpi, format="png")
    return png.getvalue()


def _draw_panel(sheet: Image.Image, panel: Panel, left: int, top: int) -> None:
    _write(sheet, panel.title, (left, top), _TITLE_PX, _PANEL_PX)
    top += _LINE_PX
    if panel.pixels is None:
        _write(sheet, "no image", (left, top + _PANEL_PX // 2), _TITLE_PX, _PANEL_PX)
        return
    drawn = overlaid(resized(panel.pixels, _PANEL_PX), [*panel.outlines], panel.heat)
    rows, columns, _ = drawn.shape
    place = (left + (_PANEL_PX - columns) // 2, top + (_PANEL_PX - rows) // 2)
    sheet.paste(Image.fromarray(np.ascontiguousarray(drawn[..., ::-1])), place)


def _write(sheet: Image.Image, text: str, place: tuple[int, int], size_px: int, width_px: int) -> None:
    """Write one line. A line that is too long loses its middle, because names differ at either end."""
    font = _font(size_px)
    letters = int(width_px // font.getlength("m"))
    if len(text) > letters:
        text = f"{text[: letters // 2]}…{text[len(text) - (letters - 1) // 2 :]}"
    ImageDraw.Draw(sheet).text(place, text, _INK, font)


@functools.cache
def _font(size_px: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans Mono, from the files of matplotlib. The package itself is not imported."""
    package = importlib.util.find_spec("matplotlib")
    assert package is not None
    assert package.origin is not None
    return ImageFont.truetype(str(Path(package.origin).parent / "mpl-data/fonts/ttf/DejaVuSansMono.ttf"), size_px)

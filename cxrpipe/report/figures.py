"""ROC curves and confusion matrices as PNG, for slides and papers.

They are drawn with matplotlib's objects alone, without pyplot, a display or global state. Every finding has a small
panel, with the curves of the other findings in grey behind its own. Fourteen such panels stay legible; fourteen colours
in one panel do not.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from cxrpipe.evaluation.figures import FindingFigures
from cxrpipe.report.words import BLUE, GREY, INK, PALE, RUST, matrix, spoken, studies, text

BLUES = LinearSegmentedColormap.from_list("cxrpipe", ["#f4f6f8", BLUE])
DPI = 150


def as_files(findings: Sequence[FindingFigures]) -> dict[str, bytes]:
    """Draw the ROC curves and the confusion matrices of findings: file name → PNG."""
    files = {}
    for name, draw in (("roc.png", draw_roc), ("confusion.png", draw_confusion)):
        content = io.BytesIO()
        draw(findings, content)
        files[name] = content.getvalue()
    return files


def draw_roc(findings: Sequence[FindingFigures], file: Path | BinaryIO) -> None:
    """Draw one ROC panel per finding, with a dot at the operating point of the consensus; PNG."""
    figure = _figure(len(findings), panel_inches=2.7)
    for axes, figures in zip(_panels(figure, len(findings)), findings, strict=True):
        others = [other for other in findings if other is not figures]
        _draw_roc_panel(axes, figures, others)
    key = "dot: the consensus" + (", grey: the other findings" if len(findings) > 1 else "")
    figure.supxlabel(f"1 − specificity\n({key})", fontsize=9, color=INK)
    figure.supylabel("sensitivity", fontsize=9, color=INK)
    figure.savefig(file, dpi=DPI, format="png")


def draw_confusion(findings: Sequence[FindingFigures], file: Path | BinaryIO) -> None:
    """Draw one confusion matrix per finding, coloured by the fraction of the row; PNG."""
    figure = _figure(len(findings), panel_inches=2.3)
    for axes, figures in zip(_panels(figure, len(findings)), findings, strict=True):
        _draw_confusion_panel(axes, figures)
    figure.supxlabel("consensus of the ensemble", fontsize=9, color=INK)
    figure.supylabel("label", fontsize=9, color=INK)
    figure.savefig(file, dpi=DPI, format="png")


def _draw_roc_panel(axes: Axes, figures: FindingFigures, others: Sequence[FindingFigures]) -> None:
    axes.plot([0, 1], [0, 1], color=PALE, linewidth=0.8, linestyle=(0, (4, 3)))
    for other in others:
        axes.plot(1 - other.roc.specificity, other.roc.sensitivity, color=PALE, linewidth=0.8)
    axes.plot(1 - figures.roc.specificity, figures.roc.sensitivity, color=BLUE, linewidth=1.8)
    axes.plot(1 - figures.specificity.value, figures.sensitivity.value, "o", color=RUST, markersize=5)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
    caption = f"AUROC {text(figures.auroc, 3)}\n{figures.positives:,} of {studies(figures.studies)} positive"
    axes.text(0.97, 0.05, caption, transform=axes.transAxes, ha="right", fontsize=7.5, color=INK)
    _finish(axes, figures.finding)


def _draw_confusion_panel(axes: Axes, figures: FindingFigures) -> None:
    counts = matrix(figures.counts)
    with np.errstate(invalid="ignore"):
        of_row = counts / counts.sum(axis=1, keepdims=True)  # (2, 2), nan where no study has the label
    axes.imshow(np.nan_to_num(of_row), cmap=BLUES, vmin=0, vmax=1)
    for row, column in np.ndindex(2, 2):
        fraction = of_row[row, column]
        style: dict[str, Any] = {"ha": "center", "va": "center", "color": "white" if fraction > 0.55 else INK}
        axes.text(column, row - 0.08, f"{counts[row, column]:,}", fontsize=11, **style)
        axes.text(column, row + 0.2, "–" if np.isnan(fraction) else f"{fraction:.0%}", fontsize=7.5, **style)
    axes.axhline(0.5, color="white", linewidth=1.5)
    axes.axvline(0.5, color="white", linewidth=1.5)
    axes.set_xticks([0, 1], ["positive", "negative"])
    axes.set_yticks([0, 1], ["positive", "negative"], rotation=90, va="center")
    _finish(axes, figures.finding)


def _figure(panels: int, panel_inches: float) -> Figure:
    columns, rows = _grid(panels)
    size = (columns * panel_inches + 0.4, rows * (panel_inches + 0.2) + 0.4)
    return Figure(figsize=size, layout="constrained")


def _panels(figure: Figure, panels: int) -> Iterator[Axes]:
    columns, rows = _grid(panels)
    for place in range(1, panels + 1):
        yield figure.add_subplot(rows, columns, place)


def _grid(panels: int) -> tuple[int, int]:
    """Choose columns and rows: one row of up to three panels, then nearly square, at most four panels wide."""
    columns = panels if panels <= 3 else min(4, math.ceil(math.sqrt(panels)))
    return columns, math.ceil(panels / columns)


def _finish(axes: Axes, finding: str) -> None:
    axes.set_title(spoken(finding), fontsize=9.5, color=INK, loc="left")
    axes.tick_params(labelsize=7, colors=GREY, length=0)
    for spine in axes.spines.values():
        spine.set_color(PALE)

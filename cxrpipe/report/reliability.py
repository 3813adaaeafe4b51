"""Reliability diagrams of `calibrate`: before and after, one for each finding."""

import math
from collections.abc import Sequence

from matplotlib.figure import Figure

from cxrpipe.evaluation.calibration import FittedFinding
from cxrpipe.report.figures import DPI
from cxrpipe.report.sheet import png_of
from cxrpipe.report.words import BLUE, GREY, INK, PALE, RUST, spoken


def draw_reliability(fitted: Sequence[FittedFinding]) -> bytes:
    """One reliability diagram per finding: before in grey, after (studies that were not fitted on) in blue; PNG."""
    columns = min(4, len(fitted))
    rows = math.ceil(len(fitted) / columns)
    figure = Figure(figsize=(2.7 * max(columns, 1.6), 2.9 * rows + 0.4), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(fitted) :]:
        axes.set_axis_off()
    for axes, each in zip(grid.flat, fitted, strict=False):
        axes.plot([0, 1], [0, 1], color=PALE, linewidth=0.8)
        for curve, colour in ((each.before, GREY), (each.after, BLUE)):
            axes.plot(curve.prob, curve.positive_fraction, "o-", color=colour, markersize=3, linewidth=1.2)
        axes.axvline(each.threshold, color=RUST, linewidth=0.8, linestyle=(0, (4, 3)))
        said = f"{spoken(each.finding)}\nECE {each.error_before:.3f} → {each.error_after:.3f}"
        axes.set_title(said, fontsize=8, color=INK, loc="left")
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axes.tick_params(labelsize=7, colors=GREY)
    figure.supxlabel("probability (grey: before, blue: after, dashed: threshold)", fontsize=8, color=INK)
    figure.supylabel("fraction that is positive", fontsize=8, color=INK)
    return png_of(figure, DPI)

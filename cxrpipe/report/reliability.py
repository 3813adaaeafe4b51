"""Reliability diagrams of `calibrate`, one per finding, before and after calibration."""

import math
from collections.abc import Sequence

from matplotlib.figure import Figure

from cxrpipe.evaluation.calibration import FittedFinding
from cxrpipe.report.figures import DPI
from cxrpipe.report.sheet import png_of
from cxrpipe.report.words import BLUE, GREY, INK, PALE, RUST, spoken


def draw_reliability(fitted: Sequence[FittedFinding]) -> bytes:
    """Draw a reliability diagram per finding; PNG. Grey: before; blue: after, on studies that were not fitted on."""
    columns = min(4, len(fitted))
    rows = math.ceil(len(fitted) / columns)
    figure = Figure(figsize=(2.7 * max(columns, 1.6), 2.9 * rows + 0.4), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(fitted) :]:
        axes.set_axis_off()
    for axes, finding in zip(grid.flat, fitted, strict=False):
        axes.plot([0, 1], [0, 1], color=PALE, linewidth=0.8)
        for curve, colour in ((finding.before, GREY), (finding.after, BLUE)):
            axes.plot(curve.prob, curve.positive_fraction, "o-", color=colour, markersize=3, linewidth=1.2)
        axes.axvline(finding.threshold, color=RUST, linewidth=0.8, linestyle=(0, (4, 3)))
        title = f"{spoken(finding.finding)}\nECE {finding.error_before:.3f} → {finding.error_after:.3f}"
        axes.set_title(title, fontsize=8, color=INK, loc="left")
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axes.tick_params(labelsize=7, colors=GREY)
    figure.supxlabel("probability (grey: before, blue: after, dashed: threshold)", fontsize=8, color=INK)
    figure.supylabel("fraction that is positive", fontsize=8, color=INK)
    return png_of(figure, DPI)

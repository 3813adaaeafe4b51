"""What comparison.html is given: two scored runs side by side."""

from __future__ import annotations

import math

import numpy as np

from cxrpipe.evaluation.drift import ALARM, Comparison, Shift
from cxrpipe.report import html, svg
from cxrpipe.report.words import spoken


def render_comparison(found: Comparison) -> str:
    return html.page(
        "comparison.html.j2",
        numbers="comparison.json",
        found=found,
        limit=ALARM,
        plots=[_plot(each) for each in found.shifts if not math.isnan(each.psi)],
        statuses=sorted({*found.reference_counts, *found.counts}),
    )


def _plot(shift: Shift) -> svg.Plot:
    """How many of the later studies lie in each tenth of the reference."""
    return svg.of_bins(
        spoken(shift.name),
        "lowest to highest of the reference",
        _fractions(shift.reference_counts),
        _fractions(shift.counts),
        stands_out=shift.alarm,
        notes=(f"PSI {shift.psi:.3f}", f"by chance {shift.psi_by_chance:.3f}"),
    )


def _fractions(counts: np.ndarray) -> np.ndarray:
    return counts / max(counts.sum(), 1)

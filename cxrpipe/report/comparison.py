"""The page comparison.html: two scored runs side by side."""

from __future__ import annotations

import math

import numpy as np

from cxrpipe.evaluation.drift import ALARM, Comparison, Shift
from cxrpipe.report import html, svg
from cxrpipe.report.words import spoken


def render_comparison(comparison: Comparison) -> str:
    """Render the page of a comparison; HTML."""
    return html.page(
        "comparison.html.j2",
        numbers="comparison.json",
        found=comparison,
        limit=ALARM,
        plots=[_plot(shift) for shift in comparison.shifts if not math.isnan(shift.psi)],
        statuses=sorted({*comparison.reference_counts, *comparison.counts}),
    )


def _plot(shift: Shift) -> svg.Plot:
    """Draw the fractions of studies in every tenth of the reference."""
    return svg.of_bins(
        spoken(shift.name),
        "lowest to highest of the reference",
        _fractions(shift.reference_counts),
        _fractions(shift.counts),
        stands_out=shift.alarm,
        notes=(f"PSI {shift.psi:.3f}", f"by chance {shift.psi_by_chance:.3f}"),
    )


def _fractions(counts: np.ndarray) -> np.ndarray:
    fractions: np.ndarray = counts / max(counts.sum(), 1)
    return fractions

"""Small square plots as values in the coordinates of an SVG, which the template draws. Both axes are 0..1.

matplotlib's SVG is not used, because it draws every glyph as an outline. These plots share fonts and colours of the
page.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cxrpipe.evaluation.figures import EnsembleFigures, FindingFigures
from cxrpipe.evaluation.metrics import Estimate
from cxrpipe.report.words import text

LEFT, TOP, SIDE = 34.0, 8.0, 180.0
"""Where the square of the axes lies in a plot of 220 × 228 units."""
_FILLED = 0.8
"""Height of the highest bar, as a fraction of the square: words stand above it."""
_APART = 0.025
"""Distance of intervals that stand side by side, as a fraction of the square."""


class Line(NamedTuple):
    points: str
    kind: str
    """Class in the style sheet."""


class Dot(NamedTuple):
    x: float
    y: float
    kind: str


class Bar(NamedTuple):
    x: float
    y: float
    width: float
    height: float
    kind: str


class Plot(NamedTuple):
    title: str
    x_label: str
    y_label: str
    bars: tuple[Bar, ...] = ()
    lines: tuple[Line, ...] = ()
    dots: tuple[Dot, ...] = ()
    notes: tuple[str, ...] = ()
    """Lines of text inside the axes."""
    notes_at: str = "bottom right"
    """`bottom right`, `top right` or `top left`."""
    x_ticks: tuple[tuple[float, str], ...] = ((LEFT, "0"), (LEFT + SIDE / 2, "0.5"), (LEFT + SIDE, "1"))
    """Place and label of every tick."""
    y_ticks: tuple[tuple[float, str], ...] = ((TOP + SIDE, "0"), (TOP, "1"))


def of_finding(figures: FindingFigures) -> list[Plot]:
    """Plot a finding: ROC, precision and recall, calibration, and the histogram of its probabilities."""
    return [_roc(figures), _precision_recall(figures), _reliability(figures), _histogram(figures)]


def _roc(figures: FindingFigures) -> Plot:
    consensus = figures.operating_points[0]
    return Plot(
        "ROC",
        "1 − specificity",
        "sensitivity",
        lines=(
            _line([0, 1], [0, 1], "chance"),
            _line(1 - figures.roc.specificity, figures.roc.sensitivity, "curve"),
            *_whisker(1 - consensus.specificity.value, consensus.sensitivity, upright=True),
            *_whisker(consensus.sensitivity.value, _mirrored(consensus.specificity), upright=False),
        ),
        dots=(
            *_dots([1 - point.specificity.value for point in figures.operating_points[1:]], _rules(figures), "rule"),
            *_dots([1 - consensus.specificity.value], [consensus.sensitivity.value], "consensus"),
        ),
        notes=("AUROC", text(figures.auroc, 3)),
    )


def _rules(figures: FindingFigures) -> list[float]:
    return [point.sensitivity.value for point in figures.operating_points[1:]]


def _precision_recall(figures: FindingFigures) -> Plot:
    curve, positive = figures.precision_recall, figures.positives / max(figures.studies, 1)
    return Plot(
        "Precision and recall",
        "sensitivity (recall)",
        "precision",
        lines=(_line([0, 1], [positive, positive], "chance"), _line(curve.sensitivity, curve.precision, "curve")),
        dots=tuple(_dots([figures.sensitivity.value], [figures.precision.value], "consensus")),
        notes=("AUPRC", text(figures.auprc, 3)),
        notes_at="top right" if positive < 0.3 and not figures.auprc.value > 0.5 else "bottom right",
    )


def _reliability(figures: FindingFigures) -> Plot:
    bins = figures.reliability
    filled = np.flatnonzero(bins.studies > 0)
    ranges = [
        line
        for place in filled
        for line in _whisker(
            bins.prob[place], Estimate(bins.positive_fraction[place], bins.low[place], bins.high[place]), upright=True
        )
    ]
    return Plot(
        "Calibration",
        "mean probability",
        "fraction positive",
        lines=(
            _line([0, 1], [0, 1], "chance"),
            *ranges,
            _line(bins.prob[filled], bins.positive_fraction[filled], "thin"),
        ),
        dots=tuple(_dots(bins.prob[filled], bins.positive_fraction[filled], "bin")),
        notes=("ECE", text(figures.ece, 3)),
    )


def _histogram(figures: FindingFigures) -> Plot:
    bins = figures.histogram
    of_class = [counts / max(counts.sum(), 1) for counts in (bins.negatives, bins.positives)]  # (B,) 0..1
    highest = max(float(np.max(fractions, initial=0)) for fractions in of_class) or 1.0
    negatives, positives = of_class
    return Plot(
        "Scores",
        "probability",
        "fraction of its label",
        bars=tuple(_bars(bins.edges, _FILLED * negatives / highest, "negative")),
        lines=(_steps(bins.edges, _FILLED * positives / highest, "positive"),),
        notes=("line: positive", "grey: negative"),
        notes_at="top right",
        y_ticks=_up_to(highest),
    )


def _up_to(highest: float) -> tuple[tuple[float, str], ...]:
    return (_y(0), "0"), (_y(_FILLED), f"{highest:.0%}")


def of_disagreement(figures: EnsembleFigures) -> Plot:
    """Plot how often the consensus is wrong, from the studies with the most agreement to those with the least."""
    bins = len(figures.error_fraction)
    highest = float(np.nanmax(figures.error_fraction, initial=0)) or 1.0
    return Plot(
        "Disagreement and error",
        "disagreement of the members",
        "fraction wrong",
        bars=tuple(
            _bars(np.linspace(0, 1, bins + 1), _FILLED * np.nan_to_num(figures.error_fraction) / highest, "wrong")
        ),
        notes=("AUROC of error", text(figures.error_auroc, 2)),
        notes_at="top left",
        y_ticks=_up_to(highest),
        x_ticks=((LEFT + 14, "least"), (LEFT + SIDE, "most")),
    )


def of_bins(
    title: str, x_label: str, reference: np.ndarray, later: np.ndarray, *, stands_out: bool, notes: tuple[str, ...]
) -> Plot:
    """Plot two distributions over the same B bins, (B,) fractions: the reference as a line, the later run as bars."""
    highest = float(max(reference.max(initial=0), later.max(initial=0))) or 1.0
    edges = np.linspace(0, 1, len(reference) + 1)
    return Plot(
        title,
        x_label,
        "fraction of studies",
        bars=tuple(_bars(edges, _FILLED * later / highest, "wrong" if stands_out else "negative")),
        lines=(_steps(edges, _FILLED * reference / highest, "positive"),),
        notes=notes,
        notes_at="top right",
        y_ticks=_up_to(highest),
        x_ticks=(),
    )


def of_grades(title: str, figures: Mapping[str, Sequence[Estimate]], lowest: float) -> Plot:
    """Plot figures under a corruption, from no corruption to the highest grade.

    figures  class in the style sheet → its values at every grade, the clean copy first
    lowest   lower end of the axis, 0..1
    """
    lines: list[Line] = []
    grades = np.linspace(0.06, 0.94, len(next(iter(figures.values()))))
    for rank, (kind, estimates) in enumerate(figures.items()):
        placed = [Estimate(*((max(number, lowest) - lowest) / (1 - lowest) for number in each)) for each in estimates]
        places = grades + _APART * (rank - (len(figures) - 1) / 2)
        whisker = "whisker" if kind == "rust" else "whisker blue"
        for place, each in zip(places, placed, strict=True):
            lines += _whisker(place, each, upright=True, kind=whisker)
        lines.append(_line(places, [each.value for each in placed], kind))
    return Plot(
        title,
        "grade",
        "",
        lines=tuple(lines),
        x_ticks=tuple((_x(place), str(grade)) for grade, place in enumerate(grades)),
        y_ticks=((_y(0), f"{lowest:g}"), (_y(1), "1")),
    )


class Forest(NamedTuple):
    """An interval on a line of 0..100, with the value of all studies as a mark; nan is not drawn."""

    value: float
    low: float
    high: float
    reference: float


def forest(estimates: Sequence[Estimate], reference: float) -> tuple[list[Forest], tuple[float, float]]:
    """Place all intervals on one scale. Gives the intervals, and the two ends of the scale."""
    numbers = [number for estimate in estimates for number in estimate if not math.isnan(number)]
    lowest, highest = _ends([*numbers, reference])
    width = highest - lowest

    def place(number: float) -> float:
        return round(100 * (number - lowest) / width, 2)

    placed = [
        Forest(place(estimate.value), place(estimate.low), place(estimate.high), place(reference))
        for estimate in estimates
    ]
    return placed, (lowest, highest)


def _ends(numbers: Iterable[float]) -> tuple[float, float]:
    known = [number for number in numbers if not math.isnan(number)]
    if not known:
        return 0.0, 1.0
    lowest = min(0.9, math.floor(10 * min(known)) / 10)
    return lowest, max(lowest + 0.1, math.ceil(10 * max(known)) / 10)


# ---- marks ----------------------------------------------------------------------------------------------------


def _x(value: float) -> float:
    return round(LEFT + SIDE * float(value), 1)


def _y(value: float) -> float:
    return round(TOP + SIDE * (1 - float(value)), 1)


def _line(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray, kind: str) -> Line:
    pairs = [(_x(a), _y(b)) for a, b in zip(x, y, strict=True) if not (math.isnan(a) or math.isnan(b))]
    return Line(" ".join(f"{a:g},{b:g}" for a, b in pairs), kind)


def _whisker(at: float, estimate: Estimate, upright: bool, kind: str = "whisker") -> list[Line]:
    ends = [estimate.low, estimate.high]
    if any(map(math.isnan, (at, *ends))):
        return []
    return [_line([at, at], ends, kind) if upright else _line(ends, [at, at], kind)]


def _mirrored(estimate: Estimate) -> Estimate:
    return Estimate(1 - estimate.value, 1 - estimate.high, 1 - estimate.low)


def _dots(x: Iterable[float], y: Iterable[float], kind: str) -> Iterable[Dot]:
    return [Dot(_x(a), _y(b), kind) for a, b in zip(x, y, strict=True) if not (math.isnan(a) or math.isnan(b))]


def _bars(edges: np.ndarray, heights: np.ndarray, kind: str) -> Iterable[Bar]:
    for left, right, height in zip(edges[:-1], edges[1:], heights, strict=True):
        yield Bar(_x(left), _y(height), round(_x(right) - _x(left) - 0.6, 1), round(_y(0) - _y(height), 1), kind)


def _steps(edges: np.ndarray, heights: np.ndarray, kind: str) -> Line:
    """Draw the outline of a histogram."""
    return _line(np.repeat(edges, 2), np.concatenate([[0.0], np.repeat(heights, 2), [0.0]]), kind)

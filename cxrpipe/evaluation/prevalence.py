"""The same model where the finding is rarer or more frequent: calibration and thresholds moved, and predictive values.

A *prior shift*: the films of sick and of healthy patients look as before, and only their shares change. Then
sensitivity and specificity stay, the odds of every calibrated probability change by one factor, and predictive values
follow from both. Sources: Saerens et al., Neural Computation 2002; Elkan, IJCAI 2001, theorem 2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cxrpipe.evaluation.calibration import Line
from cxrpipe.evaluation.figures import FindingFigures, PrevalenceFigures
from cxrpipe.evaluation.metrics import Estimate
from cxrpipe.evaluation.thresholds import Aims


@dataclass(frozen=True)
class PriorShift:
    """From the fraction of studies with the finding where a calibration was fitted to the one where it will be used."""

    fitted: float
    """0..1, neither of both."""
    assumed: float
    """0..1, neither of both."""

    @property
    def moves(self) -> bool:
        return self.assumed != self.fitted

    @property
    def odds_factor(self) -> float:
        """How many times the odds of the finding grow."""
        return self.assumed / (1 - self.assumed) / (self.fitted / (1 - self.fitted))

    def line(self, line: Line) -> Line:
        """Move a calibration: its intercept grows by the logarithm of the odds factor."""
        return Line(line.slope, line.intercept + float(np.log(self.odds_factor)))

    def aims(self, aims: Aims) -> Aims:
        """Weigh misses as often as they will come: for choosing a threshold on the studies of the fitted prevalence."""
        return replace(aims, miss_cost=aims.miss_cost * self.odds_factor)

    def threshold(self, threshold: float, rule: str) -> float:
        """Move a threshold with the probabilities: decisions, and so sensitivity and specificity, stay as they were.

        The rule 0.5 is about the probability itself: 0.5 stays 0.5, and decisions change.
        """
        if rule == "0.5":
            return threshold
        if rule == "prevalence" and np.isclose(threshold, self.fitted):
            return self.assumed  # without the error of rounding
        odds = threshold * self.odds_factor
        return odds / (odds + 1 - threshold)


def at_prevalence(figures: FindingFigures, prevalence: float, *, measured: bool = False) -> PrevalenceFigures:
    """Compute predictive values from sensitivity and specificity, which a prior shift does not change.

    The intervals come from the same resamples. Where sensitivity or specificity is 0 or 1 in all of them, the ends of
    the intervals of both are inserted instead.
    """
    once = _values(figures.sensitivity.value, figures.specificity.value, prevalence)
    estimates = {}
    if any(figure.value in (0, 1) for figure in (figures.sensitivity, figures.specificity)):
        corners = [
            _values(sensitivity, specificity, prevalence)
            for sensitivity in figures.sensitivity[1:]
            for specificity in figures.specificity[1:]
        ]
        for name, value in once.items():
            ends = [corner[name] for corner in corners]
            estimates[name] = Estimate(float(value), float(np.min(ends)), float(np.max(ends)))
    else:
        by_resample = _values(figures.resampled["sensitivity"], figures.resampled["specificity"], prevalence)
        estimates = {name: Estimate.of(float(value), by_resample[name]) for name, value in once.items()}
    return PrevalenceFigures(finding=figures.finding, prevalence=prevalence, measured=measured, **estimates)


def _values(sensitivity: Any, specificity: Any, prevalence: float) -> dict[str, Any]:
    """The figures of `PrevalenceFigures`, for numbers or arrays; nan where nothing is called positive, or negative."""
    hits, misses = prevalence * sensitivity, prevalence * (1 - sensitivity)
    alarms, rejections = (1 - prevalence) * (1 - specificity), (1 - prevalence) * specificity
    return {
        "ppv": _share(hits, alarms),
        "npv": _share(rejections, misses),
        "flagged_per_1000": 1000 * (hits + alarms),
        "missed_per_1000": 1000 * misses,
    }


def _share(right: Any, wrong: Any) -> Any:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(right) / (np.asarray(right) + wrong)

"""Standard errors without resampling, for studies that come in clusters (patients): Obuchowski, Biometrics 1997.

A figure is a mean over positives, over negatives, or over pairs of them. The contribution of a patient to its error is
known: for the AUROC it is the sum of DeLong's structural components over the studies of the patient. With one study per
patient, this is DeLong's method.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cxrpipe.evaluation.metrics import Estimate, Z


class Influence(NamedTuple):
    """A figure, and the contribution of each of P patients to it."""

    value: float
    positive: np.ndarray  # (P,) float, of their positive studies
    negative: np.ndarray  # (P,) float, of their negative studies
    has_positive: np.ndarray  # (P,) bool
    has_negative: np.ndarray  # (P,) bool

    def __sub__(self, other: Influence) -> Influence:
        """Subtract two figures of the same P patients; a patient may have studies in both."""
        return Influence(
            self.value - other.value,
            self.positive - other.positive,
            self.negative - other.negative,
            self.has_positive | other.has_positive,
            self.has_negative | other.has_negative,
        )

    @property
    def standard_error(self) -> float:
        """Standard error of the figure; nan with fewer than two patients of a class that counts."""
        both = self.has_positive | self.has_negative
        variance = _sum(self.positive, self.positive, self.has_positive)
        variance += _sum(self.negative, self.negative, self.has_negative)
        variance += 2 * _sum(self.positive, self.negative, both)
        return float(np.sqrt(max(variance, 0.0))) if not np.isnan(variance) else float("nan")

    def estimate(self) -> Estimate:
        """Give the interval of a difference of fractions by the normal law, cut to -1..1."""
        half = Z * self.standard_error
        return Estimate(self.value, *(float(np.clip(end, -1, 1)) for end in (self.value - half, self.value + half)))

    def fraction_estimate(self) -> Estimate:
        """Give the interval of a fraction by the normal law of its logit, which stays within 0..1.

        Source: Pepe, The Statistical Evaluation of Medical Tests (2003), section 5.2.
        """
        if not 0 < self.value < 1:
            return Estimate(self.value, *(max(end, 0.0) for end in self.estimate()[1:]))
        logit = np.log(self.value / (1 - self.value))
        half = Z * self.standard_error / (self.value * (1 - self.value))
        return Estimate(self.value, *(float(1 / (1 + np.exp(-end))) for end in (logit - half, logit + half)))

    @property
    def p_value(self) -> float:
        """Two-sided p-value of the figure being 0; 1 where it is 0 and nothing varies."""
        from scipy.stats import norm

        error = self.standard_error
        if np.isnan(error) or np.isnan(self.value):
            return float("nan")
        if error == 0:
            return 1.0 if self.value == 0 else 0.0
        return float(2 * norm.sf(abs(self.value) / error))


def _sum(first: np.ndarray, second: np.ndarray, present: np.ndarray) -> float:
    """Sum products over clusters, corrected for their number; 0 where the class does not count for the figure."""
    total, clusters = float(first @ second), int(np.count_nonzero(present))
    if clusters == 0 or (total == 0 and not first.any()):
        return 0.0
    return total * clusters / (clusters - 1) if clusters > 1 else float("nan")


def auroc(targets: np.ndarray, probs: np.ndarray, patients: np.ndarray, count: int) -> Influence:
    """Compute the AUROC and what every patient contributes.

    targets, probs  (N,) bool and float
    patients        (N,) int, 0..count-1
    """
    has = [np.bincount(patients[of_class], minlength=count) > 0 for of_class in (targets, ~targets)]
    above, below = probs[targets], probs[~targets]
    if not len(above) or not len(below):
        return Influence(float("nan"), np.zeros(count), np.zeros(count), has[0], has[1])
    of_positives = _placement(above, below)
    of_negatives = 1 - _placement(below, above)
    value = float(of_positives.mean())
    return Influence(
        value,
        np.bincount(patients[targets], of_positives - value, minlength=count) / len(above),
        np.bincount(patients[~targets], of_negatives - value, minlength=count) / len(below),
        has[0],
        has[1],
    )


def _placement(probs: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Give for every probability the fraction of the others below it; a tie counts half."""
    others = np.sort(others)
    return (np.searchsorted(others, probs, "left") + np.searchsorted(others, probs, "right")) / (2 * len(others))


def fraction(of: np.ndarray, hits: np.ndarray, patients: np.ndarray, count: int) -> Influence:
    """Compute the fraction of hits, (N,) bool, among the studies `of`, (N,) bool: sensitivity or specificity."""
    present = np.bincount(patients[of], minlength=count) > 0
    nobody, zeros = np.zeros(count, bool), np.zeros(count)
    if not of.any():
        return Influence(float("nan"), zeros, zeros, present, nobody)
    value = float(hits[of].mean())
    moved = np.bincount(patients[of], hits[of] - value, minlength=count) / np.count_nonzero(of)
    return Influence(value, moved, zeros, present, nobody)


def holm(p_values: np.ndarray) -> np.ndarray:
    """Correct p-values by Holm's method, in the same order; nan marks gaps that were not tested, and stays nan."""
    adjusted = np.full(len(p_values), np.nan)
    tested = np.flatnonzero(~np.isnan(p_values))
    order = tested[np.argsort(p_values[tested])]
    steps = p_values[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1) if len(order) else steps
    return adjusted

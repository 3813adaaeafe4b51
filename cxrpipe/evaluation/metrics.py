"""Figures of merit as values that add up, and the bootstrap over patients that gives them intervals.

Arrays are aligned: N studies, R resamples. Studies are weighed by one (R, N) array only: how often a study stands in
a resample. Every figure takes this array, so every figure can have an interval. A figure that is not defined (no
positives, one class) is nan and never silently 0.

Not here: choosing thresholds (`thresholds`), curves for the eye (`curves`), distances of outlines (`boundary`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

CELLS = 2**18
"""Entries of one (r, N) chunk of weights: 1 MiB, near the size of a cache. 28,000 studies x 400 resamples, one AUROC:
0.36 s in float64, 0.14 s in float32. Measure again: python benchmarks/evaluation.py --time"""
_EXACT = 2**24
"""float32 holds every integer up to this number."""
Z = 1.959963984540054
"""Quantile of the normal law for 95% intervals."""


Count = Any
"""An int, or an (R,) array with one entry per resample; figures made of them are a float or an (R,) array."""


@dataclass(frozen=True)
class Counts:
    """A confusion matrix, and the figures that follow from it."""

    true_positive: Count
    false_positive: Count
    false_negative: Count
    true_negative: Count

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.true_positive + other.true_positive,
            self.false_positive + other.false_positive,
            self.false_negative + other.false_negative,
            self.true_negative + other.true_negative,
        )

    @property
    def positives(self) -> Count:
        return self.true_positive + self.false_negative

    @property
    def negatives(self) -> Count:
        return self.true_negative + self.false_positive

    @property
    def studies(self) -> Count:
        return self.positives + self.negatives

    @property
    def sensitivity(self) -> Any:
        return _ratio(self.true_positive, self.positives)

    @property
    def specificity(self) -> Any:
        return _ratio(self.true_negative, self.negatives)

    @property
    def precision(self) -> Any:
        return _ratio(self.true_positive, self.true_positive + self.false_positive)

    @property
    def npv(self) -> Any:
        return _ratio(self.true_negative, self.true_negative + self.false_negative)

    @property
    def f1(self) -> Any:
        return _ratio(2 * self.true_positive, self.positives + self.true_positive + self.false_positive)

    @property
    def accuracy(self) -> Any:
        return _ratio(self.true_positive + self.true_negative, self.studies)

    @property
    def balanced_accuracy(self) -> Any:
        return (self.sensitivity + self.specificity) / 2


@dataclass(frozen=True)
class Overlap:
    """How many pixels a predicted and a true mask share.

    Two empty masks agree completely: Dice and IoU are 1. If only one mask is empty, both are 0. So an empty mask counts
    for or against the model and is never left out.
    """

    intersection_px: int
    predicted_px: int
    truth_px: int

    def __add__(self, other: Overlap) -> Overlap:
        return Overlap(
            self.intersection_px + other.intersection_px,
            self.predicted_px + other.predicted_px,
            self.truth_px + other.truth_px,
        )

    @property
    def dice(self) -> float:
        drawn_px = self.predicted_px + self.truth_px
        return 2 * self.intersection_px / drawn_px if drawn_px else 1.0

    @property
    def iou(self) -> float:
        union_px = self.predicted_px + self.truth_px - self.intersection_px
        return self.intersection_px / union_px if union_px else 1.0


class Estimate(NamedTuple):
    """A figure and its 95% interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, resampled: np.ndarray) -> Estimate:
        """Give a figure its bias-corrected percentile interval over (R,) resampled figures; nan is left out.

        Near 1, resamples fall below the figure more often than above it. Plain percentiles then lie too low, and with
        200 patients they miss the truth in 7% of archives (docs/evaluation.md). Source: Efron, J Am Stat Assoc 1987.
        """
        from scipy.special import ndtr, ndtri

        defined = resampled[~np.isnan(resampled)]
        if np.isnan(value) or not len(defined):
            return cls(float(value), np.nan, np.nan)
        below = (np.count_nonzero(defined < value) + np.count_nonzero(defined <= value)) / (2 * len(defined))
        bias = ndtri(np.clip(below, 0.5 / len(defined), 1 - 0.5 / len(defined)))
        low, high = np.quantile(defined, ndtr(2 * bias + ndtri([0.025, 0.975])))
        return cls(float(value), float(low), float(high))


def wilson(fraction: Any, studies: Any) -> tuple[Any, Any]:
    """Give low and high end of Wilson's 95% interval of a fraction, 0..1, for numbers or arrays.

    Source: Wilson, J Am Stat Assoc 1927.
    """
    centre = (fraction + Z**2 / (2 * studies)) / (1 + Z**2 / studies)
    half = Z * np.sqrt(fraction * (1 - fraction) / studies + Z**2 / (4 * studies**2)) / (1 + Z**2 / studies)
    return np.maximum(centre - half, 0.0), np.minimum(centre + half, 1.0)


class Ranking:
    """Studies sorted by probability once, to compute AUROC and average precision with any weights."""

    def __init__(self, targets: np.ndarray, probs: np.ndarray) -> None:
        """targets (N,) bool; probs (N,) float, none nan"""
        ascending = np.argsort(probs, kind="stable")
        self.positives = ascending[targets[ascending]]  # (N+,) positions of the positive studies
        self.negatives = ascending[~targets[ascending]]  # (N-,)
        of_positives, of_negatives = probs[self.positives], probs[self.negatives]
        self.below = np.searchsorted(of_negatives, of_positives, side="left")  # (N+,) negatives with a smaller prob
        self.not_above = np.searchsorted(of_negatives, of_positives, side="right")  # (N+,) those and the tied ones
        self.below_own = np.searchsorted(of_positives, of_positives, side="left")  # (N+,) positives with a smaller prob

    def auroc(self, weights: np.ndarray) -> np.ndarray:
        """Compute how often a positive is above a negative: (R, N) weights → (R,). A tie counts half."""
        area: np.ndarray = self.areas(weights)[0]
        return area

    def areas(self, weights: np.ndarray) -> np.ndarray:
        """Compute AUROC and average precision: (R, N) weights → (2, R).

        Average precision is the mean over positives of the precision at the probability of the positive.
        """
        weights_positive = np.take(weights, self.positives, axis=1)  # (R, N+)
        passed = _passed(np.take(weights, self.negatives, axis=1))  # (R, N- + 1) weight of the k lowest negatives
        passed_own = _passed(weights_positive)  # (R, N+ + 1)
        below = np.take(passed, self.below, axis=1)
        wins = below + np.take(passed, self.not_above, axis=1)
        won = np.einsum("rp,rp->r", weights_positive, wins, dtype=np.float64) / 2
        positives, negatives = passed_own[:, -1:].astype(np.float64), passed[:, -1:].astype(np.float64)
        hits = positives - np.take(passed_own, self.below_own, axis=1)  # (R, N+) positives at or above each positive
        false_alarms = negatives - below
        precision = np.divide(hits, hits + false_alarms, out=np.zeros_like(hits), where=hits > 0)
        precisions = np.einsum("rp,rp->r", weights_positive, precision)
        return np.stack([_ratio(won, (positives * negatives)[:, 0]), _ratio(precisions, positives[:, 0])])


def _passed(weights: np.ndarray) -> np.ndarray:
    """Sum the first k weights, k = 0..N: (R, N) → (R, N + 1)."""
    sums = np.zeros((len(weights), weights.shape[1] + 1), weights.dtype)
    np.cumsum(weights, axis=1, out=sums[:, 1:])
    return sums


def confusion(targets: np.ndarray, positive: np.ndarray, weights: np.ndarray | None = None) -> Counts:
    """Count decisions against targets.

    targets, positive  (N,) bool
    weights            (R, N): the four counts are (R,) arrays; None: they are ints
    """
    outcomes = np.stack(
        [targets & positive, ~targets & positive, targets & ~positive, ~targets & ~positive], axis=1
    )  # (N, 4)
    if weights is None:
        return Counts(*outcomes.sum(axis=0).tolist())
    return Counts(*(weights.astype(np.float64) @ outcomes).T)


def overlap(predicted: np.ndarray, truth: np.ndarray) -> Overlap:
    """Count the pixels that two masks share: (H, W) bool each, on the same grid."""
    return Overlap(
        intersection_px=int(np.count_nonzero(predicted & truth)),
        predicted_px=int(np.count_nonzero(predicted)),
        truth_px=int(np.count_nonzero(truth)),
    )


def auroc(targets: np.ndarray, probs: np.ndarray, weights: np.ndarray | None = None) -> Any:
    """Compute the area under the ROC curve; nan with one class only.

    targets  (N,) bool
    probs    (N,) float, none nan
    weights  (R, N): the areas of R resamples, (R,); None: one float
    """
    ranking = Ranking(targets, probs)
    if weights is None:
        return float(ranking.auroc(np.ones((1, len(targets))))[0])
    rows = _rows_per_chunk(len(targets))
    chunks = [ranking.auroc(weights[start : start + rows]) for start in range(0, len(weights), rows)]
    return np.concatenate(chunks)


def resample_weights(groups: np.ndarray, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Draw as many patients as there are, with replacement, `resamples` times.

    groups  (N,) the patient of each study

    Yields (r, N) float chunks, whose r sum to `resamples`: how often a study stands in a resample.
    All studies of a patient are drawn together, so that the interval accounts for their resemblance.
    """
    patients, patient = np.unique(groups, return_inverse=True)  # (P,), (N,) 0..P-1
    for times in resample_patients(len(patients), resamples, seed, len(groups)):
        yield np.take(times, patient, axis=1)


def resample_patients(patients: int, resamples: int, seed: int, studies: int = 0) -> Iterator[np.ndarray]:
    """Draw patients as `resample_weights` does: (r, P) chunks of how often a patient is drawn.

    studies  of these patients, for the size of a chunk
    """
    rng = np.random.default_rng(seed)
    rows = _rows_per_chunk(max(studies, patients))
    dtype = np.float32 if max(studies, patients) < _EXACT else np.float64
    for start in range(0, resamples, rows):
        r = min(rows, resamples - start)
        drawn = rng.integers(max(patients, 1), size=(r, patients))
        drawn += patients * np.arange(r)[:, None]
        yield np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape).astype(dtype)


def _rows_per_chunk(studies: int) -> int:
    return max(1, CELLS // max(studies, 1))


def _ratio(part: Any, whole: Any) -> Any:
    """Divide part by whole; nan where the whole is 0. Gives a float for numbers, an array for arrays."""
    undefined = np.full(np.shape(whole), np.nan)
    ratio = np.divide(part, whole, out=undefined, where=np.asarray(whole) != 0)
    return ratio if np.ndim(ratio) else float(ratio)

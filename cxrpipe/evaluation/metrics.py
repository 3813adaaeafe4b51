"""Figures of merit as values that add up, and the patient-level bootstrap that gives them intervals.

Arrays come in aligned: N studies, R resamples. The one way to weigh studies is an (R, N) array of how
often each study stands in each resample; every figure takes it, so every figure can have an interval.
A figure that is not defined (no positives, one class) is nan, never a silent zero.

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
"""float32 counts to this without a gap."""
Z = 1.959963984540054
"""The normal law's quantile for 95% intervals."""


Count = Any
"""An int, or an (R,) array with one entry per resample; figures made of them are a float or an (R,) array."""


@dataclass(frozen=True)
class Counts:
    """A confusion matrix."""

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
    """How a predicted mask lies over the true one, in pixels.

    Two empty masks agree completely: Dice and IoU are 1. Anything drawn where nothing is, or nothing
    where something is, is 0. So an empty mask counts for or against the model and never drops out.
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
        """Bias-corrected percentile interval over (R,) resampled figures; those not defined (nan) stay out.

        Near 1 resamples fall below the figure more often than above it; plain percentiles then lie too low, and with
        200 patients miss the truth in 7% of archives (docs/evaluation.md). Source: Efron, J Am Stat Assoc 1987.
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
    """Low and high end of Wilson's 95% interval of a fraction, 0..1; numbers or arrays.

    Source: Wilson, J Am Stat Assoc 1927.
    """
    centre = (fraction + Z**2 / (2 * studies)) / (1 + Z**2 / studies)
    half = Z * np.sqrt(fraction * (1 - fraction) / studies + Z**2 / (4 * studies**2)) / (1 + Z**2 / studies)
    return np.maximum(centre - half, 0.0), np.minimum(centre + half, 1.0)


class Ranking:
    """Studies sorted by probability once, ready to give AUROC and average precision for any weights."""

    def __init__(self, targets: np.ndarray, probs: np.ndarray) -> None:
        """targets (N,) bool; probs (N,) float, none nan"""
        ascending = np.argsort(probs, kind="stable")
        self.positives = ascending[targets[ascending]]  # (N+,) where the positive studies stand
        self.negatives = ascending[~targets[ascending]]  # (N-,)
        of_positives, of_negatives = probs[self.positives], probs[self.negatives]
        self.below = np.searchsorted(of_negatives, of_positives, side="left")  # (N+,) negatives with a smaller prob
        self.not_above = np.searchsorted(of_negatives, of_positives, side="right")  # (N+,) those and the tied ones
        self.below_own = np.searchsorted(of_positives, of_positives, side="left")  # (N+,) positives with a smaller prob

    def auroc(self, weights: np.ndarray) -> np.ndarray:
        """(R, N) weights -> (R,): how often a positive stands above a negative, a tie counting half."""
        return self.areas(weights)[0]

    def areas(self, weights: np.ndarray) -> np.ndarray:
        """(R, N) weights -> (2, R): AUROC and average precision.

        The latter is the mean over positives of the precision at their own probability.
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
        found = np.einsum("rp,rp->r", weights_positive, precision)
        return np.stack([_ratio(won, (positives * negatives)[:, 0]), _ratio(found, positives[:, 0])])


def _passed(weights: np.ndarray) -> np.ndarray:
    """(R, N) → (R, N + 1): the sum of the first k."""
    sums = np.zeros((len(weights), weights.shape[1] + 1), weights.dtype)
    np.cumsum(weights, axis=1, out=sums[:, 1:])
    return sums


def confusion(targets: np.ndarray, positive: np.ndarray, weights: np.ndarray | None = None) -> Counts:
    """Count what was called positive against what is.

    targets, positive  (N,) bool
    weights            (R, N): the four counts are (R,) arrays; without them, ints
    """
    outcomes = np.stack(
        [targets & positive, ~targets & positive, targets & ~positive, ~targets & ~positive], axis=1
    )  # (N, 4)
    if weights is None:
        return Counts(*outcomes.sum(axis=0).tolist())
    return Counts(*(weights.astype(np.float64) @ outcomes).T)


def overlap(predicted: np.ndarray, truth: np.ndarray) -> Overlap:
    """predicted, truth: (H, W) bool, on the same grid."""
    return Overlap(
        intersection_px=int(np.count_nonzero(predicted & truth)),
        predicted_px=int(np.count_nonzero(predicted)),
        truth_px=int(np.count_nonzero(truth)),
    )


def auroc(targets: np.ndarray, probs: np.ndarray, weights: np.ndarray | None = None) -> Any:
    """Area under the ROC curve, nan where there is one class only.

    targets  (N,) bool
    probs    (N,) float, none nan
    weights  (R, N): the areas of R resamples, (R,); without them, one float
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

    Yields (r, N) float chunks, r summing up to `resamples`: how often each study stands in each resample.
    All studies of a patient are drawn together, so the interval knows that they resemble each other.
    """
    patients, patient = np.unique(groups, return_inverse=True)  # (P,), (N,) 0..P-1
    for times in resample_patients(len(patients), resamples, seed, len(groups)):
        yield np.take(times, patient, axis=1)


def resample_patients(patients: int, resamples: int, seed: int, studies: int = 0) -> Iterator[np.ndarray]:
    """As `resample_weights`, (r, P): how often each of 0..P-1 is drawn. Chunks are sized for so many `studies`."""
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
    """part / whole, nan where the whole is 0; a float for numbers, an array for arrays."""
    undefined = np.full(np.shape(whole), np.nan)
    ratio = np.divide(part, whole, out=undefined, where=np.asarray(whole) != 0)
    return ratio if np.ndim(ratio) else float(ratio)

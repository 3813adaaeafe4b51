"""Figures of merit as values that add up, and the patient-level bootstrap that gives them intervals.

Arrays come in aligned: N studies, R resamples. The one way to weigh studies is an (R, N) array of how
often each study stands in each resample; every figure takes it, so every figure can have an interval.
A figure that is not defined (no positives, one class) is nan, never a silent zero.

Not here: choosing thresholds, calibration, boundary distances.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

CELLS = 2**18
"""Entries of one (r, N) chunk of weights: 2 MiB, near the size of a cache. 2**21 was no faster, took twice
the processor time and 80 MiB more. Measure again: python -m tests.test_evaluation"""


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
    def f1(self) -> Any:
        return _ratio(2 * self.true_positive, self.positives + self.true_positive + self.false_positive)

    @property
    def accuracy(self) -> Any:
        return _ratio(self.true_positive + self.true_negative, self.studies)


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
        """Percentile interval over (R,) resampled figures; those that are not defined (nan) stay out."""
        defined = resampled[~np.isnan(resampled)]
        if np.isnan(value) or not len(defined):
            return cls(float(value), np.nan, np.nan)
        low, high = np.percentile(defined, [2.5, 97.5])
        return cls(float(value), float(low), float(high))


class Roc(NamedTuple):
    """A ROC curve from "nothing is positive" to "everything is"; empty where only one class is seen."""

    specificity: np.ndarray  # (P,) float, 1..0
    sensitivity: np.ndarray  # (P,) float, 0..1


class Ranking:
    """Studies sorted by probability once, ready to give an AUROC for any weights."""

    def __init__(self, targets: np.ndarray, probs: np.ndarray) -> None:
        """targets (N,) bool; probs (N,) float, none nan"""
        ascending = np.argsort(probs, kind="stable")
        self.positives = ascending[targets[ascending]]  # (N+,) where the positive studies stand
        self.negatives = ascending[~targets[ascending]]  # (N-,)
        below = probs[self.negatives], probs[self.positives]
        self.below = np.searchsorted(*below, side="left")  # (N+,) negatives with a smaller prob
        self.not_above = np.searchsorted(*below, side="right")  # (N+,) those and the tied ones

    def auroc(self, weights: np.ndarray) -> np.ndarray:
        """(R, N) weights -> (R,): how often a positive stands above a negative, a tie counting half."""
        weights_positive = np.take(weights, self.positives, axis=1)  # (R, N+)
        passed = np.zeros((len(weights), len(self.negatives) + 1))  # (R, N- + 1) weight of the k lowest negatives
        np.cumsum(np.take(weights, self.negatives, axis=1), axis=1, out=passed[:, 1:])
        wins = np.take(passed, self.below, axis=1) + np.take(passed, self.not_above, axis=1)
        won = np.einsum("rp,rp->r", weights_positive, wins) / 2
        return _ratio(won, weights_positive.sum(axis=1) * passed[:, -1])


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
    return Counts(*(weights @ outcomes.astype(np.float64)).T)


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


def roc(targets: np.ndarray, probs: np.ndarray, points: int = 200) -> Roc:
    """The ROC curve in at most `points` points, evenly spaced along it; made for the eye, not for areas."""
    from sklearn.metrics import roc_curve  # takes 1.5 s to import, and training needs AUROCs only

    if targets.all() or not targets.any():
        return Roc(np.empty(0), np.empty(0))
    false_positive_fraction, sensitivity, _ = roc_curve(targets, probs)
    along = false_positive_fraction + sensitivity  # 0..2, ascending
    kept = np.unique(np.searchsorted(along, np.linspace(0, along[-1], points)))
    return Roc(1 - false_positive_fraction[kept], sensitivity[kept])


def resample_weights(groups: np.ndarray, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Draw as many patients as there are, with replacement, `resamples` times.

    groups  (N,) the patient of each study

    Yields (r, N) float64 chunks, r summing up to `resamples`: how often each study stands in each resample.
    All studies of a patient are drawn together, so the interval knows that they resemble each other.
    """
    patients, patient = np.unique(groups, return_inverse=True)  # (P,), (N,) 0..P-1
    rng = np.random.default_rng(seed)
    rows = _rows_per_chunk(len(groups))
    for start in range(0, resamples, rows):
        r = min(rows, resamples - start)
        drawn = rng.integers(max(len(patients), 1), size=(r, len(patients)))
        drawn += len(patients) * np.arange(r)[:, None]
        times = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)  # (r, P)
        yield np.take(times.astype(np.float64), patient, axis=1)


def _rows_per_chunk(studies: int) -> int:
    return max(1, CELLS // max(studies, 1))


def _ratio(part: Any, whole: Any) -> Any:
    """part / whole, nan where the whole is 0; a float for numbers, an array for arrays."""
    undefined = np.full(np.shape(whole), np.nan)
    ratio = np.divide(part, whole, out=undefined, where=np.asarray(whole) != 0)
    return ratio if np.ndim(ratio) else float(ratio)

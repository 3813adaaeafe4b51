"""Curves for the eye: ROC, precision against sensitivity, reliability, histograms. Areas are never taken from them."""

from __future__ import annotations

import numpy as np

from cxrpipe.evaluation.figures import PrecisionRecall, Reliability, Roc, ScoreHistogram
from cxrpipe.evaluation.metrics import wilson

RELIABILITY_BINS = 10
_HISTOGRAM_BINS = 40


def roc(targets: np.ndarray, probs: np.ndarray, points: int = 200) -> Roc:
    """The ROC curve in at most `points` points, evenly spaced along it.

    targets, probs  (N,) bool and float
    """
    from sklearn.metrics import roc_curve  # takes 1.5 s to import

    if targets.all() or not targets.any():
        return Roc(np.empty(0), np.empty(0))
    false_positive_fraction, sensitivity, _ = roc_curve(targets, probs)
    kept = _evenly(false_positive_fraction + sensitivity, points)
    return Roc(1 - false_positive_fraction[kept], sensitivity[kept])


def precision_recall(targets: np.ndarray, probs: np.ndarray, points: int = 200) -> PrecisionRecall:
    """The curve in at most `points` points, evenly spaced along sensitivity."""
    from sklearn.metrics import precision_recall_curve

    if not targets.any():
        return PrecisionRecall(np.empty(0), np.empty(0))
    precision, sensitivity, _ = precision_recall_curve(targets, probs)
    precision, sensitivity = precision[::-1], sensitivity[::-1]
    kept = _evenly(sensitivity, points)
    return PrecisionRecall(sensitivity[kept], precision[kept])


def _evenly(along: np.ndarray, points: int) -> np.ndarray:
    """Places of an ascending array, at most so many, nearly evenly spaced by its values."""
    return np.unique(np.searchsorted(along, np.linspace(along[0], along[-1], points)))


def bins_of(probs: np.ndarray, bins: int = RELIABILITY_BINS) -> np.ndarray:
    """(N,) int, the bin of equal width over 0..1; 1 belongs to the last. An edge belongs to the bin above it."""
    return np.minimum((probs * bins).astype(int), bins - 1)


def reliability(targets: np.ndarray, probs: np.ndarray, bins: int = RELIABILITY_BINS) -> Reliability:
    """Mean probability and fraction of positives per bin, with Wilson's interval."""
    place = bins_of(probs, bins)
    studies = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore", divide="ignore"):
        prob = np.bincount(place, probs, minlength=bins) / studies
        fraction = np.bincount(place, targets, minlength=bins) / studies
        low, high = wilson(fraction, studies)
    return Reliability(np.linspace(0, 1, bins + 1), studies, prob, fraction, low, high)


def calibration_error(targets: np.ndarray, probs: np.ndarray, bins: int = RELIABILITY_BINS) -> float:
    """Expected calibration error: the mean over studies of |probability − fraction of positives| of their bin."""
    if not len(probs):
        return float("nan")
    off = np.bincount(bins_of(probs, bins), probs - targets, minlength=bins)
    return float(np.abs(off).sum() / len(probs))


def histogram(targets: np.ndarray, probs: np.ndarray, bins: int = _HISTOGRAM_BINS) -> ScoreHistogram:
    place = bins_of(probs, bins)
    positives, negatives = (np.bincount(place[which], minlength=bins) for which in (targets, ~targets))
    return ScoreHistogram(np.linspace(0, 1, bins + 1), positives, negatives)

"""Curves to draw: ROC, precision against sensitivity, reliability, histograms. Areas are never computed from them."""

from __future__ import annotations

import numpy as np

from cxrpipe.evaluation.figures import PrecisionRecall, Reliability, Roc, ScoreHistogram
from cxrpipe.evaluation.metrics import wilson

RELIABILITY_BINS = 10
_HISTOGRAM_BINS = 40


def roc(targets: np.ndarray, probs: np.ndarray, points: int = 200) -> Roc:
    """Compute the ROC curve in at most `points` points, evenly spaced along the curve.

    targets, probs  (N,) bool and float
    """
    from sklearn.metrics import roc_curve  # takes 1.5 s to import

    if targets.all() or not targets.any():
        return Roc(np.empty(0), np.empty(0))
    false_positive_fraction, sensitivity, _ = roc_curve(targets, probs)
    kept = _evenly(false_positive_fraction + sensitivity, points)
    return Roc(1 - false_positive_fraction[kept], sensitivity[kept])


def precision_recall(targets: np.ndarray, probs: np.ndarray, points: int = 200) -> PrecisionRecall:
    """Compute precision against sensitivity in at most `points` points, evenly spaced along sensitivity."""
    from sklearn.metrics import precision_recall_curve

    if not targets.any():
        return PrecisionRecall(np.empty(0), np.empty(0))
    precision, sensitivity, _ = precision_recall_curve(targets, probs)
    precision, sensitivity = precision[::-1], sensitivity[::-1]
    kept = _evenly(sensitivity, points)
    return PrecisionRecall(sensitivity[kept], precision[kept])


def _evenly(along: np.ndarray, points: int) -> np.ndarray:
    """Choose at most `points` places of an ascending array, nearly evenly spaced by its values."""
    places: np.ndarray = np.unique(np.searchsorted(along, np.linspace(along[0], along[-1], points)))
    return places


def bins_of(probs: np.ndarray, bins: int = RELIABILITY_BINS) -> np.ndarray:
    """Sort probabilities into bins of equal width over 0..1: (N,) int.

    An edge belongs to the bin above it, and 1 to the last bin.
    """
    bin_of: np.ndarray = np.minimum((probs * bins).astype(int), bins - 1)
    return bin_of


def reliability(targets: np.ndarray, probs: np.ndarray, bins: int = RELIABILITY_BINS) -> Reliability:
    """Compute mean probability and fraction of positives of every bin, with Wilson's interval."""
    bin_of = bins_of(probs, bins)
    studies = np.bincount(bin_of, minlength=bins)
    with np.errstate(invalid="ignore", divide="ignore"):
        prob = np.bincount(bin_of, probs, minlength=bins) / studies
        fraction = np.bincount(bin_of, targets, minlength=bins) / studies
        low, high = wilson(fraction, studies)
    return Reliability(np.linspace(0, 1, bins + 1), studies, prob, fraction, low, high)


def calibration_error(targets: np.ndarray, probs: np.ndarray, bins: int = RELIABILITY_BINS) -> float:
    """Compute the expected calibration error.

    It is the mean over studies of |mean probability − fraction of positives| of their bin.
    """
    if not len(probs):
        return float("nan")
    off = np.bincount(bins_of(probs, bins), probs - targets, minlength=bins)
    return float(np.abs(off).sum() / len(probs))


def histogram(targets: np.ndarray, probs: np.ndarray, bins: int = _HISTOGRAM_BINS) -> ScoreHistogram:
    """Count the positive and the negative studies in every bin."""
    bin_of = bins_of(probs, bins)
    positives, negatives = (np.bincount(bin_of[of_class], minlength=bins) for of_class in (targets, ~targets))
    return ScoreHistogram(np.linspace(0, 1, bins + 1), positives, negatives)

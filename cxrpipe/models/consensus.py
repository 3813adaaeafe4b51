"""Combines opinions: the views of a study by a rule, the members of an ensemble by mean and vote."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

VIEW_RULES = ("max", "mean", "min")


class Consensus(NamedTuple):
    """The opinion of K members on N studies and F findings. Only the knowers of a finding count: see `combine`."""

    mean: np.ndarray  # (N, F) float32, 0..1; nan: no member has a number
    votes: np.ndarray  # (N, F) int8, 0..K
    agreed: np.ndarray  # (N, F) bool
    disagreement: np.ndarray  # (N, F) float32, standard deviation of the members, 0 for one; nan as in `mean`


def aggregate_views(probs: np.ndarray, rules: Sequence[str]) -> np.ndarray:
    """Combine the probabilities of a study's views, (V, F) → (F,), by the rule of each finding: max, mean or min."""
    by_rule = {"max": probs.max(axis=0), "mean": probs.mean(axis=0), "min": probs.min(axis=0)}
    return np.array([by_rule[rule][column] for column, rule in enumerate(rules)], dtype=np.float32)


def calibrate(probs: np.ndarray, slope: np.ndarray, intercept: np.ndarray) -> np.ndarray:
    """Apply Platt's calibration to the logits of (…, F) probabilities. Slope 1 with intercept 0 changes nothing."""
    clipped = np.clip(probs.astype(np.float64), 1e-7, 1 - 1e-7)
    logits = np.log(clipped / (1 - clipped))
    calibrated = (1 / (1 + np.exp(-(slope * logits + intercept)))).astype(np.float32)
    return np.where((slope == 1) & (intercept == 0), probs.astype(np.float32), calibrated)


def combine(probs: np.ndarray, thresholds: np.ndarray) -> Consensus:
    """Average the members' probabilities, count how many reach their threshold, and decide.

    The *knowers* of a finding in a study are the members that have a number for it. The others have no say: neither
    their votes nor their thresholds count, and the majority is one of knowers.

    probs       (K, N, F) float, 0..1, calibrated; nan: the member does not know the finding, or has no number here
    thresholds  (K, F)    float, the operating point of each member; nan where it does not know the finding
    """
    knows, of_all = ~np.isnan(probs), np.broadcast_to(thresholds[:, None, :], probs.shape)
    knowers, mean = knows.sum(axis=0), _mean(probs, knows)
    votes = (knows & (probs >= of_all)).sum(axis=0, dtype=np.int8)
    doubled = 2 * votes.astype(np.int16)
    tie = mean >= _mean(of_all, knows)
    return Consensus(
        mean=mean,
        votes=votes,
        agreed=np.where(doubled == knowers, tie, doubled > knowers),
        disagreement=np.sqrt(_mean((probs - mean) ** 2, knows)),
    )


def _mean(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """(K, N, F) → (N, F) float32: the mean over the members at `where`; nan where there is none."""
    members = where.sum(axis=0)
    sums = values.sum(axis=0, dtype=np.float32, where=where)
    means = np.full(members.shape, np.nan, np.float32)
    np.divide(sums, members, out=means, where=members > 0, casting="unsafe")
    return means

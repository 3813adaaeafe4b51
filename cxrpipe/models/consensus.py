"""Combines opinions: the views of a study by a rule, the members of an ensemble by mean and vote."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

VIEW_RULES = ("max", "mean", "min")


class Consensus(NamedTuple):
    """The opinion of K members on N studies and F findings."""

    mean: np.ndarray  # (N, F) float32, 0..1
    votes: np.ndarray  # (N, F) int8, 0..K
    agreed: np.ndarray  # (N, F) bool
    disagreement: np.ndarray  # (N, F) float32, standard deviation of the members


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

    probs       (K, N, F) float, 0..1, calibrated
    thresholds  (K, F)    float, the operating point of each member
    """
    mean = probs.mean(axis=0, dtype=np.float32)
    votes = (probs >= thresholds[:, None, :]).sum(axis=0, dtype=np.int8)
    doubled = 2 * votes.astype(np.int16)
    tie = mean >= thresholds.mean(axis=0, dtype=np.float32)
    return Consensus(
        mean=mean,
        votes=votes,
        agreed=np.where(doubled == len(probs), tie, doubled > len(probs)),
        disagreement=probs.std(axis=0, dtype=np.float32),
    )

"""Calibration of a member, fitted on studies: Platt's line in the space of logits, or a temperature alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cxrpipe.errors import ConfigError
from cxrpipe.evaluation.figures import Reliability
from cxrpipe.models import consensus

FEWEST = 10
"""Studies of either kind, below which nothing is fitted to a finding."""
_CLIP = 1e-7  # as `ensemble.calibrate`
_FOLDS = 5


class Line(NamedTuple):
    """calibrated logit = slope · logit + intercept; a temperature is 1 / slope."""

    slope: float
    intercept: float

    def apply(self, probs: np.ndarray) -> np.ndarray:
        """(N,) float32, exactly what scoring makes of them."""
        return consensus.calibrate(probs, np.array(self.slope), np.array(self.intercept))


UNCHANGED = Line(1.0, 0.0)


@dataclass(frozen=True, eq=False, kw_only=True)
class FittedFinding:
    """The calibration and threshold of one finding of one member, and what they changed."""

    finding: str
    studies: int
    positives: int
    line: Line
    threshold: float
    error_before: float
    """Expected calibration error, 0..1."""
    error_after: float
    """Of studies that the line was not fitted on: five folds of patients."""
    before: Reliability
    after: Reliability


def fit(probs: np.ndarray, targets: np.ndarray, method: str) -> Line:
    """The line of highest likelihood under Platt's targets: (N+ + 1) / (N+ + 2) and 1 / (N- + 2), which keep it finite
    where the classes are separate.

    probs, targets  (N,) float and bool, both classes. ConfigError where the finding is the likelier the lower the
                    probability: no calibration mends that.
    """
    from scipy.optimize import minimize

    if method == "none":
        return UNCHANGED
    clipped = np.clip(probs.astype(np.float64), _CLIP, 1 - _CLIP)
    logits = np.log(clipped / (1 - clipped))
    positives, negatives = np.count_nonzero(targets), np.count_nonzero(~targets)
    wanted = np.where(targets, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    features = np.stack([logits, np.ones_like(logits)][: 2 if method == "platt" else 1])  # (1 or 2, N)

    def loss(line: np.ndarray) -> tuple[float, np.ndarray]:
        said = line @ features
        off = 1 / (1 + np.exp(-said)) - wanted
        return float(np.mean(np.logaddexp(0, said) - wanted * said)), features @ off / len(off)

    found = minimize(loss, np.eye(len(features))[0], jac=True, method="BFGS", options={"gtol": 1e-9}).x
    if found[0] <= 0:
        raise ConfigError("the finding is the likelier the lower the probability")
    return Line(float(found[0]), float(found[1]) if len(found) > 1 else 0.0)


def crossfitted(probs: np.ndarray, targets: np.ndarray, patients: np.ndarray, method: str) -> np.ndarray:
    """(N,) calibrated by a line that was fitted without the study's patient, in five folds of patients; nan where the
    other folds cannot be fitted."""
    fold = np.random.default_rng(0).permutation(patients.max(initial=0) + 1)[patients] % _FOLDS
    found = np.full(len(probs), np.nan, np.float32)
    for held_out in (fold == number for number in range(_FOLDS)):
        if 0 < np.count_nonzero(targets[~held_out]) < np.count_nonzero(~held_out):
            try:
                found[held_out] = fit(probs[~held_out], targets[~held_out], method).apply(probs[held_out])
            except ConfigError:
                continue
    return found

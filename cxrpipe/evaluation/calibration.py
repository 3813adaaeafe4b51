"""Calibration of a member, fitted on studies: Platt's line between logits, or a temperature alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cxrpipe.errors import ConfigError
from cxrpipe.evaluation.curves import calibration_error, reliability
from cxrpipe.evaluation.figures import Reliability
from cxrpipe.evaluation.thresholds import Aims
from cxrpipe.models import consensus

FEWEST = 10
"""Positive studies, and negative studies, that a finding must have to be calibrated."""
_CLIP = 1e-7  # as in `consensus.calibrate`
_FOLDS = 5


class Line(NamedTuple):
    """A line between logits: calibrated = slope · logit + intercept. A temperature is 1 / slope."""

    slope: float
    intercept: float

    def apply(self, probs: np.ndarray) -> np.ndarray:
        """Calibrate probabilities, exactly as scoring does: (N,) float → (N,) float32."""
        return consensus.calibrate(probs, np.array(self.slope), np.array(self.intercept))


UNCHANGED = Line(1.0, 0.0)


@dataclass(frozen=True, eq=False, kw_only=True)
class FittedFinding:
    """The calibration and threshold of one finding of one member, and the calibration error before and after."""

    finding: str
    studies: int
    positives: int
    line: Line
    threshold: float
    prevalence: float
    """Fraction of studies with the finding that line and threshold assume."""
    error_before: float
    """Expected calibration error, 0..1."""
    error_after: float
    """The same, of studies that the line was not fitted on: five folds of patients."""
    before: Reliability
    after: Reliability


def require_enough(targets: np.ndarray, split: str) -> None:
    """ConfigError where the studies of a split, (N,) bool, are too few of one kind to fit a calibration."""
    fewer = min(np.count_nonzero(targets), np.count_nonzero(~targets))
    if fewer < FEWEST:
        raise ConfigError(f"{fewer} positive or negative studies in the {split} split; expected at least {FEWEST}")


def fit_finding(
    finding: str,
    probs: np.ndarray,
    targets: np.ndarray,
    patients: np.ndarray,
    *,
    method: str,
    rule: str,
    aims: Aims,
    split: str,
) -> FittedFinding:
    """Fit calibration and threshold of one finding. ConfigError as `fit`.

    probs, targets, patients  (N,) float, bool and int, with both classes
    rule, aims                see `thresholds.Aims`
    split                     of these studies
    """
    line = fit(probs, targets, method)
    after = line.apply(probs)
    held_out = crossfitted(probs, targets, patients, method)
    known = ~np.isnan(held_out)
    return FittedFinding(
        finding=finding,
        studies=len(targets),
        positives=int(targets.sum()),
        line=line,
        threshold=min(aims.choose(rule, targets, after, split).value, 1.0),
        prevalence=float(targets.mean()),
        error_before=calibration_error(targets, probs),
        error_after=calibration_error(targets[known], held_out[known]),
        before=reliability(targets, probs),
        after=reliability(targets[known], held_out[known]),
    )


def fit(probs: np.ndarray, targets: np.ndarray, method: str) -> Line:
    """Fit the line with the highest likelihood.

    Targets are those of Platt, (N+ + 1) / (N+ + 2) and 1 / (N- + 2): the line stays finite where the classes separate.
    ConfigError where the finding is more frequent at lower probabilities: no calibration corrects this.

    probs, targets  (N,) float and bool, with both classes
    method          `platt`, `temperature` or `none`
    """
    from scipy.optimize import minimize

    if method == "none":
        return UNCHANGED
    clipped = np.clip(probs.astype(np.float64), _CLIP, 1 - _CLIP)
    logits = np.log(clipped / (1 - clipped))
    positives, negatives = np.count_nonzero(targets), np.count_nonzero(~targets)
    soft_targets = np.where(targets, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    features = np.stack([logits, np.ones_like(logits)][: 2 if method == "platt" else 1])  # (1 or 2, N)

    def loss(line: np.ndarray) -> tuple[float, np.ndarray]:
        calibrated = line @ features
        off = 1 / (1 + np.exp(-calibrated)) - soft_targets
        return float(np.mean(np.logaddexp(0, calibrated) - soft_targets * calibrated)), features @ off / len(off)

    best = minimize(loss, np.eye(len(features))[0], jac=True, method="BFGS", options={"gtol": 1e-9}).x
    if best[0] <= 0:
        raise ConfigError("the finding is more frequent at lower probabilities, which no calibration corrects")
    return Line(float(best[0]), float(best[1]) if len(best) > 1 else 0.0)


def crossfitted(probs: np.ndarray, targets: np.ndarray, patients: np.ndarray, method: str) -> np.ndarray:
    """Calibrate every study by a line that was fitted without its patient, in five folds of patients.

    Gives (N,) float32; nan where no line can be fitted to the other folds.
    """
    fold = np.random.default_rng(0).permutation(patients.max(initial=0) + 1)[patients] % _FOLDS
    calibrated = np.full(len(probs), np.nan, np.float32)
    for held_out in (fold == number for number in range(_FOLDS)):
        if 0 < np.count_nonzero(targets[~held_out]) < np.count_nonzero(~held_out):
            try:
                calibrated[held_out] = fit(probs[~held_out], targets[~held_out], method).apply(probs[held_out])
            except ConfigError:
                continue
    return calibrated

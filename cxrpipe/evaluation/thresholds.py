"""Thresholds by rule, chosen on labelled studies.

A study is positive where its probability is ≥ the threshold. Every rule but `0.5` and `prevalence` chooses the
probability of one of the studies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Threshold(NamedTuple):
    value: float
    """nan where the studies have one class only, and no threshold can be chosen."""
    rule: str
    description: str
    """The rule in words, for a person."""
    chosen_on: str
    """`fixed`, or the split whose studies the threshold was chosen on."""


@dataclass(frozen=True, kw_only=True)
class Aims:
    """What the rules are to reach."""

    sensitivity: float = 0.9
    """Rule `sensitivity`: the highest threshold that reaches it."""
    specificity: float = 0.9
    """Rule `specificity`: the lowest threshold that reaches it."""
    miss_cost: float = 1.0
    """Rule `cost`: the cost of a missed positive study; a false alarm costs 1."""

    def describe(self, rule: str) -> str:
        """Say what the rule does, for a person."""
        return {
            "0.5": "probability of at least 0.5",
            "prevalence": "probability of at least the share of studies with the finding",
            "youden": "highest sensitivity + specificity",
            "sensitivity": f"sensitivity of at least {self.sensitivity:.0%}",
            "specificity": f"specificity of at least {self.specificity:.0%}",
            "cost": f"lowest cost, a miss {self.miss_cost:g} times a false alarm",
        }[rule]

    def choose(self, rule: str, targets: np.ndarray, probs: np.ndarray, split: str) -> Threshold:
        """Choose a threshold by a rule, on the studies of a split.

        targets, probs  (N,) bool and float
        """
        if rule == "0.5":
            return Threshold(0.5, rule, self.describe(rule), "fixed")
        return Threshold(self._value(rule, targets, probs), rule, self.describe(rule), split)

    def _value(self, rule: str, targets: np.ndarray, probs: np.ndarray) -> float:
        if targets.all() or not targets.any():
            return float("nan")
        if (
            rule == "prevalence"
        ):  # at this probability the likelihood ratio is 1, and sensitivity + specificity is highest
            return float(targets.mean())
        steps = _steps(targets, probs)
        sensitivity, specificity = steps.true_positives / targets.sum(), 1 - steps.false_positives / (~targets).sum()
        match rule:
            case "youden":
                place = np.argmax(sensitivity + specificity)
            case "sensitivity":
                place = np.argmax(sensitivity >= self.sensitivity)  # the first is the highest threshold
            case "specificity":
                place = len(specificity) - 1 - np.argmax((specificity >= self.specificity)[::-1])
            case "cost":
                misses = targets.sum() - steps.true_positives
                place = np.argmin(self.miss_cost * misses + steps.false_positives)
            case _:
                raise ValueError(f"unknown rule {rule!r}")
        return float(steps.thresholds[place])


DEFAULT_AIMS = Aims()


class _Steps(NamedTuple):
    """All T different decisions that thresholds make, from "nothing is positive" to "everything is positive"."""

    thresholds: np.ndarray  # (T,) descending; the first is above every probability
    true_positives: np.ndarray  # (T,)
    false_positives: np.ndarray  # (T,)


def _steps(targets: np.ndarray, probs: np.ndarray) -> _Steps:
    """Count both kinds of positives at every threshold."""
    descending = np.argsort(-probs, kind="stable")
    probs, targets = probs[descending], targets[descending]
    ends = np.flatnonzero(np.append(probs[1:] != probs[:-1], True))
    positives = np.append(0, np.cumsum(targets)[ends])
    above = np.nextafter(probs[0], np.array(np.inf, probs.dtype))
    return _Steps(np.append(above, probs[ends]), positives, np.append(0, ends + 1) - positives)

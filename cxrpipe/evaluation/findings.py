"""From scores and labels, already joined, to figures with intervals.

Intervals are 95% bias-corrected percentile intervals over resamples of *patients*. Resamples in which a figure is not
defined (a rare finding may lose all its positives) stay out of that figure's interval.

Not here: joining the tables, subgroups (`subgroups`), members of the ensemble (`members`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from cxrpipe.config.evaluate import RULES
from cxrpipe.evaluation import curves
from cxrpipe.evaluation.evidence import Evidence, read_evidence
from cxrpipe.evaluation.figures import (
    DECISION_FIGURES,
    LEFT_OUT,
    PROBABILITY_FIGURES,
    FindingFigures,
    LabelPolicy,
    MacroFigures,
    OperatingPoint,
)
from cxrpipe.evaluation.metrics import (
    Counts,
    Estimate,
    Ranking,
    confusion,
    resample_patients,
    wilson,
)
from cxrpipe.evaluation.thresholds import DEFAULT_TARGETS, Targets, Threshold

CONSENSUS = Threshold(float("nan"), "consensus", "vote of the members at their own thresholds", "cards")


class Development(NamedTuple):
    """Other studies, on which thresholds are chosen."""

    split: str
    table: pa.Table


def evaluate_findings(
    table: pa.Table,
    findings: Sequence[str],
    *,
    resamples: int = 2000,
    seed: int = 0,
    policy: LabelPolicy = LEFT_OUT,
    targets: Targets = DEFAULT_TARGETS,
    split: str = "test",
    development: Development | None = None,
) -> list[FindingFigures]:
    """Figures for each of `findings`, in that order, on the same resamples.

    table        see `read_evidence`; a label that the policy ignores is left out, and so is a study without a
                 probability; both are counted
    split        of the table
    development  None, or one class only there: thresholds are chosen on the table itself, and said to be optimistic
    """
    _, evidence = read_evidence(table, findings, policy)
    others = read_evidence(development.table, findings, policy)[1] if development else [None] * len(findings)
    found = []
    for one, other in zip(evidence, others, strict=True):
        chosen = [_choose(rule, targets, one, other, split, development) for rule in RULES]
        found.append(_evaluate(one, [CONSENSUS, *chosen], split, resamples, seed))
    return found


def _choose(
    rule: str, targets: Targets, one: Evidence, other: Evidence | None, split: str, development: Development | None
) -> Threshold:
    if other is not None and development:
        chosen = targets.choose(rule, other.targets, other.probs, development.split)
        if not math.isnan(chosen.value):
            return chosen
    return targets.choose(rule, one.targets, one.probs, split)


def _evaluate(one: Evidence, thresholds: Sequence[Threshold], split: str, resamples: int, seed: int) -> FindingFigures:
    decisions = [one.consensus, *(decide(one.probs, each.value) for each in thresholds[1:])]
    sums = _Sums(one, decisions)
    resampled = sums.resample(resamples, seed)
    once = sums.figures(np.ones((1, one.patients_in_table), np.float32))
    estimates = {name: Estimate.of(once[name][0], resampled[name]) for name in PROBABILITY_FIGURES if name != "ece"}
    for number, decision in enumerate(decisions):
        for name in DECISION_FIGURES:
            key = f"{number} {name}"
            estimates[key] = decision_estimate(name, once[key][0], resampled[key], one, decision)
    # A resample repeats the upward bias of the calibration error once more: it is taken off.
    bias = np.nanmean(resampled["ece"]) - once["ece"][0] if len(one.rows) else np.nan
    estimates["ece"] = Estimate.of(once["ece"][0], np.maximum(resampled["ece"] - bias, 0))
    points = tuple(
        operating_point(threshold, confusion(one.targets, decision), estimates, f"{number} ", split)
        for number, (threshold, decision) in enumerate(zip(thresholds, decisions, strict=True))
    )
    kept = {name: resampled[name] for name in PROBABILITY_FIGURES}
    kept |= {name: resampled[f"0 {name}"] for name in DECISION_FIGURES}
    return FindingFigures(
        finding=one.finding,
        studies=len(one.rows),
        positives=int(one.targets.sum()),
        patients=len(np.unique(one.patients)),
        left_out=one.left_out,
        unscored=one.unscored,
        counts=points[0].counts,
        operating_points=points,
        roc=curves.roc(one.targets, one.probs),
        precision_recall=curves.precision_recall(one.targets, one.probs),
        reliability=curves.reliability(one.targets, one.probs),
        histogram=curves.histogram(one.targets, one.probs),
        resampled=kept,
        **{name: estimates[name] for name in PROBABILITY_FIGURES},
        **{name: getattr(points[0], name) for name in DECISION_FIGURES},
    )


def decide(probs: np.ndarray, threshold: float) -> np.ndarray:
    """(N,) bool; nothing is positive where no threshold could be chosen."""
    return probs >= np.float32(threshold) if not math.isnan(threshold) else np.zeros(len(probs), bool)


def decision_estimate(name: str, value: float, resampled: np.ndarray, one: Evidence, decision: np.ndarray) -> Estimate:
    """A figure of decisions (n,) bool. All or nothing is so in every resample too, and yet not certain: the interval
    of such a fraction is Wilson's, with patients for studies."""
    if value in (0, 1) and name in _FRACTIONS:
        patients = len(np.unique(one.patients[_FRACTIONS[name](one.targets, decision)]))
        return Estimate(float(value), *wilson(float(value), patients))
    return Estimate.of(value, resampled)


_FRACTIONS: Mapping[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "sensitivity": lambda target, decision: target,
    "specificity": lambda target, decision: ~target,
    "precision": lambda target, decision: decision,
    "npv": lambda target, decision: ~decision,
    "accuracy": lambda target, decision: np.ones(len(target), bool),
}
"""Figure → (n,) bool, the studies it is a fraction of."""


def operating_point(
    threshold: Threshold, counts: Counts, estimates: Mapping[str, Estimate], prefix: str, split: str
) -> OperatingPoint:
    """prefix  of the names of its figures in `estimates`"""
    undefined = Estimate(np.nan, np.nan, np.nan)
    no_decision = math.isnan(threshold.value) and threshold.rule not in ("consensus", "mean")
    return OperatingPoint(
        rule=threshold.rule,
        said=threshold.said,
        threshold=threshold.value,
        chosen_on=threshold.chosen_on,
        optimistic=threshold.chosen_on == split or (split == "all" and threshold.chosen_on not in ("cards", "fixed")),
        counts=counts,
        **{name: undefined if no_decision else estimates[prefix + name] for name in DECISION_FIGURES},
    )


class _Sums:
    """What is weighed anew in every resample: all that adds up over studies, added up by patient, and the ranking."""

    def __init__(self, one: Evidence, decisions: Sequence[np.ndarray]) -> None:
        """decisions  each (n,) bool"""
        self._one, self._points, self._ranking = one, len(decisions), Ranking(one.targets, one.probs)
        off = one.probs.astype(np.float64) - one.targets
        in_bin = np.eye(curves.RELIABILITY_BINS)[curves.bins_of(one.probs)]  # (n, B)
        outcomes = [(one.targets == target) & (called == say) for called in decisions for target, say in _OUTCOMES]
        by_study = np.column_stack([np.ones(len(off)), off**2, off[:, None] * in_bin, *outcomes])
        self._by_patient = one.by_patient(by_study)

    def resample(self, resamples: int, seed: int) -> dict[str, np.ndarray]:
        """Figure → (R,)"""
        drawn = resample_patients(self._one.patients_in_table, resamples, seed, len(self._one.rows))
        chunks = [self.figures(times) for times in drawn]
        return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}

    def figures(self, times: np.ndarray) -> dict[str, np.ndarray]:
        """(R, P) how often each patient counts → figure → (R,)"""
        areas = self._ranking.areas(np.take(times, self._one.patients, axis=1))
        studies, brier, *rest = (times.astype(np.float64) @ self._by_patient).T
        bins = np.abs(rest[: curves.RELIABILITY_BINS]).sum(axis=0)
        with np.errstate(invalid="ignore"):
            found = dict(zip(PROBABILITY_FIGURES, (*areas, brier / studies, bins / studies), strict=True))
        outcomes = rest[curves.RELIABILITY_BINS :]
        for number in range(self._points):
            counts = Counts(*outcomes[4 * number : 4 * number + 4])
            found |= {f"{number} {name}": getattr(counts, name) for name in DECISION_FIGURES}
        return found


_OUTCOMES = ((True, True), (False, True), (True, False), (False, False))
"""Label and decision, in the order of the fields of `Counts`."""


def macro(findings: Sequence[FindingFigures]) -> MacroFigures:
    """Means over the findings that have an AUROC."""
    defined = [figures for figures in findings if not math.isnan(figures.auroc.value)]
    names = (*PROBABILITY_FIGURES, *DECISION_FIGURES)
    return MacroFigures(
        findings=tuple(figures.finding for figures in defined), **{name: _mean_of(defined, name) for name in names}
    )


def mean_auroc(findings: Sequence[FindingFigures]) -> Estimate:
    return macro(findings).auroc


def _mean_of(findings: Sequence[FindingFigures], name: str) -> Estimate:
    """Its interval comes from those resamples in which every finding has the figure that has it at all: the mean of a
    resample must be over the same findings as the value."""
    defined = [figures for figures in findings if not math.isnan(getattr(figures, name).value)]
    if not defined:
        return Estimate(np.nan, np.nan, np.nan)
    resampled = np.mean([figures.resampled[name] for figures in defined], axis=0)
    return Estimate.of(float(np.mean([getattr(figures, name).value for figures in defined])), resampled)

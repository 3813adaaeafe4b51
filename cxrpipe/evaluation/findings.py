"""Figures of every finding with intervals, from joined scores and labels.

Intervals are 95% bias-corrected percentile intervals over resamples of *patients*. A resample in which a figure is not
defined (a rare finding may lose all its positives) stays out of the interval of this figure.

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
from cxrpipe.evaluation.thresholds import DEFAULT_AIMS, Aims, Threshold

CONSENSUS = Threshold(float("nan"), "consensus", "vote of the members at their own thresholds", "cards")


_SUREST = float(np.finfo(np.float32).eps)
"""Smallest probability of the label that counts in the log loss: probabilities of float32 come no nearer to 1."""


class Development(NamedTuple):
    """Studies of another split, on which thresholds are chosen."""

    split: str
    table: pa.Table


class _Values(NamedTuple):
    """The figures of R resamples: figure → (R,) float."""

    probabilities: dict[str, np.ndarray]
    """`PROBABILITY_FIGURES`"""
    decisions: list[dict[str, np.ndarray]]
    """`DECISION_FIGURES` of every operating point, the consensus first."""


def evaluate_findings(
    table: pa.Table,
    findings: Sequence[str],
    *,
    resamples: int = 2000,
    seed: int = 0,
    policy: LabelPolicy = LEFT_OUT,
    aims: Aims = DEFAULT_AIMS,
    split: str = "test",
    development: Development | None = None,
) -> list[FindingFigures]:
    """Compute the figures of every finding, in the order of `findings`, on the same resamples.

    table        see `read_evidence`. Studies without a probability, and those whose label the policy ignores, are left
                 out and counted.
    split        the split of the table
    development  the studies that thresholds are chosen on. Without them, or where they have one class only, thresholds
                 are chosen on the table itself and marked as optimistic.
    """
    _, evidence = read_evidence(table, findings, policy)
    others = read_evidence(development.table, findings, policy)[1] if development else [None] * len(findings)
    figures = []
    for finding, other in zip(evidence, others, strict=True):
        chosen = [_choose(rule, aims, finding, other, split, development) for rule in RULES]
        figures.append(_evaluate(finding, [CONSENSUS, *chosen], split, resamples, seed))
    return figures


def _choose(
    rule: str, aims: Aims, finding: Evidence, other: Evidence | None, split: str, development: Development | None
) -> Threshold:
    """Choose a threshold on the development studies, or on the evaluated ones where those give none."""
    if other is not None and development:
        chosen = aims.choose(rule, other.targets, other.probs, development.split)
        if not math.isnan(chosen.value):
            return chosen
    return aims.choose(rule, finding.targets, finding.probs, split)


def _evaluate(
    finding: Evidence, thresholds: Sequence[Threshold], split: str, resamples: int, seed: int
) -> FindingFigures:
    """thresholds  the consensus first"""
    decisions = [finding.consensus, *(decide(finding.probs, threshold.value) for threshold in thresholds[1:])]
    sums = _Sums(finding, decisions)
    resampled = sums.resample(resamples, seed)
    once = sums.figures(np.ones((1, finding.patients_in_table), np.float32))
    points = tuple(
        operating_point(
            threshold,
            confusion(finding.targets, decision),
            {
                name: decision_estimate(name, values[name][0], by_resample[name], finding, decision)
                for name in DECISION_FIGURES
            },
            split,
        )
        for threshold, decision, values, by_resample in zip(
            thresholds, decisions, once.decisions, resampled.decisions, strict=True
        )
    )
    return FindingFigures(
        finding=finding.finding,
        studies=len(finding.rows),
        positives=int(finding.targets.sum()),
        patients=len(np.unique(finding.patients)),
        left_out=finding.left_out,
        unscored=finding.unscored,
        counts=points[0].counts,
        operating_points=points,
        roc=curves.roc(finding.targets, finding.probs),
        precision_recall=curves.precision_recall(finding.targets, finding.probs),
        reliability=curves.reliability(finding.targets, finding.probs),
        histogram=curves.histogram(finding.targets, finding.probs),
        resampled=resampled.probabilities | resampled.decisions[0],
        **{
            name: _probability_estimate(name, once.probabilities[name][0], resampled.probabilities[name])
            for name in PROBABILITY_FIGURES
        },
        **{name: getattr(points[0], name) for name in DECISION_FIGURES},
    )


def _probability_estimate(name: str, value: float, resampled: np.ndarray) -> Estimate:
    if name == "ece" and not np.isnan(resampled).all():
        # Every resample adds the upward bias of the calibration error a second time: this bias is subtracted.
        resampled = np.maximum(resampled - (np.nanmean(resampled) - value), 0)
    return Estimate.of(value, resampled)


def decide(probs: np.ndarray, threshold: float) -> np.ndarray:
    """Compare with a threshold: (N,) bool. Nothing is positive where no threshold could be chosen (nan)."""
    return probs >= np.float32(threshold) if not math.isnan(threshold) else np.zeros(len(probs), bool)


def decision_estimate(
    name: str, value: float, resampled: np.ndarray, finding: Evidence, decision: np.ndarray
) -> Estimate:
    """Estimate a figure of decisions (n,) bool.

    A fraction of 0 or 1 is 0 or 1 in every resample, and yet not certain. Its interval is Wilson's, with the number of
    patients in the place of studies.
    """
    if value in (0, 1) and name in _FRACTIONS:
        patients = len(np.unique(finding.patients[_FRACTIONS[name](finding.targets, decision)]))
        return Estimate(float(value), *wilson(float(value), patients))
    return Estimate.of(value, resampled)


_FRACTIONS: Mapping[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "sensitivity": lambda target, decision: target,
    "specificity": lambda target, decision: ~target,
    "precision": lambda target, decision: decision,
    "npv": lambda target, decision: ~decision,
    "accuracy": lambda target, decision: np.ones(len(target), bool),
}
"""Figure → (n,) bool: the studies of which the figure is a fraction."""


def operating_point(
    threshold: Threshold, counts: Counts, estimates: Mapping[str, Estimate], split: str
) -> OperatingPoint:
    """Build the operating point of a threshold, with `estimates` of its `DECISION_FIGURES`.

    The figures are nan where no threshold could be chosen.
    """
    undefined = Estimate(np.nan, np.nan, np.nan)
    no_decision = math.isnan(threshold.value) and threshold.rule not in ("consensus", "mean")
    return OperatingPoint(
        rule=threshold.rule,
        said=threshold.description,
        threshold=threshold.value,
        chosen_on=threshold.chosen_on,
        optimistic=threshold.chosen_on == split or (split == "all" and threshold.chosen_on not in ("cards", "fixed")),
        counts=counts,
        **{name: undefined if no_decision else estimates[name] for name in DECISION_FIGURES},
    )


class _Sums:
    """The sums that every resample weighs anew, kept by patient, and the ranking of the studies."""

    def __init__(self, finding: Evidence, decisions: Sequence[np.ndarray]) -> None:
        """decisions  (n,) bool for every operating point"""
        self._finding, self._points, self._ranking = finding, len(decisions), Ranking(finding.targets, finding.probs)
        targets, probs = finding.targets, finding.probs
        off = probs.astype(np.float64) - targets
        log_loss = -np.log(np.clip(1 - np.abs(off), _SUREST, None))
        in_bin = np.eye(curves.RELIABILITY_BINS)[curves.bins_of(probs)]  # (n, B)
        outcomes = [(targets == label) & (called == call) for called in decisions for label, call in _OUTCOMES]
        by_study = np.column_stack([np.ones(len(off)), off**2, log_loss, off[:, None] * in_bin, *outcomes])
        self._by_patient = finding.by_patient(by_study)

    def resample(self, resamples: int, seed: int) -> _Values:
        """Compute the figures of every resample of patients."""
        finding = self._finding
        drawn = resample_patients(finding.patients_in_table, resamples, seed, len(finding.rows))
        chunks = [self.figures(times) for times in drawn]
        return _Values(
            _joined([chunk.probabilities for chunk in chunks]),
            [_joined([chunk.decisions[point] for chunk in chunks]) for point in range(self._points)],
        )

    def figures(self, times: np.ndarray) -> _Values:
        """times  (R, P) how often each patient counts"""
        areas = self._ranking.areas(np.take(times, self._finding.patients, axis=1))
        studies, brier, log_loss, *rest = (times.astype(np.float64) @ self._by_patient).T
        bins = np.abs(rest[: curves.RELIABILITY_BINS]).sum(axis=0)
        with np.errstate(invalid="ignore"):
            means = (total / studies for total in (brier, log_loss, bins))
            probabilities = dict(zip(PROBABILITY_FIGURES, (*areas, *means), strict=True))
        outcomes = rest[curves.RELIABILITY_BINS :]
        counts = [Counts(*outcomes[4 * point : 4 * point + 4]) for point in range(self._points)]
        return _Values(
            probabilities, [{name: getattr(at_point, name) for name in DECISION_FIGURES} for at_point in counts]
        )


def _joined(chunks: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


_OUTCOMES = ((True, True), (False, True), (True, False), (False, False))
"""Label and decision, in the order of the fields of `Counts`."""


def macro(findings: Sequence[FindingFigures]) -> MacroFigures:
    """Take the means over the findings that have an AUROC."""
    defined = [figures for figures in findings if not math.isnan(figures.auroc.value)]
    names = (*PROBABILITY_FIGURES, *DECISION_FIGURES)
    return MacroFigures(
        findings=tuple(figures.finding for figures in defined), **{name: _mean_of(defined, name) for name in names}
    )


def mean_auroc(findings: Sequence[FindingFigures]) -> Estimate:
    return macro(findings).auroc


def _mean_of(findings: Sequence[FindingFigures], name: str) -> Estimate:
    """Take the mean of a figure over the findings for which it is defined.

    The interval uses only resamples in which the figure is defined for all of these findings, so that the mean of a
    resample is over the same findings as the value.
    """
    defined = [figures for figures in findings if not math.isnan(getattr(figures, name).value)]
    if not defined:
        return Estimate(np.nan, np.nan, np.nan)
    resampled = np.mean([figures.resampled[name] for figures in defined], axis=0)
    return Estimate.of(float(np.mean([getattr(figures, name).value for figures in defined])), resampled)

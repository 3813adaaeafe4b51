"""The ensemble against its members: each by itself, their mean, their majority vote; and what disagreement says."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cxrpipe.evaluation.clustered import auroc
from cxrpipe.evaluation.evidence import Evidence
from cxrpipe.evaluation.figures import DECISION_FIGURES, EnsembleFigures, FindingFigures, MemberFigures, OperatingPoint
from cxrpipe.evaluation.findings import CONSENSUS, decide, decision_estimate, operating_point
from cxrpipe.evaluation.metrics import Counts, Estimate, Ranking, confusion, resample_patients
from cxrpipe.evaluation.thresholds import Threshold

_FIFTHS = 5


def evaluate_ensemble(
    table: pa.Table,
    one: Evidence,
    figures: FindingFigures,
    members: Sequence[str],
    thresholds: np.ndarray | None,
    *,
    split: str,
    seed: int = 0,
) -> EnsembleFigures:
    """One finding.

    table       sorted, as the evidence was read from; with member_probs_<finding> list<float>, of K members
    figures     of the ensemble, whose resamples are drawn again
    members     (K,) names
    thresholds  (K,) the members' own; None: not known, and decisions are left out
    """
    said = _member_probs(table, one)  # (K, n)
    points = np.full(len(members), np.nan) if thresholds is None else thresholds
    calls = np.stack([decide(probs, point) for probs, point in zip(said, points, strict=True)])  # (K, n)
    middle = Threshold(float(np.mean(points)), "mean", "mean probability at the mean of the thresholds", "cards")
    mean = decide(one.probs, middle.value)
    resamples = len(figures.resampled["auroc"])
    aurocs, counts = _resample(one, said, [*calls, mean], resamples, seed)
    by_members = tuple(
        _member(name, one, said[number], calls[number], figures, aurocs[number], counts[number], thresholds is None)
        for number, name in enumerate(members)
    )
    estimates = {name: _estimate(name, one, mean, counts[-1]) for name in DECISION_FIGURES}
    if thresholds is None:
        estimates = dict.fromkeys(DECISION_FIGURES, Estimate(np.nan, np.nan, np.nan))
    clusters = one.patients, one.patients_in_table
    alike, kappa = _agreement(calls, thresholds is not None)
    edges, studies, errors = _errors_by_disagreement(one, said)
    return EnsembleFigures(
        finding=one.finding,
        members=by_members,
        mean=operating_point(middle, confusion(one.targets, mean), estimates, split),
        majority=_majority(figures),
        agreement=alike,
        kappa=kappa,
        disagreement_edges=edges,
        disagreement_studies=studies,
        error_fraction=errors,
        error_auroc=auroc(one.consensus != one.targets, said.std(axis=0), *clusters).fraction_estimate(),
    )


def _member_probs(table: pa.Table, one: Evidence) -> np.ndarray:
    """(K, n) float32"""
    lists = table[f"member_probs_{one.finding}"].take(pa.array(one.rows)).combine_chunks()
    return pc.list_flatten(lists).to_numpy(zero_copy_only=False).reshape(len(one.rows), -1).T.astype(np.float32)


def _majority(figures: FindingFigures) -> OperatingPoint:
    return next(point for point in figures.operating_points if point.rule == CONSENSUS.rule)


def _resample(
    one: Evidence, said: np.ndarray, calls: Sequence[np.ndarray], resamples: int, seed: int
) -> tuple[np.ndarray, list[Counts]]:
    """AUROC of each member (K, R), and the counts of each decision; the resamples are those of `evaluate_findings`."""
    rankings = [Ranking(one.targets, probs) for probs in said]
    outcomes = [one.targets & call for call in calls], [~one.targets & call for call in calls]
    missed = [one.targets & ~call for call in calls], [~one.targets & ~call for call in calls]
    by_patient = one.by_patient(np.column_stack([*outcomes[0], *outcomes[1], *missed[0], *missed[1]]).astype(float))
    aurocs, sums = [], []
    for times in resample_patients(one.patients_in_table, resamples, seed, len(one.rows)):
        weights = np.take(times, one.patients, axis=1)
        aurocs.append([ranking.auroc(weights) for ranking in rankings])
        sums.append(times.astype(np.float64) @ by_patient)
    by_outcome = np.concatenate(sums).T.reshape(4, len(calls), -1)  # in the order of the fields of `Counts`
    return np.concatenate(aurocs, axis=1), [Counts(*by_outcome[:, number]) for number in range(len(calls))]


def _estimate(name: str, one: Evidence, decision: np.ndarray, resampled: Counts) -> Estimate:
    value = getattr(confusion(one.targets, decision), name)
    return decision_estimate(name, value, getattr(resampled, name), one, decision)


def _member(
    name: str,
    one: Evidence,
    probs: np.ndarray,
    call: np.ndarray,
    figures: FindingFigures,
    aurocs: np.ndarray,
    counts: Counts,
    without_threshold: bool,
) -> MemberFigures:
    clusters = one.patients, one.patients_in_table
    own, whole = auroc(one.targets, probs, *clusters), auroc(one.targets, one.probs, *clusters)
    undefined = Estimate(np.nan, np.nan, np.nan)
    off = (probs.astype(np.float64) - one.targets) ** 2
    return MemberFigures(
        member=name,
        auroc=Estimate.of(own.value, aurocs),
        auroc_gain=Estimate.of(whole.value - own.value, figures.resampled["auroc"] - aurocs),
        p_value=(whole - own).p_value,
        brier=float(off.mean()) if len(off) else float("nan"),
        sensitivity=undefined if without_threshold else _estimate("sensitivity", one, call, counts),
        specificity=undefined if without_threshold else _estimate("specificity", one, call, counts),
    )


def _agreement(calls: np.ndarray, known: bool) -> tuple[np.ndarray, np.ndarray]:
    """(K, n) bool decisions → the fraction called alike and Cohen's kappa, (K, K) each."""
    members, studies = calls.shape
    if not known or not studies:
        return np.full((members, members), np.nan), np.full((members, members), np.nan)
    alike = (calls[:, None] == calls[None]).mean(axis=2)
    yes = calls.mean(axis=1)
    by_chance = np.outer(yes, yes) + np.outer(1 - yes, 1 - yes)
    kappa = np.divide(alike - by_chance, 1 - by_chance, out=np.full_like(alike, np.nan), where=by_chance < 1)
    return alike, kappa


def _errors_by_disagreement(one: Evidence, said: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Edges of fifths of the members' standard deviation, studies in each, and how often the consensus is wrong."""
    spread = said.std(axis=0)
    edges = np.unique(np.quantile(spread, np.linspace(0, 1, _FIFTHS + 1))) if len(spread) else np.zeros(1)
    if len(edges) == 1:  # no disagreement, or always the same
        edges = np.append(edges, edges[0] + 1e-6)
    bins = len(edges) - 1
    place = np.clip(np.searchsorted(edges, spread, side="right") - 1, 0, bins - 1)
    studies = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        return edges, studies, np.bincount(place, one.consensus != one.targets, minlength=bins) / studies

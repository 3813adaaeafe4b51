"""The ensemble against its members: every member alone, their mean, their majority vote, and their disagreement."""

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
    member_probs: np.ndarray,
    finding: Evidence,
    figures: FindingFigures,
    members: Sequence[str],
    thresholds: np.ndarray | None,
    *,
    split: str,
    seed: int = 0,
) -> EnsembleFigures:
    """Compute the figures of K members and of the ensemble for one finding, which all of these members know.

    member_probs  (K, n) float32 of `read_member_probs`, without nan
    figures       of the ensemble; the same resamples are drawn again
    members       (K,) names
    thresholds    (K,) thresholds of the members; None: they are not known, and figures of decisions are nan
    """
    points = np.full(len(members), np.nan) if thresholds is None else thresholds
    calls = np.stack([decide(probs, point) for probs, point in zip(member_probs, points, strict=True)])  # (K, n)
    middle = Threshold(float(np.mean(points)), "mean", "mean probability at the mean of the thresholds", "cards")
    mean = decide(finding.probs, middle.value)
    resamples = len(figures.resampled["auroc"])
    aurocs, counts = _resample(finding, member_probs, [*calls, mean], resamples, seed)
    by_members = tuple(
        _member(
            name,
            finding,
            member_probs[number],
            calls[number],
            figures,
            aurocs[number],
            counts[number],
            thresholds is None,
        )
        for number, name in enumerate(members)
    )
    estimates = {name: _estimate(name, finding, mean, counts[-1]) for name in DECISION_FIGURES}
    if thresholds is None:
        estimates = dict.fromkeys(DECISION_FIGURES, Estimate(np.nan, np.nan, np.nan))
    clusters = finding.patients, finding.patients_in_table
    alike, kappa = _agreement(calls, thresholds is not None)
    edges, studies, errors = _errors_by_disagreement(finding, member_probs)
    return EnsembleFigures(
        finding=finding.finding,
        members=by_members,
        mean=operating_point(middle, confusion(finding.targets, mean), estimates, split),
        majority=_majority(figures),
        agreement=alike,
        kappa=kappa,
        disagreement_edges=edges,
        disagreement_studies=studies,
        error_fraction=errors,
        error_auroc=auroc(
            finding.consensus != finding.targets, member_probs.std(axis=0), *clusters
        ).fraction_estimate(),
    )


def read_member_probs(table: pa.Table, finding: Evidence) -> np.ndarray:
    """Read the probabilities of all members, (K, n) float32; nan: a member does not know the finding.

    table  the sorted table of `read_evidence`, with member_probs_<finding> list<float>
    """
    lists = table[f"member_probs_{finding.finding}"].take(pa.array(finding.rows)).combine_chunks()
    by_study: np.ndarray = pc.list_flatten(lists).to_numpy(zero_copy_only=False).reshape(len(finding.rows), -1)
    return by_study.T.astype(np.float32)


def _majority(figures: FindingFigures) -> OperatingPoint:
    return next(point for point in figures.operating_points if point.rule == CONSENSUS.rule)


def _resample(
    finding: Evidence, member_probs: np.ndarray, calls: Sequence[np.ndarray], resamples: int, seed: int
) -> tuple[np.ndarray, list[Counts]]:
    """Draw the resamples of `evaluate_findings` again. Gives AUROC by member (K, R), and counts by decision."""
    rankings = [Ranking(finding.targets, probs) for probs in member_probs]
    outcomes = [finding.targets & call for call in calls], [~finding.targets & call for call in calls]
    missed = [finding.targets & ~call for call in calls], [~finding.targets & ~call for call in calls]
    by_patient = finding.by_patient(np.column_stack([*outcomes[0], *outcomes[1], *missed[0], *missed[1]]).astype(float))
    aurocs, sums = [], []
    for times in resample_patients(finding.patients_in_table, resamples, seed, len(finding.rows)):
        weights = np.take(times, finding.patients, axis=1)
        aurocs.append([ranking.auroc(weights) for ranking in rankings])
        sums.append(times.astype(np.float64) @ by_patient)
    by_outcome = np.concatenate(sums).T.reshape(4, len(calls), -1)  # in the order of the fields of `Counts`
    return np.concatenate(aurocs, axis=1), [Counts(*by_outcome[:, number]) for number in range(len(calls))]


def _estimate(name: str, finding: Evidence, decision: np.ndarray, resampled: Counts) -> Estimate:
    value = getattr(confusion(finding.targets, decision), name)
    return decision_estimate(name, value, getattr(resampled, name), finding, decision)


def _member(
    name: str,
    finding: Evidence,
    probs: np.ndarray,
    call: np.ndarray,
    figures: FindingFigures,
    aurocs: np.ndarray,
    counts: Counts,
    without_threshold: bool,
) -> MemberFigures:
    clusters = finding.patients, finding.patients_in_table
    alone, ensemble = auroc(finding.targets, probs, *clusters), auroc(finding.targets, finding.probs, *clusters)
    undefined = Estimate(np.nan, np.nan, np.nan)
    off = (probs.astype(np.float64) - finding.targets) ** 2
    return MemberFigures(
        member=name,
        auroc=Estimate.of(alone.value, aurocs),
        auroc_gain=Estimate.of(ensemble.value - alone.value, figures.resampled["auroc"] - aurocs),
        p_value=(ensemble - alone).p_value,
        brier=float(off.mean()) if len(off) else float("nan"),
        sensitivity=undefined if without_threshold else _estimate("sensitivity", finding, call, counts),
        specificity=undefined if without_threshold else _estimate("specificity", finding, call, counts),
    )


def _agreement(calls: np.ndarray, known: bool) -> tuple[np.ndarray, np.ndarray]:
    """Compare the decisions of members: (K, n) bool → fraction of agreement and Cohen's kappa, (K, K) each."""
    members, studies = calls.shape
    if not known or not studies:
        return np.full((members, members), np.nan), np.full((members, members), np.nan)
    alike = (calls[:, None] == calls[None]).mean(axis=2)
    yes = calls.mean(axis=1)
    by_chance = np.outer(yes, yes) + np.outer(1 - yes, 1 - yes)
    kappa = np.divide(alike - by_chance, 1 - by_chance, out=np.full_like(alike, np.nan), where=by_chance < 1)
    return alike, kappa


def _errors_by_disagreement(finding: Evidence, member_probs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut studies into fifths by the standard deviation of the members.

    Gives the edges of the fifths, and for every fifth the number of studies and the fraction with a wrong consensus.
    """
    spread = member_probs.std(axis=0)
    edges = np.unique(np.quantile(spread, np.linspace(0, 1, _FIFTHS + 1))) if len(spread) else np.zeros(1)
    if len(edges) == 1:  # members disagree nowhere, or by the same everywhere
        edges = np.append(edges, edges[0] + 1e-6)
    bins = len(edges) - 1
    place = np.clip(np.searchsorted(edges, spread, side="right") - 1, 0, bins - 1)
    studies = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        return edges, studies, np.bincount(place, finding.consensus != finding.targets, minlength=bins) / studies

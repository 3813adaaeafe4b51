"""From scores and labels, already joined, to figures with intervals.

The decision that is counted is the ensemble's consensus; AUROC looks at its mean probability. Intervals are
95% percentile intervals over resamples of *patients*. Resamples in which a figure is not defined (a rare
finding may lose all its positives) stay out of that figure's interval.

Not here: joining the tables, choosing thresholds, subgroups.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cxrpipe.errors import ConfigError
from cxrpipe.metrics import Counts, Estimate, Overlap, Ranking, Roc, confusion, resample_weights, roc

DECISION_FIGURES = ("sensitivity", "specificity", "precision", "f1")
"""Figures of the consensus. A further one is a property of `Counts`, a word here and a field below."""


@dataclass(frozen=True, eq=False, kw_only=True)
class FindingFigures:
    """What an ensemble is worth for one finding. studies + left_out + unscored = rows of the table."""

    finding: str
    studies: int
    """Studies with a probability and a certain label: the figures are about these."""
    positives: int
    patients: int
    left_out: int
    """Studies whose label is uncertain or missing."""
    unscored: int
    """Studies with a certain label but no probability: failed or rejected."""

    counts: Counts
    auroc: Estimate
    sensitivity: Estimate
    specificity: Estimate
    precision: Estimate
    f1: Estimate
    roc: Roc = field(repr=False)
    auroc_resampled: np.ndarray = field(repr=False)
    """(R,) the AUROC of every resample; all findings of one evaluation share their resamples."""


@dataclass(frozen=True, eq=False, kw_only=True)
class MaskFigures:
    """How well masks fit, as means over studies; every study weighs the same."""

    studies: int
    patients: int
    dice: Estimate
    iou: Estimate
    study_ids: tuple[str, ...] = field(repr=False)
    dice_by_study: np.ndarray = field(repr=False)  # (N,) float, 0..1
    iou_by_study: np.ndarray = field(repr=False)  # (N,) float, 0..1
    dice_resampled: np.ndarray = field(repr=False)  # (R,) float, the mean of every resample


def evaluate_findings(
    table: pa.Table, findings: Sequence[str], *, resamples: int = 2000, seed: int = 0
) -> list[FindingFigures]:
    """Figures for each of `findings`, in that order, on the same resamples.

    table  one row per study: study_id, patient_id (null: the study stands for itself) and for each finding
           prob_<finding> float, consensus_<finding> bool, label_<finding> 1, 0, -1 (uncertain) or null

    Uncertain and missing labels are left out, and so is a study without a probability; both are counted.
    """
    # Measured: 30,000 studies of 12,000 patients x 14 findings x 2,000 resamples take 13 s on one core.
    # Measure again: python -m tests.test_evaluation
    table = _select(table, findings)
    patients = _patients(table["patient_id"])
    evidence = [_read_evidence(table, finding) for finding in findings]
    resampled: list[list[np.ndarray]] = [[] for _ in findings]
    for weights in resample_weights(patients, resamples, seed):
        for chunks, one in zip(resampled, evidence, strict=True):
            chunks.append(_weigh(one, weights))
    return [
        _finding_figures(finding, one, patients, np.concatenate(chunks, axis=1))
        for finding, one, chunks in zip(findings, evidence, resampled, strict=True)
    ]


def evaluate_masks(
    overlaps: Iterable[tuple[str, str | None, Overlap]], *, resamples: int = 2000, seed: int = 0
) -> MaskFigures:
    """Figures of masks from (study_id, patient_id, overlap), one of each study, in any order."""
    rows = sorted(overlaps, key=lambda row: row[0])
    patients = _patients(pa.array([patient_id for _, patient_id, _ in rows], pa.string()))
    fits = np.array([(overlap.dice, overlap.iou) for _, _, overlap in rows]).reshape(-1, 2)  # (N, 2)
    value = _means(fits, np.ones((1, len(rows))))[0]
    resampled = np.concatenate([_means(fits, w) for w in resample_weights(patients, resamples, seed)])  # (R, 2)
    return MaskFigures(
        studies=len(rows),
        patients=len(np.unique(patients)),
        dice=Estimate.of(value[0], resampled[:, 0]),
        iou=Estimate.of(value[1], resampled[:, 1]),
        study_ids=tuple(study_id for study_id, _, _ in rows),
        dice_by_study=fits[:, 0],
        iou_by_study=fits[:, 1],
        dice_resampled=resampled[:, 0],
    )


def mean_auroc(findings: Sequence[FindingFigures]) -> Estimate:
    """The mean AUROC over the findings that have one.

    Its interval comes from those resamples in which every one of them has an AUROC: the mean of a resample
    must be over the same findings as the value.
    """
    defined = [figures for figures in findings if not math.isnan(figures.auroc.value)]
    if not defined:
        return Estimate(np.nan, np.nan, np.nan)
    resampled = np.mean([figures.auroc_resampled for figures in defined], axis=0)
    return Estimate.of(float(np.mean([figures.auroc.value for figures in defined])), resampled)


def figures_as_json(findings: Sequence[FindingFigures], masks: MaskFigures | None) -> dict:
    """The content of metrics.json: the same keys whatever was evaluated, null for what is not defined."""
    return {
        "interval": "95%, percentiles over resamples of patients",
        "findings": {figures.finding: _finding_as_json(figures) for figures in findings},
        "macro": {
            "findings": [figures.finding for figures in findings if not math.isnan(figures.auroc.value)],
            "auroc": _estimate_as_json(mean_auroc(findings)),
        },
        "masks": None if masks is None else _masks_as_json(masks),
    }


@dataclass(frozen=True, eq=False)
class _Evidence:
    """One finding of the table: n of its N studies have both a certain label and a probability."""

    rows: np.ndarray  # (n,) int, where they stand in the table
    targets: np.ndarray  # (n,) bool
    probs: np.ndarray  # (n,) float
    consensus: np.ndarray  # (n,) bool
    ranking: Ranking
    left_out: int
    unscored: int


def _select(table: pa.Table, findings: Sequence[str]) -> pa.Table:
    """The columns that are needed, sorted: the order of the rows must not change an interval."""
    columns = ["study_id", "patient_id"]
    for finding in findings:
        columns += [f"prob_{finding}", f"consensus_{finding}", f"label_{finding}"]
    missing = [column for column in columns if column not in table.column_names]
    if missing:
        raise ConfigError(
            f"cannot evaluate: the joined table lacks {', '.join(missing)}; "
            "name findings that are both scored and labelled"
        )
    return table.select(columns).sort_by("study_id")


def _patients(patient_ids: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """(N,) int, the same for studies of the same patient; a study without a patient gets its own."""
    patient_ids = pc.cast(patient_ids, pa.string())
    known = pc.index_in(patient_ids, pc.unique(pc.drop_null(patient_ids)))  # 0, 1, … or null
    own = pa.array(np.arange(-len(known), 0, dtype=np.int32))
    return pc.coalesce(known, own).to_numpy()


def _read_evidence(table: pa.Table, finding: str) -> _Evidence:
    labels = pc.cast(table[f"label_{finding}"], pa.float32()).to_numpy()  # null -> nan
    probs = pc.cast(table[f"prob_{finding}"], pa.float32()).to_numpy()
    consensus = pc.cast(table[f"consensus_{finding}"], pa.bool_())
    unknown = np.setdiff1d(labels[~np.isnan(labels)], [1, 0, -1])
    if len(unknown):
        raise ConfigError(f"label_{finding} has values {unknown[:3].tolist()}; expected 1, 0, -1 or null")

    certain = (labels == 0) | (labels == 1)
    scored = ~np.isnan(probs) & consensus.is_valid().to_numpy()
    rows = np.flatnonzero(certain & scored)
    return _Evidence(
        rows=rows,
        targets=labels[rows] == 1,
        probs=probs[rows],
        consensus=pc.fill_null(consensus, False).to_numpy()[rows],
        ranking=Ranking(labels[rows] == 1, probs[rows]),
        left_out=int(np.count_nonzero(~certain)),
        unscored=int(np.count_nonzero(certain & ~scored)),
    )


def _weigh(evidence: _Evidence, weights: np.ndarray) -> np.ndarray:
    """(R, N) weights -> (1 + D, R): AUROC and the D `DECISION_FIGURES` of every resample."""
    weights = np.take(weights, evidence.rows, axis=1)  # (R, n)
    counts = confusion(evidence.targets, evidence.consensus, weights)
    return np.stack([evidence.ranking.auroc(weights), *(getattr(counts, name) for name in DECISION_FIGURES)])


def _means(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(N, C) values, (R, N) weights -> (R, C) means; nan without studies."""
    with np.errstate(invalid="ignore"):
        return weights @ values / weights.sum(axis=1, keepdims=True)


def _finding_figures(finding: str, evidence: _Evidence, patients: np.ndarray, resampled: np.ndarray) -> FindingFigures:
    once = _weigh(evidence, np.ones((1, len(patients))))[:, 0]
    counts = confusion(evidence.targets, evidence.consensus)
    estimates = map(Estimate.of, once, resampled)
    return FindingFigures(
        finding=finding,
        studies=counts.studies,
        positives=counts.positives,
        patients=len(np.unique(patients[evidence.rows])),
        left_out=evidence.left_out,
        unscored=evidence.unscored,
        counts=counts,
        roc=roc(evidence.targets, evidence.probs),
        auroc_resampled=resampled[0],
        **dict(zip(("auroc", *DECISION_FIGURES), estimates, strict=True)),
    )


def _finding_as_json(figures: FindingFigures) -> dict:
    return {
        "studies": figures.studies,
        "positives": figures.positives,
        "patients": figures.patients,
        "left_out": figures.left_out,
        "unscored": figures.unscored,
        "resamples": len(figures.auroc_resampled),
        "counts": asdict(figures.counts),
        **{name: _estimate_as_json(getattr(figures, name)) for name in ("auroc", *DECISION_FIGURES)},
    }


def _masks_as_json(masks: MaskFigures) -> dict:
    return {
        "studies": masks.studies,
        "patients": masks.patients,
        "resamples": len(masks.dice_resampled),
        "dice": _estimate_as_json(masks.dice),
        "iou": _estimate_as_json(masks.iou),
    }


def _estimate_as_json(estimate: Estimate) -> dict[str, float | None]:
    return {name: None if math.isnan(number) else number for name, number in estimate._asdict().items()}

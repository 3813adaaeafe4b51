"""Figures of models on corrupted copies of studies: what they reach, what they lose, and how far they drift."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cxrpipe.evaluation.evidence import patients_of
from cxrpipe.evaluation.figures import LEFT_OUT, FindingFigures, LabelPolicy
from cxrpipe.evaluation.findings import evaluate_findings, macro
from cxrpipe.evaluation.masks import Fit, evaluate_masks
from cxrpipe.evaluation.metrics import Estimate, resample_weights
from cxrpipe.images.corruptions import CLEAN, Copy

FIGURES = ("auroc", "sensitivity", "specificity", "balanced_accuracy")
"""Figures of a finding; decisions are those of the consensus, at the thresholds of the cards."""
DRIFTS = ("drift", "crossed")
ALL = "all findings"
LUNGS = "lungs"


@dataclass(frozen=True, eq=False, kw_only=True)
class CopyFigures:
    """One finding, or the lungs, under one corruption at one grade."""

    of: str
    """A finding, `ALL` for the mean of several, or `LUNGS`."""
    copy: Copy
    studies: int
    figures: dict[str, Estimate]
    """`FIGURES`, then `drift`: the mean absolute difference of the probability from that of the clean copy, and
    `crossed`: the fraction of studies whose decision is another. Of lungs: `dice`."""
    changes: dict[str, Estimate]
    """Figure → its value minus that of the clean copy, paired over the same resamples of patients; without drifts."""


def evaluate_copies(
    tables: Mapping[Copy, pa.Table],
    findings: Sequence[str],
    *,
    resamples: int = 2000,
    seed: int = 0,
    policy: LabelPolicy = LEFT_OUT,
) -> list[CopyFigures]:
    """Compute the figures of every finding under every copy; those of the mean of the findings come first.

    tables  copy → scores and labels of the same studies (see `evidence.read_evidence`); `CLEAN` is one of the copies
    """
    clean = tables[CLEAN].sort_by("study_id")
    of_copy = {
        copy: evaluate_findings(table, findings, resamples=resamples, seed=seed, policy=policy)
        for copy, table in tables.items()
    }
    several = {}
    drifts: dict[tuple[str, Copy], dict[str, Estimate]] = {}
    for copy, table in tables.items():
        of_findings = _Drifts(clean, table.sort_by("study_id"), findings)
        drifts |= {(finding, copy): of_findings.estimates([finding], resamples, seed) for finding in findings}
        if len(findings) > 1:
            drifts[ALL, copy] = of_findings.estimates(findings, resamples, seed)
            several[copy] = _mean(of_copy[copy])
    groups = {ALL: several} if several else {}
    groups |= {
        finding: {copy: _Measured.of(figures[number]) for copy, figures in of_copy.items()}
        for number, finding in enumerate(findings)
    }
    return [
        CopyFigures(
            of=name,
            copy=copy,
            studies=measured.studies,
            figures=measured.figures | drifts[name, copy],
            changes=dict(_changes(measured, group[CLEAN])),
        )
        for name, group in groups.items()
        for copy, measured in group.items()
    ]


def evaluate_mask_copies(
    fits: Mapping[Copy, Sequence[Fit]], *, resamples: int = 2000, seed: int = 0
) -> list[CopyFigures]:
    """Compute the Dice of the same studies under every copy.

    fits  copy → see `evaluate_masks`; the studies of a copy are those of `CLEAN`, or some of them
    """
    measured = {}
    for copy, of_copy in fits.items():
        masks = evaluate_masks(of_copy, resamples=resamples, seed=seed)
        measured[copy] = _Measured(masks.studies, {"dice": masks.dice}, {"dice": masks.dice_resampled})
    return [
        CopyFigures(
            of=LUNGS,
            copy=copy,
            studies=of_copy.studies,
            figures=of_copy.figures,
            changes=dict(_changes(of_copy, measured[CLEAN])),
        )
        for copy, of_copy in measured.items()
    ]


def as_table(figures: Sequence[CopyFigures]) -> pa.Table:
    """One row for every figure: of, corruption, grade, studies, figure, value, low, high, change, change_low, …high."""
    nothing = Estimate(np.nan, np.nan, np.nan)
    rows = [
        {"of": row.of, "corruption": row.copy.corruption, "grade": row.copy.grade, "studies": row.studies}
        | {"figure": name, **estimate._asdict()}
        | dict(zip(("change", "change_low", "change_high"), row.changes.get(name, nothing), strict=True))
        for row in figures
        for name, estimate in row.figures.items()
    ]
    words, numbers = ("of", "corruption", "figure"), ("grade", "studies")
    types = {
        name: pa.string() if name in words else pa.int32() if name in numbers else pa.float64() for name in rows[0]
    }
    columns = {
        name: pa.array([row[name] for row in rows], kind, from_pandas=True) for name, kind in types.items()
    }  # nan becomes null
    return pa.table(columns)


@dataclass(frozen=True, eq=False)
class _Measured:
    studies: int
    figures: dict[str, Estimate]
    resampled: dict[str, np.ndarray]

    @classmethod
    def of(cls, figures: FindingFigures) -> _Measured:
        return cls(figures.studies, {name: getattr(figures, name) for name in FIGURES}, figures.resampled)


def _mean(figures: Sequence[FindingFigures]) -> _Measured:
    """The mean of the findings that have the figure, as `findings.macro` takes it."""
    means = macro(figures)
    known = [each for each in figures if each.finding in means.findings]
    resampled = {name: np.mean([each.resampled[name] for each in known], axis=0) for name in FIGURES if known}
    studies = max((each.studies for each in figures), default=0)
    return _Measured(studies, {name: getattr(means, name) for name in FIGURES}, resampled)


def _changes(measured: _Measured, clean: _Measured) -> Iterator[tuple[str, Estimate]]:
    for name, estimate in measured.figures.items():
        if name in measured.resampled and name in clean.resampled:
            difference = measured.resampled[name] - clean.resampled[name]
            yield name, Estimate.of(estimate.value - clean.figures[name].value, difference)


class _Drifts:
    """How far probabilities and decisions of a copy are from those of the clean copy, for the same studies."""

    def __init__(self, clean: pa.Table, table: pa.Table, findings: Sequence[str]) -> None:
        assert clean["study_id"].equals(table["study_id"]), "copies of different studies"
        self._patients = patients_of(clean["patient_id"])
        self._of = {}
        for finding in findings:
            probs = [pc.cast(each[f"prob_{finding}"], pa.float32()).to_numpy() for each in (clean, table)]
            decisions = [each[f"consensus_{finding}"] for each in (clean, table)]
            drift = np.abs(probs[1] - probs[0])
            crossed = pc.cast(pc.not_equal(*decisions), pa.float32()).to_numpy()
            self._of[finding] = np.stack([drift, crossed], axis=1)  # (N, 2), nan where one of them has no number

    def estimates(self, findings: Sequence[str], resamples: int, seed: int) -> dict[str, Estimate]:
        values = np.mean([self._of[finding] for finding in findings], axis=0)
        known = ~np.isnan(values).any(axis=1)
        weights = np.concatenate([chunk[:, known] for chunk in resample_weights(self._patients, resamples, seed)])
        if not known.any():
            return {name: Estimate(np.nan, np.nan, np.nan) for name in DRIFTS}
        with np.errstate(invalid="ignore"):
            resampled = weights @ values[known] / weights.sum(axis=1, keepdims=True)  # (R, 2)
        once = values[known].mean(axis=0)
        return {name: Estimate.of(float(once[column]), resampled[:, column]) for column, name in enumerate(DRIFTS)}

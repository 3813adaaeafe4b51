"""Figures by subgroup of patients and films, with a flag where a gap exceeds its noise.

A gap is a figure of the studies of a subgroup minus the same figure of all studies that are known to be in another
subgroup. Its standard error treats patients as clusters, also patients with studies on both sides (`clustered`). A gap
exceeds its noise where its p-value, by Holm's correction for all gaps of the evaluation, is below 0.05. A gap is not
tested where the subgroup or the others have fewer than 10 patients of a class that counts (positive for sensitivity,
negative for specificity, both for AUROC): the normal law does not hold there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cxrpipe.evaluation.clustered import Influence, auroc, fraction, holm
from cxrpipe.evaluation.evidence import Evidence
from cxrpipe.evaluation.figures import Gap, SubgroupFigures
from cxrpipe.evaluation.metrics import Estimate, wilson

UNKNOWN = "unknown"
_AGES = ((0, 18, "0–17"), (18, 40, "18–39"), (40, 60, "40–59"), (60, 80, "60–79"), (80, np.inf, "80 and over"))
_FEWEST = 10
_SIGNIFICANT = 0.05
_MOST_GROUPS = 12
"""Greatest number of subgroups of an attribute; studies of the rarer ones are in `other`."""


def groups_of(table: pa.Table) -> dict[str, np.ndarray]:
    """Assign studies to subgroups: attribute → subgroup of every study, (N,) str.

    An attribute with fewer than two known subgroups is left out.

    table  may have patient_sex, patient_age (years), scanner, and the views of the score row
    """
    groups_by = {}
    if "patient_sex" in table.column_names:
        groups_by["sex"] = _words(table["patient_sex"])
    if "patient_age" in table.column_names:
        ages = pc.cast(table["patient_age"], pa.float64()).to_numpy()
        within = [(ages >= low) & (ages < high) for low, high, _ in _AGES]
        groups_by["age"] = np.select(within, [name for *_, name in _AGES], UNKNOWN).astype(object)
    if "views" in table.column_names:
        groups_by["view_position"] = _positions(table["views"].combine_chunks())
    if "scanner" in table.column_names:
        groups_by["scanner"] = _words(table["scanner"])
    return {name: groups for name, groups in groups_by.items() if len(set(groups) - {UNKNOWN}) > 1}


def _words(column: pa.ChunkedArray) -> np.ndarray:
    """Read a column of words; the rarest of too many words become `other`."""
    words = np.array(pc.fill_null(pc.cast(column, pa.string()), UNKNOWN).to_pylist(), object)
    names, counts = np.unique(words.astype(str), return_counts=True)
    common = set(names[np.argsort(-counts, kind="stable")][:_MOST_GROUPS]) | {UNKNOWN}
    return np.array([word if word in common else "other" for word in words], object)


def _positions(views: pa.ListArray) -> np.ndarray:
    """Read the position of the views that were scored: (N,) str, `several` where they differ."""
    flat = pc.list_flatten(views)
    scored = pc.equal(pc.struct_field(flat, "status"), "ok")
    studies = pc.list_parent_indices(views).filter(scored).to_numpy()
    position_of = np.full(len(views), UNKNOWN, object)
    for study, position in zip(studies, pc.struct_field(flat, "view_position").filter(scored).to_pylist(), strict=True):
        name = position or UNKNOWN
        position_of[study] = name if position_of[study] in (UNKNOWN, name) else "several"
    return position_of


class _Influences(NamedTuple):
    """The three figures of a part of the studies."""

    auroc: Influence
    sensitivity: Influence
    specificity: Influence

    @classmethod
    def of(cls, finding: Evidence, part: np.ndarray) -> _Influences:
        """part  (n,) bool, the studies"""
        targets, patients, count = finding.targets[part], finding.patients[part], finding.patients_in_table
        called = finding.consensus[part]
        return cls(
            auroc(targets, finding.probs[part], patients, count),
            fraction(targets, called, patients, count),
            fraction(~targets, ~called, patients, count),
        )


def evaluate_subgroups(evidence: Sequence[Evidence], groups: Mapping[str, np.ndarray]) -> tuple[SubgroupFigures, ...]:
    """Compute the figures of every finding, attribute and subgroup, in this order.

    groups  of `groups_of`, for the table that the evidence was read from
    """
    uncorrected = [
        figures for finding in evidence for name, group_of in groups.items() for figures in _of(finding, name, group_of)
    ]
    keys = [(place, name) for place, figures in enumerate(uncorrected) for name in figures.gaps]
    adjusted = holm(np.array([uncorrected[place].gaps[name].p_value for place, name in keys], np.float64))
    gaps: list[dict[str, Gap]] = [{} for _ in uncorrected]
    for (place, name), p_value in zip(keys, adjusted.tolist(), strict=True):
        gaps[place][name] = Gap(uncorrected[place].gaps[name].difference, p_value, p_value < _SIGNIFICANT)
    return tuple(replace(figures, gaps=corrected) for figures, corrected in zip(uncorrected, gaps, strict=True))


def _of(finding: Evidence, attribute: str, group_of: np.ndarray) -> Iterator[SubgroupFigures]:
    """Compute the figures of every subgroup of an attribute, with p-values that are not corrected yet."""
    of_studies = group_of[finding.rows]
    known = of_studies != UNKNOWN
    for group in sorted(set(of_studies)):
        part = of_studies == group
        inside, outside = _Influences.of(finding, part), _Influences.of(finding, ~part & known)
        gaps = {name: _gap(*pair) for name, *pair in zip(_Influences._fields, inside, outside, strict=True)}
        yield SubgroupFigures(
            finding=finding.finding,
            attribute=attribute,
            group=str(group),
            studies=int(part.sum()),
            positives=int(finding.targets[part].sum()),
            patients=len(np.unique(finding.patients[part])),
            auroc=inside.auroc.fraction_estimate(),
            sensitivity=_wilson(inside.sensitivity),
            specificity=_wilson(inside.specificity),
            gaps={} if group == UNKNOWN else gaps,
        )


def _gap(inside: Influence, outside: Influence) -> Gap:
    """Compare a figure of the subgroup with that of the others; the p-value is nan with too few patients."""
    difference = inside - outside
    patients = [np.count_nonzero(of_class) for figure in (inside, outside) for of_class in _classes(figure)]
    tested = min(patients, default=0) >= _FEWEST
    return Gap(difference.estimate(), difference.p_value if tested else float("nan"), False)


def _classes(figure: Influence) -> list[np.ndarray]:
    """List the patients that count for a figure, (P,) bool for every class."""
    return [of_class for of_class in (figure.has_positive, figure.has_negative) if of_class.any()]


def _wilson(figure: Influence) -> Estimate:
    """Give a fraction Wilson's interval, for the number of independent studies with the same standard error.

    So 100% in five patients is not certain.
    """
    patients, error, value = np.count_nonzero(figure.has_positive), figure.standard_error, figure.value
    if not patients:
        return Estimate(value, np.nan, np.nan)
    n = value * (1 - value) / error**2 if error > 0 else float(patients)
    return Estimate(value, *wilson(value, n))

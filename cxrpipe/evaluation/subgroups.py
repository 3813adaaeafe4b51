"""Figures by subgroup of patients and films, with a flag where a gap exceeds its noise.

The rule: a gap is a figure among the subgroup's studies less the same figure among all other studies that are known to
be in another subgroup. Its standard error regards patients as clusters, also those with studies on both sides
(`clustered`). A gap exceeds its noise where its p-value, after Holm's correction for all gaps of the evaluation, is
below 0.05. It is not tested where the subgroup or the others have fewer than 10 patients of a kind that matters
(positive for sensitivity, negative for specificity, both for AUROC): the normal law does not hold there.
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
from cxrpipe.evaluation.figures import Estimate, Gap, SubgroupFigures
from cxrpipe.evaluation.metrics import wilson

UNKNOWN = "unknown"
_AGES = ((0, 18, "0–17"), (18, 40, "18–39"), (40, 60, "40–59"), (60, 80, "60–79"), (80, np.inf, "80 and over"))
_FEWEST = 10
_SIGNIFICANT = 0.05
_MOST_GROUPS = 12
"""Of one attribute; the rarer ones are `other`."""


def groups_of(table: pa.Table) -> dict[str, np.ndarray]:
    """Attribute → (N,) the subgroup of each study, where more than one is known.

    table  may have patient_sex, patient_age (years), scanner, and the score row's views
    """
    found = {}
    if "patient_sex" in table.column_names:
        found["sex"] = _words(table["patient_sex"])
    if "patient_age" in table.column_names:
        ages = pc.cast(table["patient_age"], pa.float64()).to_numpy()
        within = [(ages >= low) & (ages < high) for low, high, _ in _AGES]
        found["age"] = np.select(within, [name for *_, name in _AGES], UNKNOWN).astype(object)
    if "views" in table.column_names:
        found["view_position"] = _positions(table["views"].combine_chunks())
    if "scanner" in table.column_names:
        found["scanner"] = _words(table["scanner"])
    return {name: groups for name, groups in found.items() if len(set(groups) - {UNKNOWN}) > 1}


def _words(column: pa.ChunkedArray) -> np.ndarray:
    """The rarest of too many words become one."""
    words = np.array(pc.fill_null(pc.cast(column, pa.string()), UNKNOWN).to_pylist(), object)
    names, counts = np.unique(words.astype(str), return_counts=True)
    common = set(names[np.argsort(-counts, kind="stable")][:_MOST_GROUPS]) | {UNKNOWN}
    return np.array([word if word in common else "other" for word in words], object)


def _positions(views: pa.ListArray) -> np.ndarray:
    """(N,) that of the views that were scored; `several` where they differ."""
    flat = pc.list_flatten(views)
    scored = pc.equal(pc.struct_field(flat, "status"), "ok")
    studies = pc.list_parent_indices(views).filter(scored).to_numpy()
    found = np.full(len(views), UNKNOWN, object)
    for study, position in zip(studies, pc.struct_field(flat, "view_position").filter(scored).to_pylist(), strict=True):
        own = position or UNKNOWN
        found[study] = own if found[study] in (UNKNOWN, own) else "several"
    return found


class _Parts(NamedTuple):
    """The three figures of some studies."""

    auroc: Influence
    sensitivity: Influence
    specificity: Influence

    @classmethod
    def of(cls, one: Evidence, which: np.ndarray) -> _Parts:
        """which  (n,) bool"""
        targets, patients, count = one.targets[which], one.patients[which], one.patients_in_table
        called = one.consensus[which]
        return cls(
            auroc(targets, one.probs[which], patients, count),
            fraction(targets, called, patients, count),
            fraction(~targets, ~called, patients, count),
        )


def evaluate_subgroups(evidence: Sequence[Evidence], groups: Mapping[str, np.ndarray]) -> tuple[SubgroupFigures, ...]:
    """By finding, attribute and subgroup. groups: see `groups_of`, of the table that the evidence was read from."""
    found = [figures for one in evidence for name, of_all in groups.items() for figures in _of(one, name, of_all)]
    keys = [(place, name) for place, figures in enumerate(found) for name in figures.gaps]
    adjusted = holm(np.array([found[place].gaps[name].p_value for place, name in keys], np.float64))
    gaps: list[dict[str, Gap]] = [{} for _ in found]
    for (place, name), p_value in zip(keys, adjusted.tolist(), strict=True):
        gaps[place][name] = Gap(found[place].gaps[name].difference, p_value, p_value < _SIGNIFICANT)
    return tuple(replace(figures, gaps=own) for figures, own in zip(found, gaps, strict=True))


def _of(one: Evidence, attribute: str, of_all: np.ndarray) -> Iterator[SubgroupFigures]:
    """Each subgroup of one attribute; the p-values of its gaps are not yet corrected."""
    of_studies = of_all[one.rows]
    known = of_studies != UNKNOWN
    for group in sorted(set(of_studies)):
        which = of_studies == group
        own, rest = _Parts.of(one, which), _Parts.of(one, ~which & known)
        gaps = {name: _gap(*pair) for name, *pair in zip(_Parts._fields, own, rest, strict=True)}
        yield SubgroupFigures(
            finding=one.finding,
            attribute=attribute,
            group=str(group),
            studies=int(which.sum()),
            positives=int(one.targets[which].sum()),
            patients=len(np.unique(one.patients[which])),
            auroc=own.auroc.fraction_estimate(),
            sensitivity=_wilson(own.sensitivity),
            specificity=_wilson(own.specificity),
            gaps={} if group == UNKNOWN else gaps,
        )


def _gap(own: Influence, rest: Influence) -> Gap:
    difference = own - rest
    patients = [np.count_nonzero(kind) for part in (own, rest) for kind in _kinds(part)]
    tested = min(patients, default=0) >= _FEWEST
    return Gap(difference.estimate(), difference.p_value if tested else float("nan"), False)


def _kinds(part: Influence) -> list[np.ndarray]:
    """The patients that matter for the figure, one array for each kind."""
    return [kind for kind in (part.has_positive, part.has_negative) if kind.any()]


def _wilson(part: Influence) -> Estimate:
    """Wilson's interval at the number of independent studies that would have the same standard error: a fraction of
    100% in five patients is not certain."""
    patients, error, value = np.count_nonzero(part.has_positive), part.standard_error, part.value
    if not patients:
        return Estimate(value, np.nan, np.nan)
    n = value * (1 - value) / error**2 if error > 0 else float(patients)
    return Estimate(value, *wilson(value, n))

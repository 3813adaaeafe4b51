"""How far readers agree: with each other, and with the ensemble whose answer they saw."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cxrpipe.records.verdicts import UNSURE

ENSEMBLE = None
"""The other side of an agreement, where it is the consensus that the reader was shown."""


class Agreement(NamedTuple):
    """A reader and another one, or the ensemble, on one finding."""

    finding: str
    reader: str
    other: str | None
    """Another reader, whose name comes later in the alphabet. None: the ensemble."""
    studies: int
    """Studies on which both have said yes or no. Those on which a reader is unsure are left out."""
    alike: float
    """Fraction of these studies with the same answer, 0..1."""
    kappa: float
    """Cohen's kappa: 1 agree always, 0 as often as by chance; nan where both gave one and the same answer always."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ReviewFacts:
    """Whose verdicts the labels of an evaluation are."""

    verdicts: int
    """The newest verdict of every reader on every finding of the evaluated studies."""
    studies: int
    readers: tuple[str, ...]
    fingerprints: dict[str, int]
    """Models whose answers the readers saw → verdicts."""
    without_majority: int
    """Studies and findings on which no label has the majority of the readers, or most are unsure."""
    agreements: tuple[Agreement, ...]


def review_facts(verdicts: pa.Table, labels: pa.Table) -> ReviewFacts:
    """Sum up verdicts for a report.

    verdicts  the newest of every reader, see `records.verdicts`
    labels    that they make
    """
    return ReviewFacts(
        verdicts=verdicts.num_rows,
        studies=pc.count_distinct(verdicts["study_id"]).as_py(),
        readers=tuple(sorted(pc.unique(verdicts["reader"]).to_pylist())),
        fingerprints={each["values"]: each["counts"] for each in pc.value_counts(verdicts["fingerprint"]).to_pylist()},
        without_majority=pc.sum(pc.equal(labels["label"], UNSURE)).as_py() or 0,
        agreements=tuple(agreements(verdicts)),
    )


def agreements(verdicts: pa.Table) -> list[Agreement]:
    """Compare every reader with the ensemble, and every two readers who share a study, finding by finding.

    verdicts  the newest of every reader, see `records.verdicts.newest_of_readers`
    """
    pairs: list[Agreement] = []
    for finding in sorted(pc.unique(verdicts["finding"]).to_pylist()):
        rows = verdicts.filter(pc.and_(pc.equal(verdicts["finding"], finding), pc.not_equal(verdicts["label"], UNSURE)))
        pairs += _of_finding(finding, rows)
    return pairs


def _of_finding(finding: str, rows: pa.Table) -> Iterator[Agreement]:
    studies, places = np.unique(rows["study_id"].to_numpy(), return_inverse=True)
    readers, of_reader = np.unique(rows["reader"].to_numpy(), return_inverse=True)
    labels = np.full((len(readers), len(studies)), UNSURE, np.int8)  # -1: not read, or unsure
    shown = labels.copy()
    labels[of_reader, places] = rows["label"].to_numpy()
    shown[of_reader, places] = pc.cast(rows["consensus"], pa.int8()).to_numpy()
    for reader, said, seen in zip(readers, labels, shown, strict=True):
        yield _agreement(finding, reader, ENSEMBLE, said, seen)
    for first, second in itertools.combinations(range(len(readers)), 2):
        if ((labels[first] != UNSURE) & (labels[second] != UNSURE)).any():
            yield _agreement(finding, readers[first], readers[second], labels[first], labels[second])


def _agreement(finding: str, reader: str, other: str | None, first: np.ndarray, second: np.ndarray) -> Agreement:
    """first, second  (N,) int: 1, 0, or -1 where nothing was said"""
    from sklearn.metrics import cohen_kappa_score

    both = (first != UNSURE) & (second != UNSURE)
    first, second = first[both], second[both]
    is_constant = len(np.union1d(first, second)) < 2  # then agreement by chance is certain, and kappa is 0 / 0
    kappa = float("nan") if is_constant else float(cohen_kappa_score(first, second))
    return Agreement(finding, str(reader), other, len(first), float((first == second).mean()), kappa)

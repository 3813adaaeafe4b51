"""Reads the feature vectors of a score root some rows at a time, so that memory is bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from cxrpipe import storage
from cxrpipe.errors import ConfigError
from cxrpipe.records.readers import CompleteRuns
from cxrpipe.records.run_report import RunReport
from cxrpipe.records.vectors import Vectors, vectors_of

_COLUMN = "feature_vectors"


class Embedded(NamedTuple):
    """Some studies with the feature vectors of their views."""

    report: RunReport
    """The run that scored them."""
    rows: pa.Table
    """The columns that were named, without the vectors."""
    members: tuple[Vectors, ...]
    """The vectors of each member, in the order of `report.members`; without rows where it has none."""


def read_embedded(
    runs: CompleteRuns,
    columns: Sequence[str],
    is_kept: Callable[[pa.Table], np.ndarray],
    at_once: int = 1_000,
) -> Iterator[Embedded]:
    """Read the newest row of every study with its feature vectors. ConfigError where the runs hold no vectors.

    runs     of one fingerprint
    columns  that are read beside the vectors; a column that no run has is left out
    is_kept  N rows → (N,) bool: the studies that may be used, by `patient_id`
    at_once  rows in memory: a thousand take 2 MB for a view and a member of 1,024 numbers
    """
    refuse_none(runs)
    only = {"study_id", "patient_id", _COLUMN, *columns}
    for report, rows in runs.newest_rows(only=[*only], at_once=at_once):
        rows = rows.filter(pa.array(is_kept(rows)))
        stored = rows[_COLUMN].combine_chunks()
        members = tuple(vectors_of(stored, place) for place in range(len(report.members)))
        yield Embedded(report, rows.drop_columns([_COLUMN]), members)


def with_vectors(runs: CompleteRuns, fingerprint: str | None) -> CompleteRuns:
    """The runs of one fingerprint. None: of the only one of the root, or of the only one whose runs hold vectors."""
    if fingerprint is None:
        having = {each for each in {report.fingerprint for report in runs} if holds_vectors(runs.of(each))}
        fingerprint = having.pop() if len(having) == 1 else None
    return runs.of(fingerprint)


def holds_vectors(runs: CompleteRuns) -> bool:
    """Whether any of the runs wrote feature vectors."""
    return any(_COLUMN in storage.schema(url).names for report in runs for url in runs.files(report))


def refuse_none(runs: CompleteRuns) -> None:
    """ConfigError where the runs hold no vectors."""
    if not holds_vectors(runs):
        raise ConfigError(f"{runs.root}: no feature vectors there; score with --embed to have some")

"""Reads the stored feature vectors of labelled studies from a score root."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cxrpipe import console
from cxrpipe.errors import ConfigError
from cxrpipe.evaluation.join import join_all
from cxrpipe.records import CompleteRuns
from cxrpipe.records.score import LARGEST_FEATURE
from cxrpipe.records.stored_vectors import read_embedded
from cxrpipe.records.study_table import StudyTable


class StoredViews(NamedTuple):
    """The feature vectors that one member has of the views of N studies."""

    studies: pa.Table  # N rows: study_id, patient_id, split, label_<finding>
    vectors: np.ndarray  # (M, D) float16, finite
    study: np.ndarray  # (M,) int, ascending: the row of the study of each view

    def of_split(self, split: str) -> StoredViews:
        """The views of the studies of one split."""
        wanted = pc.equal(self.studies["split"], split).to_numpy(zero_copy_only=False).astype(bool)
        of_view = wanted[self.study]
        study = (np.cumsum(wanted) - 1)[self.study[of_view]]
        return StoredViews(self.studies.filter(pa.array(wanted)), self.vectors[of_view], study)


def read_stored_views(
    runs: CompleteRuns,
    table: StudyTable,
    member: int,
    splits: Sequence[str],
    is_kept: Callable[[pa.Table], np.ndarray],
) -> StoredViews:
    """Read the vectors that a member has of the studies of some splits. ConfigError where there is none.

    A view is left out where a number of its vector is beyond the range of float16; a log line says how many.

    runs     of one fingerprint
    member   its place among the members of the runs
    is_kept  N rows → (N,) bool: the studies that may be used, by `patient_id`
    """
    wanted = _ids_of(table, splits)

    def is_wanted(rows: pa.Table) -> np.ndarray:
        in_splits = pc.is_in(rows["study_id"], wanted).to_numpy(zero_copy_only=False)
        return np.asarray(in_splits.astype(bool) & is_kept(rows))

    studies: list[pa.Table] = []
    vectors: list[np.ndarray] = []
    study: list[np.ndarray] = []
    start = 0
    for _, rows, members in read_embedded(runs, ["study_id", "patient_id"], is_wanted):
        studies.append(rows)
        if len(members[member].values):
            vectors.append(members[member].values)
            study.append(start + members[member].study)
        start += rows.num_rows
    if not vectors:
        raise ConfigError(
            f"{runs.root} holds no feature vectors of the {' and '.join(splits)} studies of {table.url}; score these "
            "studies with --embed, or name the table that was scored"
        )
    values, places = np.concatenate(vectors), np.concatenate(study)
    usable = (np.abs(values) < LARGEST_FEATURE).all(axis=1)
    if not usable.all():
        console.log(f"{np.count_nonzero(~usable):,} views left out: numbers beyond the range of 16 bits")
    return StoredViews(join_all(pa.concat_tables(studies), table), values[usable], places[usable])


def _ids_of(table: StudyTable, splits: Sequence[str]) -> pa.Array:
    wanted = [rows.filter(pc.is_in(rows["split"], pa.array(splits))) for rows in table.batches(["study_id", "split"])]
    return pa.concat_tables(wanted)["study_id"].combine_chunks()

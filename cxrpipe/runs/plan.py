"""What a run is asked to score: a selection of studies, its hash, and its frozen list."""

import contextlib
import hashlib
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cxrpipe import storage
from cxrpipe.records.study_table import StudyTable
from cxrpipe.runs.root import Run, RunPlan, ScoreRoot
from cxrpipe.storage import spill

ROW_GROUP = 1_000
"""Rows of a row group, in frozen lists and published files."""
VERSION = ["study_id", "study_digest"]
"""The columns that tell one version of a study from another."""


@dataclass(frozen=True)
class Selection:
    """The studies of a table that a run is asked to score."""

    table: StudyTable
    split: str | None
    """None: all splits."""
    limit: int | None
    """The first so many studies. None: all."""
    conditions: tuple[Callable[[pa.Table], np.ndarray], ...] = ()
    """A condition takes N rows of the table and gives (N,) bool: the rows that are selected."""

    def where(self, condition: Callable[[pa.Table], np.ndarray]) -> "Selection":
        """The studies that also meet this condition."""
        return replace(self, conditions=(*self.conditions, condition))

    def batches(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The selected rows, or at least these columns of them."""
        left = self.limit
        for batch in self.table.batches(columns and [*columns, "split", "patient_id"]):
            if self.split is not None:
                batch = batch.filter(pc.equal(batch["split"], self.split))
            for condition in self.conditions:
                batch = batch.filter(pa.array(condition(batch)))
            if left is not None:
                batch = batch.slice(0, left)
                left -= batch.num_rows
            if batch.num_rows:
                yield batch
            if left == 0:
                return

    def count(self) -> int:
        return sum(batch.num_rows for batch in self.batches(VERSION))


def plan_hash(selection: Selection, fingerprint: str) -> tuple[str, int]:
    """Hash the studies of a selection and the fingerprint of the models; the hash, and the number of studies.

    Equal plans give equal rows. The order of the table does not matter.
    """
    hashed, studies = hashlib.sha256(fingerprint.encode()), 0
    for pair in spill.in_order(_pairs(selection)):
        hashed.update(repr(pair).encode())
        studies += 1
    return hashed.hexdigest(), studies


def _pairs(selection: Selection) -> Iterator[tuple[str, str]]:
    for batch in selection.batches(VERSION):
        yield from zip(batch["study_id"].to_pylist(), batch["study_digest"].to_pylist(), strict=True)


def new_run(root: ScoreRoot, plan: RunPlan) -> Run:
    """Name a run and write its plan."""
    # Microseconds: readers take the newest of two runs by name, and two small runs end within one second.
    run = root.run(f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}-{plan.hash[:8]}")
    storage.write(run.plan, plan.to_json())
    return run


def freeze(run: Run, selection: Selection, seek_points: str) -> None:
    """Write the list of studies that a run scores, so that a later table changes nothing.

    seek_points  folder of the table's seek points
    """
    with list_of(selection.table, selection.batches(), seek_points) as path:
        storage.upload_file(path, run.studies)


@contextlib.contextmanager
def list_of(table: StudyTable, batches: Iterable[pa.Table], seek_points: str) -> Iterator[Path]:
    """A local file with some rows of a table. Its metadata name the folder of the seek points."""
    schema = table.schema.with_metadata(table.metadata | {"seek_points": seek_points})
    with tempfile.NamedTemporaryFile(prefix="cxrpipe-", suffix=".parquet") as file:
        with pq.ParquetWriter(file.name, schema, compression="zstd") as frozen:
            for batch in batches:
                frozen.write_table(batch.cast(schema), row_group_size=ROW_GROUP)
        yield Path(file.name)

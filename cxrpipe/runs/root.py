"""A score root and the runs in it: plan, frozen list, parts, reconciliation, publishing. Exactly once.

<root>/runs/<run_id>/plan.json         written first
<root>/runs/<run_id>/studies.parquet   the frozen list; of a private table <table>/frozen/<run_id>.parquet
<root>/runs/<run_id>/parts/            what the workers write
<root>/scores/run=<run_id>/            published
<root>/runs/<run_id>/run.json          written last: its presence says complete
"""

import contextlib
import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cxrpipe import storage
from cxrpipe.errors import RunError
from cxrpipe.records import INTERNAL_ERROR, united, with_columns_of
from cxrpipe.records.id_set import IdSet
from cxrpipe.records.study_table import StudyTable
from cxrpipe.runs.ledger import versions
from cxrpipe.scoring.parts import count_statuses
from cxrpipe.storage import spill

_PUBLISHED_BYTES = 256 << 20
_ROW_GROUP = 1_000
_VERSION = ["study_id", "study_digest"]


@dataclass(frozen=True)
class Run:
    """One run of a score root, by name."""

    root: str
    run_id: str
    lists: str | None = None
    """Folder of frozen lists outside of the root, for a private study table: they name its objects."""

    @property
    def url(self) -> str:
        return storage.join(self.root, "runs", self.run_id)

    @property
    def plan(self) -> str:
        return storage.join(self.url, "plan.json")

    @property
    def studies(self) -> str:
        if self.lists:
            return storage.join(self.lists, f"{self.run_id}.parquet")
        return storage.join(self.url, "studies.parquet")

    @property
    def parts(self) -> str:
        return storage.join(self.url, "parts")

    @property
    def scores(self) -> str:
        return storage.join(self.root, "scores", f"run={self.run_id}")

    @property
    def account(self) -> str:
        return storage.join(self.url, "run.json")

    def is_complete(self) -> bool:
        return storage.stat(self.account) is not None


# ---- plan -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Selection:
    """The studies of a table that a run is asked to score."""

    table: StudyTable
    split: str | None
    limit: int | None
    only: tuple[Callable[[pa.Table], np.ndarray], ...] = ()
    """Each: rows of the table → (N,) bool, those that come into question."""

    def where(self, condition: Callable[[pa.Table], np.ndarray]) -> "Selection":
        return replace(self, only=(*self.only, condition))

    def batches(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """Its rows, or some of their columns."""
        left = self.limit
        for batch in self.table.batches(columns and [*columns, "split", "patient_id"]):
            if self.split is not None:
                batch = batch.filter(pc.equal(batch["split"], self.split))
            for come_into_question in self.only:
                batch = batch.filter(pa.array(come_into_question(batch)))
            if left is not None:
                batch = batch.slice(0, left)
                left -= batch.num_rows
            if batch.num_rows:
                yield batch
            if left == 0:
                return

    def count(self) -> int:
        return sum(batch.num_rows for batch in self.batches(_VERSION))


def plan_hash(selection: Selection, fingerprint: str) -> tuple[str, int]:
    """Hash of what is scored and by what, and the number of studies. Equal plans give equal rows."""
    hashed, studies = hashlib.sha256(fingerprint.encode()), 0
    for pair in spill.in_order(_pairs(selection)):
        hashed.update(repr(pair).encode())
        studies += 1
    return hashed.hexdigest(), studies


def _pairs(selection: Selection) -> Iterator[tuple[str, str]]:
    for batch in selection.batches(["study_id", "study_digest"]):
        yield from zip(batch["study_id"].to_pylist(), batch["study_digest"].to_pylist(), strict=True)


def find_run(root: str, hash_: str, lists: str | None = None) -> Run | None:
    """The newest run of this plan in the root, complete or not."""
    return next((run for run, plan in _planned(root, lists) if plan["hash"] == hash_), None)


def unfinished(root: str, fingerprint: str, lists: str | None = None) -> list[Run]:
    """The runs of these models that have a frozen list and are not complete, oldest first."""
    found = [run for run, plan in _planned(root, lists) if plan["fingerprint"] == fingerprint]
    return [run for run in reversed(found) if storage.stat(run.studies) and not run.is_complete()]


def _planned(root: str, lists: str | None) -> Iterator[tuple[Run, dict[str, Any]]]:
    """Every run with its plan, newest first."""
    for run_id in reversed(storage.folders(storage.join(root, "runs"))):
        run = Run(root, run_id, lists)
        if storage.stat(run.plan):
            yield run, json.loads(storage.read(run.plan))


def new_run(root: str, hash_: str, plan: dict[str, Any], lists: str | None = None) -> Run:
    """Name a run and write its plan."""
    # Microseconds: readers take the newest of two runs by name, and small ones end within a second.
    run = Run(root, f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}-{hash_[:8]}", lists)
    storage.write(run.plan, json.dumps({"hash": hash_, **plan}, indent=2).encode() + b"\n")
    return run


def freeze(run: Run, selection: Selection, seek_points: str) -> None:
    """Write the list of studies that this run scores, whatever becomes of the table; seek_points: their folder."""
    with _list_of(selection.table, selection.batches(), seek_points) as path:
        storage.upload_file(path, run.studies)


@contextlib.contextmanager
def _list_of(table: StudyTable, batches: Iterable[pa.Table], seek_points: str) -> Iterator[Path]:
    """A local file with these rows, some of the table's, and where its seek points are."""
    schema = table.schema.with_metadata(table.metadata | {"seek_points": seek_points})
    with tempfile.NamedTemporaryFile(prefix="cxrpipe-", suffix=".parquet") as file:
        with pq.ParquetWriter(file.name, schema, compression="zstd") as frozen:
            for batch in batches:
                frozen.write_table(batch.cast(schema), row_group_size=_ROW_GROUP)
        yield Path(file.name)


# ---- resume ---------------------------------------------------------------------------------------------------


def done_ids(run: Run) -> IdSet:
    """Ids of the studies that are scored: some readable part has a row of each that is not `internal_error`."""
    return _landed(run).done


class _Landed(NamedTuple):
    """The ids in readable parts."""

    done: IdSet
    """With a row that stays."""
    faulty: IdSet
    """With a row `internal_error`, which an attempt after this one may better. Some may be done since."""


def _landed(run: Run) -> _Landed:
    """A part that cannot be read is deleted: its studies are scored again."""
    done: list[IdSet] = []
    faulty: list[IdSet] = []
    for url in _parts(run):
        try:
            rows = storage.read_table(url, ["study_id", "reason"])
        except (pa.ArrowInvalid, OSError):
            storage.delete(url)
            continue
        met = _met_an_error(rows)
        done.append(IdSet(rows.filter(pc.invert(met))["study_id"].to_pylist()))
        faulty.append(IdSet(rows.filter(met)["study_id"].to_pylist()))
    return _Landed(IdSet.union(done), IdSet.union(faulty))


def _met_an_error(rows: pa.Table) -> pa.ChunkedArray:
    """(N,) bool: the row is `internal_error`."""
    return pc.fill_null(pc.equal(rows["reason"], INTERNAL_ERROR), False)


def _parts(run: Run) -> list[str]:
    return [found.url for found in storage.listing(run.parts) if found.url.endswith(".parquet")]


def renew(run: Run, table: StudyTable, seek_points: str) -> int:
    """Let the frozen list of a broken run say where its studies lie now: a later table of the same archive knows.

    Since it was frozen a container may have been packed again: the bytes at the old place are another study's. A study
    that has changed or is gone leaves the list, unless a part holds it, and with it the plan; the number of those.
    """
    frozen = StudyTable(run.studies)
    listed = IdSet.union(IdSet(versions(batch)) for batch in frozen.batches(_VERSION))

    def rows() -> Iterator[pa.Table]:
        found: list[IdSet] = []
        for batch in table.batches():
            own = batch.filter(pa.array(listed.contains(versions(batch))))
            found.append(IdSet(versions(own)))
            yield own
        there = IdSet.union(found)
        if len(there) == len(listed):
            return
        done = done_ids(run)
        for batch in frozen.batches():
            is_kept = ~there.contains(versions(batch)) & done.contains(batch["study_id"].to_pylist())
            kept = batch.filter(pa.array(is_kept)).to_pylist()
            yield pa.Table.from_pylist(kept, schema=table.schema)  # of another night, with other labels

    with _list_of(table, (batch for batch in rows() if batch.num_rows), seek_points) as path:
        plan = json.loads(storage.read(run.plan))
        plan["hash"], left = plan_hash(Selection(StudyTable(str(path)), None, None), plan["fingerprint"])
        if left < frozen.rows:
            storage.write(run.plan, json.dumps(plan, indent=2).encode() + b"\n")
        storage.upload_file(path, run.studies)
    return frozen.rows - left


# ---- publish --------------------------------------------------------------------------------------------------


def publish(run: Run) -> Counter:
    """Reconcile the parts with the frozen list and merge them under deterministic names; count the statuses.

    Every id exactly once: a doubled one is dropped, and a row `internal_error` where a later attempt has scored the
    study. RunError where a study is in no part.
    """
    wanted = IdSet.union(IdSet(ids) for ids in _frozen_ids(run))
    landed = _landed(run)
    _require_all(run, IdSet.union(landed))
    counts: Counter = Counter()
    storage.delete_below(run.scores)  # of an attempt that was killed: it may have more files than this one
    with tempfile.TemporaryDirectory(prefix="cxrpipe-") as folder:
        for number, path in enumerate(_merged(_each_once(run, wanted, landed.done, counts), Path(folder))):
            storage.upload_file(path, storage.join(run.scores, f"scores-{number:05d}.parquet"))
            path.unlink()
    return counts


def _frozen_ids(run: Run) -> Iterator[list[str]]:
    for batch in StudyTable(run.studies).batches(["study_id"]):
        yield batch["study_id"].to_pylist()


def _require_all(run: Run, done: IdSet) -> None:
    missing: list[str] = []
    for ids in _frozen_ids(run):
        missing += (study_id for study_id, is_done in zip(ids, done.contains(ids), strict=True) if not is_done)
    if missing:
        raise RunError(
            f"{run.url}: {len(missing)} studies are in no part, {sorted(missing)[:3]} among them; "
            "run the same command again to score them"
        )


def _each_once(run: Run, wanted: IdSet, done: IdSet, counts: Counter) -> Iterator[pa.Table]:
    """The rows of all parts, in the order of the parts' names: of those that are wanted the first of each study.

    done  studies with a row that is not `internal_error`: no other is taken of them
    """
    taken = np.zeros(len(wanted), bool)
    for url in sorted(_parts(run)):
        try:
            rows = storage.read_table(url)
        except (pa.ArrowInvalid, OSError) as error:  # its ids can be read, the rest cannot
            storage.delete(url)
            raise RunError(f"{url}: cannot be read ({error}); the same command scores its studies again") from error
        ids = rows["study_id"].to_pylist()
        is_bettered = _met_an_error(rows).to_numpy() & done.contains(ids)
        keep = []
        for place, bettered in zip(wanted.places(ids), is_bettered, strict=True):
            keep.append(place >= 0 and not taken[place] and not bettered)
            if keep[-1]:
                taken[place] = True
        rows = rows.filter(pa.array(keep))
        counts.update(count_statuses(rows))
        yield rows


def _merged(tables: Iterable[pa.Table], folder: Path) -> Iterator[Path]:
    """Tables → local files of about 256 MB, row groups of at most 1,000 rows.

    A later version may have resumed the run and written columns that the first parts lack: a file has the columns of
    all that came before it, and one that brings more begins a new file. Readers unite the columns of files.
    """
    path, writer, number, schema = folder, None, 0, pa.schema([])
    for table in tables:
        schema = united([schema, table.schema])
        if writer is not None and not writer.schema.equals(schema):
            writer.close()
            yield path
            writer = None
        if writer is None:
            path = folder / f"{number}.parquet"
            writer = pq.ParquetWriter(path, schema, compression="zstd")
            number += 1
        writer.write_table(with_columns_of(schema, table), row_group_size=_ROW_GROUP)
        if path.stat().st_size >= _PUBLISHED_BYTES:
            writer.close()
            yield path
            writer = None
    if writer is not None:
        writer.close()
        yield path

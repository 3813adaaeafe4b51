"""Publishes a run: reconciles its parts with its frozen list, and merges the parts into files of about 256 MB."""

import contextlib
import errno
import functools
import heapq
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cxrpipe import storage
from cxrpipe.errors import RunError, StoreError
from cxrpipe.records import united, with_columns_of
from cxrpipe.records.id_set import IdSet
from cxrpipe.records.study_table import StudyTable
from cxrpipe.runs.plan import ROW_GROUP
from cxrpipe.runs.read_ahead import read_ahead
from cxrpipe.runs.resume import met_an_error, parts
from cxrpipe.runs.root import Run
from cxrpipe.scoring.parts import count_statuses

_PUBLISHED_BYTES = 256 << 20


def publish(run: Run, check: Callable[[], object] = lambda: None) -> Counter[str]:
    """Reconcile the parts with the frozen list and merge them under deterministic names; count the statuses.

    Every id is published exactly once. A second row of a study is dropped, and so is a row `internal_error` where a
    later attempt has scored the study. RunError where a study is in no part that can be read; then nothing is
    published. Each part is read once, and the merged files wait on this machine (TMPDIR) until every study is found.

    check  called when all is merged and before anything is published: raises where the lock of the root is lost
    """
    merger = _Merger(run)
    with tempfile.TemporaryDirectory(prefix="cxrpipe-") as folder, _room_in(folder):
        paths = [*_files(_row_groups(merger.rows()), Path(folder))]
        merger.require_all()
        check()
        storage.delete_below(run.scores)  # an attempt that was killed may have left more files than this one writes
        for number, path in enumerate(paths):
            storage.upload_file(path, storage.join(run.scores, f"scores-{number:05d}.parquet"))
            path.unlink()
    return merger.counts


class _Part(NamedTuple):
    """A part that was read."""

    url: str
    rows: pa.Table
    """No rows where the part cannot be read."""
    places: np.ndarray
    """(N,) int64: the place of every row's study among the wanted ones; -1 for a study that is not wanted."""
    error: Exception | None = None
    """Why the part cannot be read."""


class _Merger:
    """Picks one row of every study of a run's list from the parts of the run."""

    def __init__(self, run: Run) -> None:
        self.counts: Counter[str] = Counter()
        """Of the rows that were picked."""
        self._run = run
        self._wanted = IdSet.union(IdSet(ids) for ids in _frozen_ids(run))
        self._taken = np.zeros(len(self._wanted), bool)
        self._unreadable: list[_Part] = []

    def rows(self) -> Iterator[pa.Table]:
        """The first final row of every study, in the order of the parts' names; then the rows of the other studies.

        A row is final unless it is `internal_error`. Rows `internal_error` wait in memory until all parts are read,
        since any part may better them. They are few: a run that has many stops (`runs.watch`).
        """
        faulty: list[_Part] = []
        for part in read_ahead(functools.partial(_read, wanted=self._wanted), sorted(parts(self._run))):
            if part.error:
                storage.delete(part.url)
                self._unreadable.append(part)
                continue
            is_faulty = met_an_error(part.rows).to_numpy()
            yield self._pick(part, ~is_faulty)
            if is_faulty.any():
                places = np.flatnonzero(is_faulty)
                faulty.append(_Part(part.url, part.rows.take(places), part.places[places]))
        for part in faulty:
            yield self._pick(part, np.ones(part.rows.num_rows, bool))

    def _pick(self, part: _Part, of_these: np.ndarray) -> pa.Table:
        """The first rows of studies that have no row yet.

        of_these  (N,) bool: the rows of the part to choose from
        """
        chosen = np.flatnonzero(of_these & (part.places >= 0))
        chosen = chosen[~self._taken[part.places[chosen]]]
        _, firsts = np.unique(part.places[chosen], return_index=True)
        chosen = np.sort(chosen[firsts])
        self._taken[part.places[chosen]] = True
        rows = part.rows if len(chosen) == part.rows.num_rows else part.rows.take(chosen)
        self.counts.update(count_statuses(rows))
        return rows

    def require_all(self) -> None:
        """RunError where a study has no row."""
        if self._taken.all():
            return
        missing = (study_id for ids in _frozen_ids(self._run) for study_id in self._missing(ids))
        message = (
            f"{self._run.url}: {np.count_nonzero(~self._taken)} studies are in no part, {heapq.nsmallest(3, missing)} "
            "among them; run the same command again to score them"
        )
        if self._unreadable:
            part = self._unreadable[0]
            message += f" ({len(self._unreadable)} parts cannot be read and are deleted; {part.url}: {part.error})"
        raise RunError(message)

    def _missing(self, ids: list[str]) -> Iterator[str]:
        is_taken = self._taken[self._wanted.places(ids)]
        return (study_id for study_id, taken in zip(ids, is_taken.tolist(), strict=True) if not taken)


def _frozen_ids(run: Run) -> Iterator[list[str]]:
    for batch in StudyTable(run.studies).batches(["study_id"]):
        yield batch["study_id"].to_pylist()


def _read(part: storage.Object, wanted: IdSet) -> _Part:
    """A whole part, by one request to the store."""
    try:
        data = pa.BufferReader(storage.read(part.url))
        rows = pq.ParquetFile(data).read(use_threads=False)  # several parts are decoded at once
    except (pa.ArrowInvalid, OSError) as error:
        return _Part(part.url, pa.table({}), np.zeros(0, np.int64), error)
    return _Part(part.url, rows, wanted.places(rows["study_id"].to_pylist()))


def _row_groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Gather tables until they fill row groups of 1,000 rows; fewer rows where the columns change and at the end.

    A later version may have resumed the run and written columns that the first parts lack. All tables get the columns
    of the tables before them.
    """
    gathered: list[pa.Table] = []
    schema = pa.schema([])
    for table in tables:
        if not table.schema.equals(schema):
            grown = united([schema, table.schema])
            if not grown.equals(schema):
                yield from _whole(gathered)
                gathered, schema = [], grown
            table = with_columns_of(schema, table)
        gathered.append(table)
        if (rows := sum(table.num_rows for table in gathered)) >= ROW_GROUP:
            whole, full = pa.concat_tables(gathered), rows - rows % ROW_GROUP
            yield whole.slice(0, full)
            gathered = [whole.slice(full)]
    yield from _whole(gathered)


def _whole(tables: list[pa.Table]) -> Iterator[pa.Table]:
    """The tables as one, unless they have no rows."""
    if any(table.num_rows for table in tables):
        yield pa.concat_tables(tables)


def _files(tables: Iterable[pa.Table], folder: Path) -> Iterator[Path]:
    """Write tables into local files of about 256 MB, with row groups of at most 1,000 rows.

    A table with other columns begins a new file. Readers unite the columns of the files.
    """
    path, writer, number = folder, None, 0
    for table in tables:
        if writer is not None and not writer.schema.equals(table.schema):
            writer.close()
            yield path
            writer = None
        if writer is None:
            path = folder / f"{number}.parquet"
            # A dictionary of values that never repeat (probabilities, digests, pictures) takes half of the time and 3%
            # of the bytes; zstd shortens the names that do repeat. docs/decisions.md#publishing-reads-each-part-once
            writer = pq.ParquetWriter(path, table.schema, compression="zstd", use_dictionary=False)
            number += 1
        writer.write_table(table, row_group_size=ROW_GROUP)
        if path.stat().st_size >= _PUBLISHED_BYTES:
            writer.close()
            yield path
            writer = None
    if writer is not None:
        writer.close()
        yield path


@contextlib.contextmanager
def _room_in(folder: str) -> Iterator[None]:
    """Raise StoreError where the folder of the merged files is full."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StoreError(
            f"{folder}: no room for the merged rows of the run ({error.strerror or error}); set TMPDIR to a folder "
            "with about as much room as the parts take, and run the same command again"
        ) from error

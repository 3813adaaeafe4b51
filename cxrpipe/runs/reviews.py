"""The verdicts of readers on a score root. Each is kept once, whoever writes at the same time, and none is overwritten.

<root>/reviews/verdicts/<id>.parquet        one submission: verdicts of one reader
<root>/reviews/merged/<number>.parquet      many submissions in one file
<root>/reviews/forgotten.json               how many verdicts and entries of lists `forget` has removed

The browser makes the id of a submission. Of several requests with one id exactly one creates the file (see
`storage.write_new`), so nothing is doubled by a repeated request. After a merge the file is gone, and a late repetition
writes its rows a second time: readers therefore take every (id, study, finding) once.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cxrpipe import storage
from cxrpipe.errors import ConfigError, LockError, StoreError
from cxrpipe.records import verdicts as records
from cxrpipe.records import with_columns_of
from cxrpipe.records.verdicts import VERDICT_SCHEMA, Verdict
from cxrpipe.runs.read_ahead import read_ahead
from cxrpipe.runs.root import ScoreRoot

FOLDER = "reviews"
"""Below the score root: verdicts and reading lists."""
_MERGED = re.compile(r"[0-9]{8}\.parquet")
_TRIES = 5
"""A merge may remove a file between listing and reading; then all is listed again."""


class Reviews:
    """The verdicts of one score root. Threads may share an object: a file that was read stays in memory."""

    def __init__(self, root: ScoreRoot, allow_notes: bool = True) -> None:
        self._root, self._allow_notes = root, allow_notes
        self._submissions, self._merged = folders(root)
        self._kept: dict[storage.Object, pa.Table] = {}
        self._joined: tuple[list[storage.Object], pa.Table] = [], VERDICT_SCHEMA.empty_table()

    def write(self, verdicts: Sequence[Verdict]) -> None:
        """Keep the verdicts of one submission. A submission whose id is known changes nothing.

        ConfigError where a patient is forgotten, or where a note comes that is not allowed. The list of the forgotten
        is read before and after: `forget` may pass by while this writes.
        """
        if len({(verdict.verdict_id, verdict.reader) for verdict in verdicts}) != 1:
            raise ConfigError("the verdicts of a submission share one id and one reader, and there is at least one")
        if len({(verdict.study_id, verdict.finding) for verdict in verdicts}) < len(verdicts):
            raise ConfigError(f"{verdicts[0].study_id}: two verdicts on one finding in one submission")
        if not self._allow_notes and any(verdict.note for verdict in verdicts):
            raise ConfigError("notes are off under pseudonyms, because a note may name a patient; see --allow-notes")
        rows = records.as_table(verdicts)
        url = storage.join(self._submissions, f"{verdicts[0].verdict_id}.parquet")
        self._refuse_forgotten(rows)
        storage.write_new(url, parquet_bytes(rows))
        try:
            self._refuse_forgotten(rows)
        except ConfigError:
            storage.delete(url)
            raise

    def history(self) -> pa.Table:
        """All verdicts (`VERDICT_SCHEMA`), oldest first, without those on patients who are forgotten."""
        rows, _, _ = self._read()
        return rows.filter(pa.array(self._root.forgotten().is_kept(rows)))

    def read(self) -> pa.Table:
        """The newest verdict of every reader on every study and finding (`VERDICT_SCHEMA`), oldest first."""
        return records.newest_of_readers(self.history())

    def labels(self, fingerprint: str | None = None) -> pa.Table:
        """The label of every study and finding that has a verdict: study_id, finding, label (1, 0, -1), readers.

        A label says what is on the film, and so holds for every model.

        fingerprint  only verdicts on the answers of these models
        """
        verdicts = self.read()
        if fingerprint is not None:
            verdicts = verdicts.filter(pc.equal(verdicts["fingerprint"], fingerprint))
        return records.labels_of(verdicts)

    def merge(self, at_least: int = 2) -> int:
        """Merge the files of submissions into one; the number of these files, 0 where there are fewer than `at_least`.

        The whole history stays, except verdicts on patients who are forgotten. LockError where another run holds the
        root. Where this breaks off, files are left whose rows are also in the merged one: readers take them once.
        """
        if len(_files(self._submissions)) < at_least:
            return 0
        with self._root.locked() as lock:
            rows, submissions, merged = self._read()
            rows = rows.filter(pa.array(self._root.forgotten().is_kept(rows)))
            number = max((int(storage.last_part(file.url).partition(".")[0]) for file in merged), default=0) + 1
            lock.check()
            if not storage.write_new(storage.join(self._merged, f"{number:08}.parquet"), parquet_bytes(rows)):
                raise LockError(f"{self._root.url}: another process has merged verdicts meanwhile; nothing is removed")
            for file in (*merged, *submissions):
                storage.delete(file.url)
        return len(submissions)

    def _refuse_forgotten(self, rows: pa.Table) -> None:
        is_kept = self._root.forgotten().is_kept(rows)
        if not is_kept.all():
            study_id = rows.filter(pa.array(~is_kept))["study_id"][0]
            raise ConfigError(f"{study_id}: its patient is forgotten; no verdict of this submission is kept")

    def _read(self) -> tuple[pa.Table, list[storage.Object], list[storage.Object]]:
        """All rows, each once, and the files of submissions and of merges that they come from."""
        for _ in range(_TRIES):
            submissions = _files(self._submissions)  # first: what a merge removes is in a file that is listed later
            merged = [file for file in _files(self._merged) if _MERGED.fullmatch(storage.last_part(file.url))]
            files = [*merged, *submissions]
            known, rows = self._joined
            if files == known:
                return rows, submissions, merged
            try:
                tables = list(read_ahead(self._table, files))
            except FileNotFoundError:
                continue
            rows = records.each_once(pa.concat_tables([VERDICT_SCHEMA.empty_table(), *tables]))
            self._kept, self._joined = dict(zip(files, tables, strict=True)), (files, rows)
            return rows, submissions, merged
        raise StoreError(f"{self._root.url}: its verdicts were merged {_TRIES} times while they were read; try again")

    def _table(self, file: storage.Object) -> pa.Table:
        kept = self._kept.get(file)
        return _read_verdicts(storage.read(file.url), file.url) if kept is None else kept


def folders(root: ScoreRoot) -> tuple[str, str]:
    """Where the verdicts of a score root lie: those of single submissions, and the merged ones."""
    return storage.join(root.url, FOLDER, "verdicts"), storage.join(root.url, FOLDER, "merged")


def count_forgotten(root: ScoreRoot, counts: Mapping[str, int]) -> None:
    """Add to the numbers of removed verdicts and entries of reading lists, in reviews/forgotten.json.

    Only the holder of the root's lock may call this.
    """
    url = storage.join(root.url, FOLDER, "forgotten.json")
    before = json.loads(storage.read(url)) if storage.stat(url) else {}
    total = {name: before.get(name, 0) + count for name, count in counts.items()}
    storage.write(url, json.dumps(total, indent=2).encode() + b"\n")


def _files(folder: str) -> list[storage.Object]:
    return [file for file in storage.listing(folder) if file.url.endswith(".parquet")]


def parquet_bytes(rows: pa.Table) -> bytes:
    """A small table as one Parquet file."""
    data = io.BytesIO()
    pq.write_table(rows, data, compression="zstd")
    return data.getvalue()


def _read_verdicts(data: bytes, url: str) -> pa.Table:
    try:
        rows = pq.read_table(io.BytesIO(data), use_threads=False)
        return with_columns_of(VERDICT_SCHEMA, rows).select(VERDICT_SCHEMA.names).cast(VERDICT_SCHEMA)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ConfigError(f"{url}: not a file of verdicts ({error}); move it out of the folder") from error

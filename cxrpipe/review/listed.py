"""Where the files of a scored study lie: in the table of --studies, or else in the frozen list of its run."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from cxrpipe import storage
from cxrpipe.archives.reader import Reader
from cxrpipe.errors import ConfigError, StudyError
from cxrpipe.records import Study
from cxrpipe.records.study_index import StudyIndex
from cxrpipe.records.study_table import StudyTable
from cxrpipe.runs.root import ScoreRoot

_MOST_STUDIES = 2_000_000
"""Of all lists that stay open, about 90 MB for a million. One list always stays open, however long it is."""


class Files(NamedTuple):
    """A study, and what reads its views."""

    study: Study
    reader: Reader


class _Opened(NamedTuple):
    version: str
    """Of the object: a table may be indexed again while it is open."""
    studies: StudyIndex


class Listed:
    """Finds the files of studies. Threads may share it; `close` closes the containers that its readers opened.

    table  of --studies; None: only the frozen lists of the root
    """

    def __init__(self, root: ScoreRoot, table: StudyTable | None) -> None:
        self._root = ScoreRoot.of_table(root.url, table) if table else root  # private lists lie beside their table
        self._table = table
        self._opened: OrderedDict[str, _Opened] = OrderedDict()
        self._readers: dict[str, Reader] = {}  # by their folder of seek points, which is mostly one
        self._lock = threading.Lock()

    def find(self, row: Mapping[str, Any]) -> Files:
        """The files that a score row was made of; StudyError where no list names them.

        row  with `study_id`, `study_digest` and `run_id`
        """
        changed = False
        for url in self._urls(row):
            if studies := self._open(url):
                study = studies.find(row["study_id"])
                if study and study.study_digest == row["study_digest"]:
                    return Files(study, self._reader(studies.table.seek_points))
                changed = changed or study is not None
        if changed:
            raise StudyError("missing", f"{row['study_id']}: its files have changed since it was scored")
        raise StudyError(
            "missing", f"{row['study_id']}: no list names its files; start review with --studies and the table"
        )

    def close(self) -> None:
        with self._lock:
            for reader in self._readers.values():
                reader.__exit__()
            self._readers.clear()

    def _urls(self, row: Mapping[str, Any]) -> Iterator[str]:
        if self._table:
            yield self._table.url
        yield self._root.run(row["run_id"]).studies

    def _open(self, url: str) -> StudyIndex | None:
        """A list, opened anew if it has changed. None where there is none."""
        listed = storage.stat(url)
        if listed is None:
            return None
        with self._lock:
            if url not in self._opened or self._opened[url].version != listed.version:
                try:
                    self._opened[url] = _Opened(listed.version, StudyIndex(StudyTable(url)))
                except ConfigError:
                    return None
            self._opened.move_to_end(url)
            while len(self._opened) > 1 and self._studies() > _MOST_STUDIES:
                self._opened.popitem(last=False)
            return self._opened[url].studies

    def _studies(self) -> int:
        return sum(opened.studies.table.rows for opened in self._opened.values())

    def _reader(self, seek_points: str) -> Reader:
        with self._lock:
            return self._readers.setdefault(seek_points, Reader(seek_points))

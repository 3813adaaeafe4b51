"""The score rows as the reading room asks for them, also while runs come and patients are forgotten."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self, TypeVar

from cxrpipe.records import CompleteRuns
from cxrpipe.records.study_table import StudyTable
from cxrpipe.review.answers import Choices, FailureGroup, Page, Pictures, Row, Summary
from cxrpipe.review.figures import failure_groups
from cxrpipe.review.filters import Filter
from cxrpipe.review.row_files import Moved
from cxrpipe.review.snapshot import Snapshot
from cxrpipe.runs.root import ScoreRoot

PAGE = 50
"""Studies of a page."""
_LOOK_S = 10.0
"""So often, at most, the root is looked at for new runs and forgotten patients."""
_Answer = TypeVar("_Answer")


class Rows:
    """The newest row of every study of a score root under one fingerprint. Threads may share it.

    A new run, and a patient who is forgotten, are noticed within ten seconds; the root is then read anew while other
    threads still get the answers of before.
    """

    def __init__(self, root: ScoreRoot, fingerprint: str | None, table: StudyTable | None) -> None:
        self._root, self._table = root, table
        self._looking = threading.Lock()
        self.fingerprint = root.complete_runs().of(fingerprint).newest.fingerprint
        self._scratch = tempfile.TemporaryDirectory(prefix="cxrpipe-")
        self._readings = 0
        try:
            self._snapshot = self._read()
        except BaseException:
            self._scratch.cleanup()
            raise
        self._look_at = time.monotonic() + _LOOK_S

    @classmethod
    def open(cls, root: ScoreRoot, fingerprint: str | None = None, table: StudyTable | None = None) -> Rows:
        """ConfigError where no run is complete, or where the root holds several fingerprints and none is named.

        table  of the archive, for split, labels, age and sex
        """
        return cls(root, fingerprint, table)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        self._snapshot.close()
        self._scratch.cleanup()

    # ---- what pages ask -----------------------------------------------------------------------------------------

    @property
    def findings(self) -> tuple[str, ...]:
        return self._snapshot.loaded.findings

    @property
    def labelled(self) -> tuple[str, ...]:
        """The findings that are both scored and labelled by the study table."""
        return self._snapshot.loaded.labelled

    @property
    def runs(self) -> CompleteRuns:
        """The complete runs of this fingerprint. `runs.newest.members`: the models, in the order of `member_probs`."""
        return self._snapshot.loaded.runs

    def page(self, filter_: Filter, size: int = PAGE) -> Page:
        """One page of a list; ConfigError where the filter asks for what the root does not hold."""
        return self._ask(lambda now: now.page(filter_, size))

    def disagreeing(self, filter_: Filter, size: int = PAGE) -> Page:
        """As `page`, the largest disagreement of the members first, with `member_probs` of the finding or of all."""
        return self._ask(lambda now: now.disagreeing(filter_, size))

    def beside(self, filter_: Filter, study_id: str) -> tuple[str | None, str | None]:
        """The studies before and after a study in the list of a filter; None where the list ends."""
        return self._ask(lambda now: now.beside(filter_, study_id))

    def study(self, study_id: str) -> Row | None:
        """The row of a study without pictures and vectors, with `run_id`, and what the study table says of it."""
        return self._ask(lambda now: now.study(study_id))

    def pictures(self, study_id: str) -> Pictures | None:
        return self._ask(lambda now: now.pictures(study_id))

    def of_patient(self, patient_id: str) -> list[Row]:
        """The studies of a patient as rows of a list, those that were scored last first."""
        return self._ask(lambda now: now.of_patient(patient_id))

    def summary(self) -> Summary:
        return self._ask(lambda now: now.summary)

    def failures(self, examples: int = 5) -> list[FailureGroup]:
        """The studies that were not scored, or not wholly, by reason."""
        return self._ask(lambda now: failure_groups(now.loaded, examples))

    def choices(self) -> Choices:
        return self._ask(lambda now: now.choices)

    # ---- reading anew -------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Read the root anew if it has changed."""
        with self._looking:
            self._read_if_changed()

    def _ask(self, question: Callable[[Snapshot], _Answer]) -> _Answer:
        if time.monotonic() >= self._look_at and self._looking.acquire(blocking=False):
            try:
                self._read_if_changed()
            finally:
                self._looking.release()
        snapshot = self._snapshot
        try:
            return question(snapshot)
        except Moved:  # `forget` has written files anew
            with self._looking:
                if self._snapshot is snapshot:
                    self._snapshot = self._read()
            return question(self._snapshot)

    def _read_if_changed(self) -> None:
        complete, forgotten = self._seen
        now = tuple(run.run_id for run in self._root.runs() if run.run_id in complete or run.is_complete())
        if (now, self._root.forgotten().rows) != (complete, forgotten):
            self._snapshot = self._read()
        self._look_at = time.monotonic() + _LOOK_S

    def _read(self) -> Snapshot:
        """A snapshot of now. The one before is closed once no thread holds it any more."""
        complete, forgotten = self._root.complete_runs(), self._root.forgotten()
        self._seen = tuple(report.run_id for report in complete), forgotten.rows
        self._readings += 1
        folder = Path(self._scratch.name) / str(self._readings)
        return Snapshot(self._root, complete.of(self.fingerprint), self._table, forgotten, folder)

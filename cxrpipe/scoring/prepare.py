"""A study → uint8 squares that are ready for the networks: fetch, decode, fit. Runs on CPUs, without torch."""

import hashlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import numpy as np

from cxrpipe.archives.reader import Reader
from cxrpipe.errors import StudyError
from cxrpipe.images.fits import Frame
from cxrpipe.images.flags import looks_inverted
from cxrpipe.images.isolation import Isolated
from cxrpipe.images.letterbox import Preparation
from cxrpipe.images.squares import Decode, Decoded, decode_view
from cxrpipe.models.ensemble import Ensemble
from cxrpipe.records import FRONTAL, INTERNAL_ERROR, REASONS, Study, View
from cxrpipe.records.study_table import StudyTable
from cxrpipe.scoring.faults import Fault, guarded
from cxrpipe.scoring.work import worker

Row = dict[str, Any]
"""A score row in the making."""
_MOST_VIEWS = 2**15 - 1
"""The largest `n_views` that its column of int16 holds."""


class Prepared(NamedTuple):
    """A study that is ready for the networks."""

    row: Row
    """Its score row, with all columns but those that the networks fill."""
    pixels: dict[Preparation, np.ndarray]
    """Per distinct preparation (V, S, S) uint8: the views whose status is ok, in their order."""


class Preparer:
    """Prepares studies: reads, decodes and fits their views. Threads may share it; `with` ends its decoders.

    table      the studies' table; None: studies of single files, which no table lists
    ensemble   the models that the studies are prepared for
    timeout_s  limit for the decoding of one view, in a process that a bad file may crash; None: decode in this process
    decode     a function of the shape of `decode_view`
    children   processes that decode at the same time
    reader     makes the reader of views from the url of the table's seek points
    clock      seconds since 1970, which processes and machines have in common
    """

    def __init__(
        self,
        table: StudyTable | None,
        ensemble: Ensemble,
        timeout_s: float | None,
        *,
        decode: Decode = decode_view,
        children: int = 1,
        reader: Callable[[str], Reader] = Reader,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.ensemble, self.clock = ensemble, clock
        self._private = table is not None and table.is_pseudonymised
        self._reader = reader(table.seek_points if table else "")
        self._isolated = None if timeout_s is None else Isolated(decode, timeout_s, children)
        self._decode = self._isolated or decode

    def __enter__(self) -> Self:
        if self._isolated:
            self._isolated.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        if self._isolated:
            self._isolated.__exit__(*error)
        self._reader.__exit__(*error)

    def __call__(self, study: Study) -> Prepared:
        """Fetch, decode and fit every view. Bad data, and an error in this program, become a status and a reason."""
        started = self.clock()
        row, pixels = guarded(
            lambda: self._prepare(study),
            lambda fault: Prepared(failed_by(self._facts(study), fault), no_pixels(self.ensemble)),
        )
        ended = self.clock()
        return Prepared(row | {"prepare_s": ended - started, "prepared_at": ended, "prepared_by": worker()}, pixels)

    def _facts(self, study: Study) -> Row:
        """The columns that are known before the files are read. Views that will be read have the status `ok`."""
        views = [
            {
                "url": None if self._private else view.url,
                "entry": None if self._private else view.entry,
                "view_position": view.view_position,
                "status": "ok" if self._is_scored(view) else "skipped",
                "reason": None,
            }
            for view in study.views
        ]
        return {
            "study_id": study.study_id,
            "patient_id": study.patient_id,
            "study_digest": study.study_digest,
            "fingerprint": self.ensemble.fingerprint,
            "n_views": len(views),
            "flags": [],
            "views": views,
        }

    def _is_scored(self, view: View) -> bool:
        return self.ensemble.view_filter != "frontal" or view.view_position in FRONTAL

    def _prepare(self, study: Study) -> Prepared:
        row = self._facts(study)
        squares: dict[Preparation, list[np.ndarray]] = {each: [] for each in self.ensemble.preparations}
        details: list[tuple[str, str]] = []  # reason and sentence of every view that is not ok
        flags: set[str] = set()
        for number, (view, facts) in enumerate(zip(study.views, row["views"], strict=True), start=1):
            if facts["status"] == "skipped":
                continue
            try:
                decoded = self._decode_view(view, facts)
            except StudyError as error:
                facts |= {"status": REASONS[error.reason].status, "reason": error.reason}
                details.append((error.reason, f"view {number}: {error.reason}" if self._private else error.detail))
                continue
            flags.update(decoded.flags)
            first = self.ensemble.preparations[0]
            frame = Frame.of(decoded.rows_px, decoded.columns_px, first)
            if looks_inverted(decoded.squares[first][frame.inside]):
                flags.add("inverted_suspect")
            for preparation, square in decoded.squares.items():
                squares[preparation].append(square)
        if self._private:
            row["views"] = [facts | {"sha256": None} for facts in row["views"]]
        row["flags"] = sorted(flags)
        row["n_views_ok"] = sum(facts["status"] == "ok" for facts in row["views"])
        pixels = {preparation: np.stack(views) for preparation, views in squares.items() if views}
        return Prepared(row | _study_status(row["views"], details), no_pixels(self.ensemble) | pixels)

    def _decode_view(self, view: View, facts: Row) -> Decoded:
        """One view under every preparation; its hash and its size go into `facts`."""
        data = self._reader.read(view)
        facts["sha256"] = hashlib.sha256(data).hexdigest()
        decoded = self._decode(data, view.name, self.ensemble.preparations)
        facts |= {"rows_px": decoded.rows_px, "columns_px": decoded.columns_px}
        if decoded.blank:
            raise StudyError("blank", f"{view.name}: no contrast")
        return decoded


def failed_by(row: Row, fault: Fault) -> Row:
    """The row of a study that met an error in this program. Columns that the error may have spoiled are left out."""
    views = [
        {name: view.get(name) for name in ("url", "entry", "view_position", "status", "reason")}
        for view in row["views"]
    ]
    for view in views:
        if view["status"] == "ok":
            view |= {"status": REASONS[INTERNAL_ERROR].status, "reason": INTERNAL_ERROR}
    detail = f"{fault.kind}: an error in this program, whose log has the traceback; --retry scores the study again"
    return {name: row[name] for name in _STAYS if name in row} | {
        "n_views": min(len(views), _MOST_VIEWS),
        "n_views_ok": 0,
        "flags": [],
        "views": views,
        "status": REASONS[INTERNAL_ERROR].status,
        "reason": INTERNAL_ERROR,
        "detail": detail,
        "fault": fault._asdict(),
    }


_STAYS = (
    *("study_id", "patient_id", "study_digest", "fingerprint"),
    *("prepare_s", "prepared_at", "prepared_by"),
)


def no_pixels(ensemble: Ensemble) -> dict[Preparation, np.ndarray]:
    """The pixels of a study without a readable view: (0, S, S) uint8 per preparation."""
    return {each: np.zeros((0, each.side_px, each.side_px), np.uint8) for each in ensemble.preparations}


def _study_status(views: list[Row], details: list[tuple[str, str]]) -> Row:
    """The study's status, from those of its views; views that the models leave out do not count.

    details  reason and sentence of every view that is not ok
    """
    statuses = [view["status"] for view in views if view["status"] != "skipped"]
    if not statuses:
        return {
            "status": "rejected",
            "reason": "no_frontal",
            "detail": "no frontal view, and the model scores those only",
        }
    if not details:
        return {"status": "ok", "reason": None, "detail": None}
    status = "partial" if "ok" in statuses else "failed" if "failed" in statuses else "rejected"
    decisive = [pair for pair in details if status == "partial" or REASONS[pair[0]].status == status]
    reason, detail = (decisive or details)[0]
    return {"status": status, "reason": reason, "detail": detail}

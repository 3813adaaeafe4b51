"""A study → uint8 squares that are ready for the networks: fetch, decode, fit. Runs on CPUs, without torch."""

import hashlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from cxrpipe.archives.reader import Reader
from cxrpipe.errors import StudyError
from cxrpipe.images.letterbox import Preparation
from cxrpipe.images.squares import Decode, Decoded, decode_view
from cxrpipe.models.ensemble import Ensemble
from cxrpipe.records import FRONTAL, INTERNAL_ERROR, REASONS, Study, View
from cxrpipe.scoring.faults import Fault, guarded

Row = dict[str, Any]
"""A score row in the making."""


class Prepared(NamedTuple):
    """A study that is ready for the networks."""

    row: Row
    """Its score row, with all but the numbers."""
    pixels: dict[Preparation, np.ndarray]
    """Per distinct preparation (V, S, S) uint8: the views whose status is ok, in their order."""


def prepare_study(
    study: Study,
    reader: Reader,
    ensemble: Ensemble,
    decode: Decode = decode_view,
    *,
    private: bool = False,
    clock: Callable[[], float] = time.time,
) -> Prepared:
    """Fetch, decode and fit every view. Bad data becomes a status and a reason, and so does an error in this program.

    decode   `decode_view` in this process, or isolated where a file must not end it
    private  the row names no object of the archive: of a study whose ids are pseudonyms
    clock    seconds since 1970, which processes and machines have in common
    """
    started = clock()
    row, pixels = guarded(
        lambda: _prepare(study, reader, ensemble, decode, private),
        lambda fault: Prepared(failed_by(_facts(study, ensemble, private), fault), no_pixels(ensemble)),
    )
    ended = clock()
    return Prepared(row | {"prepare_s": ended - started, "prepared_at": ended}, pixels)


def failed_by(row: Row, fault: Fault) -> Row:
    """The row of a study that met an error in this program: nothing stays that the error may have come from."""
    views = [
        {name: view.get(name) for name in ("url", "entry", "view_position", "status", "reason")}
        for view in row["views"]
    ]
    for view in views:
        if view["status"] == "ok":
            view |= {"status": REASONS[INTERNAL_ERROR].status, "reason": INTERNAL_ERROR}
    detail = f"{fault.kind}: an error in this program, whose log has the traceback; --retry scores the study again"
    return {name: row[name] for name in _STAYS if name in row} | {
        "n_views": min(len(views), _INT16),
        "n_views_ok": 0,
        "flags": [],
        "views": views,
        "status": REASONS[INTERNAL_ERROR].status,
        "reason": INTERNAL_ERROR,
        "detail": detail,
        "fault": fault._asdict(),
    }


_INT16 = 2**15 - 1
_STAYS = (
    *("study_id", "patient_id", "study_digest", "fingerprint"),
    *("prepare_s", "prepared_at", "predict_s", "predicted_at", "computed_on"),
)


def no_pixels(ensemble: Ensemble) -> dict[Preparation, np.ndarray]:
    """Of a study without a readable view: (0, S, S) uint8 per preparation."""
    return {each: np.zeros((0, each.side_px, each.side_px), np.uint8) for each in ensemble.preparations}


def _facts(study: Study, ensemble: Ensemble, private: bool) -> Row:
    """What is known of a study before its files are read: `ok` is the status of the views that will be."""
    views = [
        {
            "url": None if private else view.url,
            "entry": None if private else view.entry,
            "view_position": view.view_position,
            "status": "skipped" if ensemble.view_filter == "frontal" and view.view_position not in FRONTAL else "ok",
            "reason": None,
        }
        for view in study.views
    ]
    return {
        "study_id": study.study_id,
        "patient_id": study.patient_id,
        "study_digest": study.study_digest,
        "fingerprint": ensemble.fingerprint,
        "n_views": len(views),
        "flags": [],
        "views": views,
    }


def _prepare(study: Study, reader: Reader, ensemble: Ensemble, decode: Decode, private: bool) -> Prepared:
    row = _facts(study, ensemble, private)
    squares: dict[Preparation, list[np.ndarray]] = {preparation: [] for preparation in ensemble.preparations}
    details: list[tuple[str, str]] = []
    flags: set[str] = set()
    for number, (view, facts) in enumerate(zip(study.views, row["views"], strict=True), start=1):
        if facts["status"] == "skipped":
            continue
        try:
            decoded = _decode_view(view, reader, ensemble, decode, facts)
        except StudyError as error:
            facts |= {"status": REASONS[error.reason].status, "reason": error.reason}
            details.append((error.reason, f"view {number}: {error.reason}" if private else error.detail))
            continue
        flags.update(decoded.flags)
        for preparation, square in decoded.squares.items():
            squares[preparation].append(square)
    if private:
        row["views"] = [view | {"sha256": None} for view in row["views"]]
    row["flags"] = sorted(flags)
    row["n_views_ok"] = sum(view["status"] == "ok" for view in row["views"])
    pixels = {each: np.stack(found) for each, found in squares.items() if found}
    return Prepared(row | _study_status(row["views"], details), no_pixels(ensemble) | pixels)


def _decode_view(view: View, reader: Reader, ensemble: Ensemble, decode: Decode, facts: Row) -> Decoded:
    """One view under every preparation; what is learned about the file goes into `facts`."""
    data = reader.read(view)
    facts["sha256"] = hashlib.sha256(data).hexdigest()
    decoded = decode(data, view.name, ensemble.preparations)
    facts |= {"rows_px": decoded.rows_px, "columns_px": decoded.columns_px}
    if decoded.blank:
        raise StudyError("blank", f"{view.name}: no contrast")
    return decoded


def _study_status(views: list[Row], details: list[tuple[str, str]]) -> Row:
    """The study's status from those of its views, laterals that the model leaves out apart."""
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
    reason, detail = next(
        (each for each in details if status == "partial" or REASONS[each[0]].status == status), details[0]
    )
    return {"status": status, "reason": reason, "detail": detail}

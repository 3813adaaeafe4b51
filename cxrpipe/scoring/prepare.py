"""A study → uint8 squares that are ready for the networks: fetch, decode, fit. Runs on CPUs, without torch."""

import hashlib
import time
from typing import Any, NamedTuple

import numpy as np

from cxrpipe.archives.reader import Reader
from cxrpipe.errors import StudyError
from cxrpipe.images.letterbox import Preparation
from cxrpipe.images.squares import Decode, Decoded, decode_view
from cxrpipe.models.ensemble import Ensemble
from cxrpipe.records import FRONTAL, REASONS, Study, View

Row = dict[str, Any]
"""A score row in the making."""


class Prepared(NamedTuple):
    """A study that is ready for the networks."""

    row: Row
    """Its score row, with all but the numbers."""
    pixels: dict[Preparation, np.ndarray]
    """Per distinct preparation (V, S, S) uint8: the views whose status is ok, in their order."""


def prepare_study(
    study: Study, reader: Reader, ensemble: Ensemble, decode: Decode = decode_view, *, private: bool = False
) -> Prepared:
    """Fetch, decode and fit every view. Bad data becomes a status and a reason; nothing is raised for it.

    decode   `decode_view` in this process, or isolated where a file must not end it
    private  the row names no object of the archive: of a study whose ids are pseudonyms
    """
    started = time.monotonic()
    views, details = [], []
    squares: dict[Preparation, list[np.ndarray]] = {preparation: [] for preparation in ensemble.preparations}
    flags: set[str] = set()
    for view in study.views:
        facts: Row = {
            "url": view.url,
            "entry": view.entry,
            "view_position": view.view_position,
            "reason": None,
        }
        views.append(facts)
        if ensemble.view_filter == "frontal" and view.view_position not in FRONTAL:
            facts["status"] = "skipped"
            continue
        try:
            decoded = _decode_view(view, reader, ensemble, decode, facts)
        except StudyError as error:
            facts |= {"status": REASONS[error.reason].status, "reason": error.reason}
            details.append((error.reason, f"view {len(views)}: {error.reason}" if private else error.detail))
            continue
        facts["status"] = "ok"
        flags.update(decoded.flags)
        for preparation, square in decoded.squares.items():
            squares[preparation].append(square)
    if private:
        views = [view | {"url": None, "entry": None, "sha256": None} for view in views]
    row = {
        "study_id": study.study_id,
        "patient_id": study.patient_id,
        "study_digest": study.study_digest,
        "fingerprint": ensemble.fingerprint,
        "n_views": len(views),
        "n_views_ok": sum(view["status"] == "ok" for view in views),
        "flags": sorted(flags),
        "views": views,
        **_study_status(views, details),
        "prepare_s": time.monotonic() - started,
    }
    stacked = {
        preparation: np.stack(found) if found else np.zeros((0, preparation.side_px, preparation.side_px), np.uint8)
        for preparation, found in squares.items()
    }
    return Prepared(row, stacked)


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

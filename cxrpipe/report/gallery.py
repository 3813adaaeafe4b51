"""Pictures for the report: a few small studies of every kind, with the outlines of the lungs and the heat map.

The scores alone decide which studies are drawn: the true and false positives with the highest probability, and the
negatives with the lowest. So the gallery shows the worst errors.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cxrpipe import console
from cxrpipe.archives.reader import Reader
from cxrpipe.archives.truth import truth_mask
from cxrpipe.config import DECODE_TIMEOUT_S
from cxrpipe.errors import StudyError
from cxrpipe.evaluation.figures import MaskFigures
from cxrpipe.images import heatmaps, masks
from cxrpipe.images.isolation import Isolated
from cxrpipe.images.squares import decode_view
from cxrpipe.records import Study
from cxrpipe.records.study_table import StudyTable
from cxrpipe.report import sheet, study_panels
from cxrpipe.report.words import votes

SIDE_PX = 300
"""A picture is about 12 kB as JPEG and 16 kB as base64; the default of 84 pictures is 1.3 MB."""
_QUALITY = 82
KINDS = {
    "True positives": (1, True),
    "False positives": (0, True),
    "False negatives": (1, False),
    "True negatives": (0, False),
}
"""Kind → label and consensus of its studies."""

Row = dict[str, Any]


class Picture(NamedTuple):
    """One study in the gallery."""

    kind: str
    study_id: str
    caption: str
    src: str
    """`data:image/jpeg;base64,…`; empty where the study could not be read."""


def finding_pictures(
    rows: pa.Table, table: StudyTable, findings: Sequence[str], at_most: int
) -> dict[str, list[Picture]]:
    """Draw true and false positives and negatives of every finding: finding → pictures.

    rows     score rows with label_<finding>, as `evaluate` joins them
    at_most  pictures of all findings together
    """
    of_a_kind = min(3, at_most // max(4 * len(findings), 1))
    chosen = {finding: [*_choose(rows, finding, of_a_kind)] for finding in findings}
    study_ids = sorted({study_id for pairs in chosen.values() for _, study_id in pairs})
    row_of = _rows_of(rows, study_ids)
    drawn = dict(_draw(table, row_of, [*findings]))
    return {
        finding: [
            Picture(kind, study_id, _caption(row_of[study_id], finding), drawn.get((study_id, finding), ""))
            for kind, study_id in pairs
        ]
        for finding, pairs in chosen.items()
    }


def mask_pictures(figures: MaskFigures, rows: pa.Table, table: StudyTable, of_a_kind: int = 4) -> list[Picture]:
    """Draw the masks with the lowest Dice and those around the median. The outline from the archive is yellow."""
    order = np.argsort(figures.dice_by_study, kind="stable")
    middle = max(0, len(order) // 2 - of_a_kind // 2)
    places_of = {"Lowest Dice": order[:of_a_kind], "Median Dice": order[middle : middle + of_a_kind]}
    row_of = _rows_of(rows, [figures.study_ids[place] for places in places_of.values() for place in places])
    drawn = dict(_draw(table, row_of, [""]))
    return [
        Picture(
            kind,
            figures.study_ids[place],
            f"Dice {figures.dice_by_study[place]:.3f}",
            drawn.get((figures.study_ids[place], ""), ""),
        )
        for kind, places in places_of.items()
        for place in places
    ]


def _choose(rows: pa.Table, finding: str, of_a_kind: int) -> Iterator[tuple[str, str]]:
    """Choose studies of every kind, the most certain first: (kind, study id)."""
    labels, prob = rows[f"label_{finding}"], rows[f"prob_{finding}"]
    for kind, (label, consensus) in KINDS.items():
        is_kind = pc.and_(pc.equal(labels, label), pc.equal(rows[f"consensus_{finding}"], consensus))
        candidates = pa.table({"study_id": rows["study_id"], "prob": prob}).filter(is_kind)
        order = [("prob", "descending" if consensus else "ascending"), ("study_id", "ascending")]
        yield from (
            (kind, study_id) for study_id in candidates.sort_by(order)["study_id"].slice(0, of_a_kind).to_pylist()
        )


def _rows_of(rows: pa.Table, study_ids: Sequence[str]) -> dict[str, Row]:
    chosen = rows.filter(pc.is_in(rows["study_id"], pa.array(study_ids, pa.string())))
    return {row["study_id"]: row for row in chosen.to_pylist()}


def _caption(row: Row, finding: str) -> str:
    yes, members = votes(row, finding)
    counted = f", {yes} of {members} votes" if members > 1 else ""
    return f"{row[f'prob_{finding}']:.2f}{counted}"


# ---- drawing --------------------------------------------------------------------------------------------------


def _draw(table: StudyTable, rows: Mapping[str, Row], findings: Sequence[str]) -> Iterator[tuple[tuple[str, str], str]]:
    """Draw studies for every finding: ((study id, finding), picture).

    Every study is read once. A study that cannot be read any more is left out, and a log line says so.
    """
    with Reader(table.seek_points) as reader, Isolated(decode_view, DECODE_TIMEOUT_S) as decode:
        for study in table.find(rows):
            row = rows[study.study_id]
            number = next((n for n, view in enumerate(row["views"]) if view["status"] == "ok"), None)
            if number is None:
                continue
            try:
                film = study_panels.shown(study.views[number], reader, decode, side_px=SIDE_PX)
                outlines = [*_outlines(study, row, number, reader, film)]
            except StudyError as error:
                console.log(f"the gallery leaves out a study: {error}")
                continue
            for finding in findings:
                drawn = sheet.overlaid(film.pixels, outlines, _heat(row, number, finding, film))
                yield (study.study_id, finding), _as_src(drawn)


def _outlines(
    study: Study, row: Row, number: int, reader: Reader, film: study_panels.Shown
) -> Iterator[tuple[np.ndarray, sheet.Colour]]:
    """Give the outlines of a view as (mask (h, w) bool, colour): that of the archive, then that of the model."""
    if any(mask.view == number for mask in study.mask_views):
        yield truth_mask(study, number, reader, (film.rows_px, film.columns_px)), sheet.TRUTH
    if row["masks"] and (png := row["masks"][number]):
        yield film.inside(masks.decode(png)), sheet.LUNG


def _heat(row: Row, number: int, finding: str, film: study_panels.Shown) -> np.ndarray | None:
    """Give the heat map of a finding in this view, (h, w) uint8; None where the row has none."""
    for heat in study_panels.heatmaps_of(row, number):
        if heat["finding"] == finding:
            return film.inside(heatmaps.decode(heat["png"]))
    return None


def _as_src(pixels: np.ndarray) -> str:
    _, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()

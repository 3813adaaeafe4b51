"""Presents a study to people: lines of text that describe the study, and panels of its images."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from cxrpipe.archives.reader import Reader
from cxrpipe.archives.truth import truth_mask
from cxrpipe.errors import StudyError
from cxrpipe.images import heatmaps, masks
from cxrpipe.images.letterbox import Letterbox, Preparation
from cxrpipe.images.squares import Decode, decode_view
from cxrpipe.records import Study, View
from cxrpipe.report.sheet import Panel
from cxrpipe.report.words import votes
from cxrpipe.scoring.prepare import Row

_SIDE_PX = 1_024
"""Longer side of a decoded view, more than a sheet has room for."""


class Shown(NamedTuple):
    """A view as people see it."""

    pixels: np.ndarray  # (h, w) uint8, the longer side of the size that `shown` takes
    rows_px: int
    """Rows of the image in the file."""
    columns_px: int

    def inside(self, square: np.ndarray) -> np.ndarray:
        """A letterboxed (S, S) mask or heat map of this view → the part without padding."""
        return square[Letterbox.of(self.rows_px, self.columns_px, len(square)).inside]


def shown(
    view: View, reader: Reader, decode: Decode = decode_view, intensity: str = "voi", side_px: int = _SIDE_PX
) -> Shown:
    """Read and decode a view at the size of a picture. StudyError where the view cannot be read now.

    decode  as in `prepare_study`; isolated where the file comes from a stranger
    """
    preparation = Preparation(intensity, side_px)
    decoded = decode(reader.read(view), view.name, [preparation])
    size = decoded.rows_px, decoded.columns_px
    return Shown(decoded.squares[preparation][Letterbox.of(*size, side_px).inside], *size)


def heatmaps_of(row: Row, number: int) -> Sequence[Row]:
    """The heat maps of view `number` of a score row, with `finding` and `png`; empty where the row has none."""
    return (row["heatmaps"][number] or ()) if row["heatmaps"] else ()


def structures_of(row: Row, number: int) -> Sequence[Row]:
    """The structures of view `number` of a score row, with `name` and `png`; empty where the row has none."""
    return (row["structures"][number] or ()) if row.get("structures") else ()


def heading(study: Study, row: Row | None) -> list[str]:
    """Lines that describe a study, and its scores where it has a score row."""
    lines = [f"study {study.study_id}", f"patient {study.patient_id or 'unknown'} · split {study.split}"]
    if present := [name for name, label in study.labels.items() if label == 1]:
        lines.append("labelled: " + ", ".join(present))
    if row is not None:
        lines += scored(row)
    return lines


def scored(row: Row) -> list[str]:
    """Lines that describe a score row: status, then every finding."""
    why = f": {row['reason']} ({row['detail']})" if row["reason"] else ""
    flags = f" · flags {', '.join(row['flags'])}" if row["flags"] else ""
    lines = [f"{row['status']}{why}{flags}"]
    names = [column.removeprefix("prob_") for column in row if column.startswith("prob_")]
    width = max((20, *map(len, names)))
    for name in names:
        if row[f"prob_{name}"] is not None:
            yes, members = votes(row, name)
            consensus = "yes" if row[f"consensus_{name}"] else "no"
            lines.append(f"{name:{width}} {row[f'prob_{name}']:.3f}  {yes} of {members} votes  {consensus}")
    return lines


def panels(
    study: Study, reader: Reader, row: Row | None, decode: Decode = decode_view, intensity: str = "voi"
) -> Iterator[Panel]:
    """Yield a panel for every view with its outlines, then one for its structures and for each of its heat maps.

    row  a row of a score table, with every column; None: the study is not scored
    """
    for number, view in enumerate(study.views):
        title = f"view {number}" + (f" {view.view_position}" if view.view_position else "")
        try:
            film = shown(view, reader, decode, intensity)
        except StudyError as error:
            yield Panel(title=f"{title}: {error.reason}")
            continue
        title = f"{title}, {film.rows_px} × {film.columns_px} px"
        try:
            truth = _truth(study, number, reader, film)
        except StudyError as error:
            truth, title = None, f"{title}; its mask: {error.reason}"
        png = row["masks"][number] if row and row["masks"] else None
        outlines = (film.inside(masks.decode(png)),) if png else ()
        yield Panel(title=title, pixels=film.pixels, masks=outlines, truth=truth)
        if drawn := structures_of(row, number) if row else ():
            of_structures = [film.inside(masks.decode(each["png"])) for each in drawn]
            yield Panel(title=", ".join(each["name"] for each in drawn), pixels=film.pixels, masks=of_structures)
        for heat in heatmaps_of(row, number) if row else ():
            yield Panel(title=heat["finding"], pixels=film.pixels, heat=film.inside(heatmaps.decode(heat["png"])))


def _truth(study: Study, number: int, reader: Reader, film: Shown) -> np.ndarray | None:
    if not any(mask.view == number for mask in study.mask_views):
        return None
    return truth_mask(study, number, reader, (film.rows_px, film.columns_px))

"""A study for people: lines that say what is known of it, and panels of what can be seen."""

from collections.abc import Iterator

import numpy as np

from cxrpipe import console
from cxrpipe.archives.reader import Reader
from cxrpipe.archives.truth import truth_mask
from cxrpipe.errors import StudyError
from cxrpipe.images import heatmaps, masks, radiographs
from cxrpipe.records import Study
from cxrpipe.report.sheet import Panel
from cxrpipe.scoring.prepare import Row


def heading(study: Study, row: Row | None) -> list[str]:
    """What is known of a study, in lines."""
    lines = [f"study {study.study_id}", f"patient {study.patient_id or 'unknown'} · split {study.split}"]
    if present := [name for name, label in study.labels.items() if label == 1]:
        lines.append("labelled: " + ", ".join(present))
    if row is not None:
        lines += scored(row)
    return lines


def scored(row: Row) -> list[str]:
    """What a score row says, in lines: status, then every finding."""
    why = f": {row['reason']} ({row['detail']})" if row["reason"] else ""
    flags = f" · flags {', '.join(row['flags'])}" if row["flags"] else ""
    lines = [f"{row['status']}{why}{flags}"]
    for name in (column.removeprefix("prob_") for column in row if column.startswith("prob_")):
        if row[f"prob_{name}"] is not None:
            members, votes = row[f"member_probs_{name}"], row[f"votes_{name}"]
            yes = "yes" if row[f"consensus_{name}"] else "no"
            lines.append(f"{name:20} {row[f'prob_{name}']:.3f}  {votes} of {len(members)} votes  {yes}")
    return lines


def panels(study: Study, reader: Reader, row: Row | None, recipe: str = "voi") -> Iterator[Panel]:
    """Every view with its outlines, its heat maps after it."""
    for number, view in enumerate(study.views):
        title = f"view {number}" + (f" {view.view_position}" if view.view_position else "")
        try:
            pixels = radiographs.decode(reader.read(view), recipe, view.name).pixels
        except StudyError as error:
            yield Panel(title=f"{title}: {error.reason}")
            continue
        title = f"{title}, {pixels.shape[0]} × {pixels.shape[1]} px"
        if row is None:
            yield Panel(title=title, pixels=pixels, truth=_truth(study, number, reader, pixels))
            continue
        png = row["masks"][number] if row["masks"] else None
        outline = (masks.on_image(masks.decode(png), *pixels.shape),) if png else ()
        yield Panel(title=title, pixels=pixels, masks=outline, truth=_truth(study, number, reader, pixels))
        for heat in (row["heatmaps"][number] or ()) if row["heatmaps"] else ():
            yield Panel(title=heat["finding"], pixels=pixels, heat=heatmaps.on_image(heat["png"], *pixels.shape))


def _truth(study: Study, number: int, reader: Reader, pixels: np.ndarray) -> np.ndarray | None:
    if not any(mask.view == number for mask in study.mask_views):
        return None
    try:
        return truth_mask(study, number, reader, (pixels.shape[0], pixels.shape[1]))
    except StudyError as error:
        console.log(f"shown without its mask: {error}")
        return None

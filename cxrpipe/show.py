"""The program `show`: one study as a picture, as the archive has it or as it was scored."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow.compute as pc

from cxrpipe import console, heatmaps, images, masks, storage
from cxrpipe.config import ShowConfig
from cxrpipe.errors import ConfigError, StudyError
from cxrpipe.examples import truth_mask
from cxrpipe.pictures import Panel, draw
from cxrpipe.reader import Reader
from cxrpipe.records import Study, find_score
from cxrpipe.runs import Run
from cxrpipe.study_table import StudyTable

Row = dict[str, Any]


def run(config: ShowConfig) -> int:
    source = storage.normalise(config.source)
    row: Row | None = None
    if source.endswith(".parquet"):
        table = StudyTable(source)
    else:
        row, run_id = find_score(source, config.study, config.fingerprint)
        table = StudyTable(Run(source, run_id).studies)
    study = _find(table, config.study)
    with Reader(table.seek_points) as reader:
        sheet = draw([*panels(study, reader, row)], "\n".join(heading(study, row)))
    out = storage.normalise(config.out or f"{config.study.replace('/', '_')}.png")
    storage.write(out, sheet)
    console.out().print("\n".join([*heading(study, row), f"Picture: {out}"]), markup=False)
    return 0


def _find(table: StudyTable, study_id: str) -> Study:
    first: list[str] = []
    for batch in table.batches():
        place = pc.index(batch["study_id"], study_id).as_py()
        if place >= 0:
            return Study.from_row(batch.slice(place, 1).to_pylist()[0])
        first = first or batch["study_id"].slice(0, 3).to_pylist()
    raise ConfigError(f"{table.url}: no study {study_id!r} among {table.rows:,}; its ids look like {', '.join(first)}")


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
            pixels = images.decode(reader.read(view), recipe, view.name).pixels
        except StudyError as error:
            yield Panel(title=f"{title}: {error.reason}")
            continue
        title = f"{title}, {pixels.shape[0]} × {pixels.shape[1]} px"
        if row is None:
            yield Panel(title=title, pixels=pixels, truth=_truth(study, number, reader))
            continue
        png = row["masks"][number] if row["masks"] else None
        outline = (masks.on_image(masks.decode(png), *pixels.shape),) if png else ()
        yield Panel(title=title, pixels=pixels, masks=outline, truth=_truth(study, number, reader))
        for heat in (row["heatmaps"][number] or ()) if row["heatmaps"] else ():
            yield Panel(title=heat["finding"], pixels=pixels, heat=heatmaps.on_image(heat["png"], *pixels.shape))


def _truth(study: Study, number: int, reader: Reader) -> np.ndarray | None:
    if not any(mask.view == number for mask in study.mask_views):
        return None
    return truth_mask(study, number, reader)

"""The program `export`: scores as CSV, lung masks as PNG and as DICOM segmentations; some rows at a time."""

import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import pyarrow as pa
from pyarrow import csv

from cxrpipe import console, storage
from cxrpipe.archives.reader import Reader
from cxrpipe.config import ExportConfig
from cxrpipe.errors import ConfigError, StudyError
from cxrpipe.images import dicom, masks
from cxrpipe.images.dicom import segmentation
from cxrpipe.records import Study, newest_rows
from cxrpipe.records.study_table import StudyTable
from cxrpipe.runs.root import Run

_PICTURES = ("masks", "heatmaps")
_AT_ONCE = 10_000
"""Rows with masks, some 2 kB each: the study table is read once for so many."""
_FIRST_BYTES = 256
"""Enough to see whether a file begins as DICOM."""


def run(config: ExportConfig) -> int:
    said = []
    if config.csv:
        said.append(f"CSV: {_write_csv(config):,} studies in {storage.normalise(config.csv)}")
    if config.masks or config.dicom_seg:
        said += _write_masks(config)
    console.out().print("\n".join(said), markup=False)
    return 0


# ---- CSV ------------------------------------------------------------------------------------------------------


def _write_csv(config: ExportConfig) -> int:
    assert config.csv
    studies = 0
    with tempfile.NamedTemporaryFile(prefix="cxrpipe-", suffix=".csv") as file:
        writer: csv.CSVWriter | None = None
        for _, rows in newest_rows(config.source, config.fingerprint, without=_PICTURES):
            flat = flatten(rows)
            writer = writer or csv.CSVWriter(file.name, flat.schema)
            writer.write_table(flat)
            studies += flat.num_rows
        if writer:
            writer.close()
        storage.upload_file(Path(file.name), storage.normalise(config.csv))
    return studies


def flatten(rows: pa.Table) -> pa.Table:
    """Rows without nesting: lists and structs as JSON."""
    for place, column in enumerate(rows.schema):
        if pa.types.is_nested(column.type):
            texts = [None if value is None else json.dumps(_short(value)) for value in rows[column.name].to_pylist()]
            rows = rows.set_column(place, column.name, pa.array(texts, pa.string()))
    return rows


def _short(value: Any) -> Any:
    """As many digits as float32 has: 0.1, and not 0.10000000149011612."""
    match value:
        case float():
            return float(f"{value:.7g}")
        case list():
            return [_short(each) for each in value]
        case dict():
            return {name: _short(each) for name, each in value.items()}
    return value


# ---- masks ----------------------------------------------------------------------------------------------------


class Lungs(NamedTuple):
    """The mask of one view."""

    study_id: str
    view: int
    """Its place in the study."""
    mask: np.ndarray  # (H, W) bool, on the image's own grid

    def file(self, suffix: str) -> str:
        """A file name that no id can lead elsewhere: slashes are written %2F."""
        return f"{quote(self.study_id, safe='')}_{self.view}.{suffix}"


def _write_masks(config: ExportConfig) -> list[str]:
    done: Counter = Counter()
    for account, rows in newest_rows(config.source, config.fingerprint, without=("heatmaps",), at_once=_AT_ONCE):
        rows = rows.filter(rows["masks"].is_valid())
        if config.masks:
            done.update(_write_pngs(rows, storage.normalise(config.masks)))
        if config.dicom_seg and rows.num_rows:
            done.update(_write_segmentations(rows, account, config, storage.normalise(config.dicom_seg)))
    if not done:
        raise ConfigError(f"{storage.normalise(config.source)}: no masks there; score with --segmenter to have some")
    if config.dicom_seg and not done["DICOM SEG"]:
        raise ConfigError(f"{done['others']:,} views with masks, and none is a DICOM file; --masks writes them as PNG")
    lines = [f"Masks: {done['PNG']:,} in {storage.normalise(config.masks)}"] if config.masks else []
    if config.dicom_seg:
        lines.append(f"DICOM segmentations: {done['DICOM SEG']:,} in {storage.normalise(config.dicom_seg)}")
        lines += [f"  {done['others']:,} views are no DICOM files"] if done["others"] else []
        lines += [f"  {done['unreadable']:,} could not be used"] if done["unreadable"] else []
    return lines


def _write_pngs(rows: pa.Table, folder: str) -> Iterator[str]:
    for lungs in _lungs(rows):
        storage.write(storage.join(folder, lungs.file("png")), masks.encode(lungs.mask))
        yield "PNG"


def _lungs(rows: pa.Table) -> Iterator[Lungs]:
    """One at a time: on their own grids 10,000 masks would take 50 GB."""
    for row in rows.select(["study_id", "views", "masks"]).to_pylist():
        for number, (view, png) in enumerate(zip(row["views"], row["masks"], strict=True)):
            if png is not None:
                yield Lungs(
                    row["study_id"], number, masks.on_image(masks.decode(png), view["rows_px"], view["columns_px"])
                )


def _write_segmentations(rows: pa.Table, account: dict[str, Any], config: ExportConfig, folder: str) -> Iterator[str]:
    """A DICOM segmentation of every view that is one; what became of each view, in a word."""
    table = _table(config, account)
    model = segmentation.Model.of(account)
    studies = {study.study_id: study for study in table.find(rows["study_id"].to_pylist())}
    with Reader(table.seek_points) as reader:
        for lungs in _lungs(rows):
            view = _study(studies, lungs, table).views[lungs.view]
            try:
                if not dicom.begins_as_dicom(reader.head(view, _FIRST_BYTES)):
                    yield "others"
                    continue
                source, _ = dicom.parse(reader.read(view), view.name)
                made = segmentation.encode(source, lungs.mask, model, view.name)
            except StudyError as error:
                console.log(f"left out: {error}")
                yield "unreadable"
                continue
            storage.write(storage.join(folder, lungs.file("dcm")), made)
            yield "DICOM SEG"


def _table(config: ExportConfig, account: dict[str, Any]) -> StudyTable:
    """The list of the studies that a run scored."""
    frozen = Run(storage.normalise(config.source), account["run_id"]).studies
    if config.studies is None and storage.stat(frozen) is None:
        raise ConfigError(f"{frozen}: not there, as of a pseudonymised archive; name the table with --studies URL")
    return StudyTable(config.studies or frozen)


def _study(studies: dict[str, Study], lungs: Lungs, table: StudyTable) -> Study:
    if lungs.study_id not in studies:
        raise ConfigError(f"{table.url}: no study {lungs.study_id!r}; expected the table that was scored")
    return studies[lungs.study_id]

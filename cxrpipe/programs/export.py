"""The program `export`: writes scores, masks and feature vectors in formats of others, some rows at a time.

CSV, PNG and DICOM segmentations, plain Parquet. No export has a patient whom the score root has forgotten.
"""

import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from cxrpipe import console, storage
from cxrpipe.archives.reader import Reader
from cxrpipe.config import ExportConfig
from cxrpipe.errors import ConfigError, ExitStatus, StudyError
from cxrpipe.images import dicom, masks
from cxrpipe.images.dicom import segmentation
from cxrpipe.programs.export_embeddings import write_embeddings
from cxrpipe.records import ASIDE, RunReport, Study, complete_runs
from cxrpipe.records.study_table import StudyTable
from cxrpipe.records.verdicts import decided_on
from cxrpipe.runs.reviews import Reviews
from cxrpipe.runs.root import ScoreRoot

_ALL_BUT_MASKS = tuple(name for name in ASIDE if name not in ("masks", "structures"))
_AT_ONCE = 10_000
"""Rows with masks in one batch, some 2 kB a row. The study table is read once for every batch."""
_FIRST_BYTES = 256
"""Enough to see whether a file begins as DICOM."""


def run(config: ExportConfig) -> ExitStatus:
    lines = []
    if config.csv:
        lines.append(f"CSV: {_write_csv(config):,} studies in {storage.normalise(config.csv)}")
    if config.masks or config.dicom_seg:
        lines += _write_masks(config)
    if config.embeddings:
        views = write_embeddings(config, config.embeddings)
        lines.append(f"Feature vectors: {views:,} views in {storage.normalise(config.embeddings)}")
    console.out().print("\n".join(lines), markup=False)
    return ExitStatus.DONE


def _rows(config: ExportConfig, without: Sequence[str], at_once: int = 1_000) -> Iterator[tuple[RunReport, pa.Table]]:
    """The newest rows, some at a time. A run that `forget` has not reached may hold rows of a forgotten patient."""
    forgotten = ScoreRoot.at(config.source).forgotten()
    for report, rows in complete_runs(config.source).of(config.fingerprint).newest_rows(without, at_once):
        yield report, rows.filter(pa.array(forgotten.is_kept(rows)))


# ---- CSV ------------------------------------------------------------------------------------------------------


def _write_csv(config: ExportConfig) -> int:
    assert config.csv
    studies, labels = 0, Reviews(ScoreRoot.at(config.source)).labels()
    with tempfile.NamedTemporaryFile(prefix="cxrpipe-", suffix=".csv") as file:
        writer: csv.CSVWriter | None = None
        for _, rows in _rows(config, ASIDE):
            flat = with_reviews(flatten(rows), labels)
            writer = writer or csv.CSVWriter(file.name, flat.schema)
            writer.write_table(flat)
            studies += flat.num_rows
        if writer:
            writer.close()
        storage.upload_file(Path(file.name), storage.normalise(config.csv))
    return studies


def flatten(rows: pa.Table) -> pa.Table:
    """Flatten rows: lists and structs become JSON."""
    for place, column in enumerate(rows.schema):
        if pa.types.is_nested(column.type):
            texts = [None if value is None else json.dumps(_short(value)) for value in rows[column.name].to_pylist()]
            rows = rows.set_column(place, column.name, pa.array(texts, pa.string()))
    return rows


def with_reviews(rows: pa.Table, labels: pa.Table) -> pa.Table:
    """Add what readers decided: `review_<finding>` 1, 0, -1 or null, and `readers_<finding>`, for every finding read.

    labels  `records.verdicts.LABEL_SCHEMA`
    """
    for finding in sorted(pc.unique(labels["finding"]).to_pylist()):
        decided = decided_on(labels, finding, rows["study_id"])
        rows = rows.append_column(f"review_{finding}", decided["label"])
        rows = rows.append_column(f"readers_{finding}", decided["readers"])
    return rows


def _short(value: Any) -> Any:
    """The value with the digits that float32 has: 0.1, not 0.10000000149011612."""
    match value:
        case float():
            return float(f"{value:.7g}")
        case list():
            return [_short(member) for member in value]
        case dict():
            return {name: _short(member) for name, member in value.items()}
    return value


# ---- masks ----------------------------------------------------------------------------------------------------


class Drawn(NamedTuple):
    """The masks of one view."""

    study_id: str
    view: int
    """The place of the view in the study."""
    lungs: np.ndarray  # (H, W) bool, on the image's own grid
    structures: dict[str, np.ndarray]
    """Name → as `lungs`, where the segmenter names structures."""

    def file(self, suffix: str) -> str:
        """The name of a file of the view. No id leads to another folder: slashes are written %2F."""
        return f"{quote(self.study_id, safe='')}_{self.view}{suffix}"


def _write_masks(config: ExportConfig) -> list[str]:
    done: Counter[str] = Counter()
    for report, rows in _rows(config, _ALL_BUT_MASKS, at_once=_AT_ONCE):
        rows = rows.filter(rows["masks"].is_valid())
        if config.masks:
            done.update(_write_pngs(rows, storage.normalise(config.masks)))
        if config.dicom_seg and rows.num_rows:
            done.update(_write_segmentations(rows, report, config, storage.normalise(config.dicom_seg)))
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
    for drawn in _drawn(rows):
        named = {f"_{name}.png": mask for name, mask in drawn.structures.items()}
        for suffix, mask in {".png": drawn.lungs, **named}.items():
            storage.write(storage.join(folder, drawn.file(suffix)), masks.encode(mask))
            yield "PNG"


def _drawn(rows: pa.Table) -> Iterator[Drawn]:
    """Yield the masks of view after view: 10,000 masks on the grids of their images would take 50 GB."""
    for row in rows.select(["study_id", "views", "masks", "structures"]).to_pylist():
        structures = row["structures"] or [None] * len(row["views"])
        for number, (view, png, named) in enumerate(zip(row["views"], row["masks"], structures, strict=True)):
            if png is not None:
                size = view["rows_px"], view["columns_px"]
                of_names = {each["name"]: masks.on_image(masks.decode(each["png"]), *size) for each in named or ()}
                yield Drawn(row["study_id"], number, masks.on_image(masks.decode(png), *size), of_names)


def _write_segmentations(rows: pa.Table, report: RunReport, config: ExportConfig, folder: str) -> Iterator[str]:
    """Write a DICOM segmentation for every view that is a DICOM file. Yield the outcome of every view in one word."""
    table = _table(config, report)
    model = segmentation.Model.of(
        [segmenter.architecture for segmenter in report.segmenters],
        [segmenter.weights_sha256 for segmenter in report.segmenters],
    )
    studies = {study.study_id: study for study in table.find(rows["study_id"].to_pylist())}
    with Reader(table.seek_points) as reader:
        for drawn in _drawn(rows):
            view = _study(studies, drawn, table).views[drawn.view]
            try:
                if not dicom.begins_as_dicom(reader.head(view, _FIRST_BYTES)):
                    yield "others"
                    continue
                source, _ = dicom.parse(reader.read(view), view.name)
                content = segmentation.encode(
                    source, drawn.structures or {segmentation.LUNGS: drawn.lungs}, model, view.name
                )
            except StudyError as error:
                console.log(f"segmentation left out: {error}")
                yield "unreadable"
                continue
            storage.write(storage.join(folder, drawn.file(".dcm")), content)
            yield "DICOM SEG"


def _table(config: ExportConfig, report: RunReport) -> StudyTable:
    """The list of the studies that a run scored."""
    frozen = ScoreRoot.at(config.source).run(report.run_id).studies
    if config.studies is None and storage.stat(frozen) is None:
        raise ConfigError(
            f"{frozen}: not there; a run of a pseudonymised archive keeps its list elsewhere; "
            "name the study table with --studies URL"
        )
    return StudyTable(config.studies or frozen)


def _study(studies: dict[str, Study], drawn: Drawn, table: StudyTable) -> Study:
    if drawn.study_id not in studies:
        raise ConfigError(f"{table.url}: no study {drawn.study_id!r}; expected the table that was scored")
    return studies[drawn.study_id]

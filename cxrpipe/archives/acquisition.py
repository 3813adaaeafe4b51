"""What images show of their acquisition: brightness, contrast, border, sharpness, size, and the prefix of file names.

The statistics of a study are measured once and kept beside its table, in `acquisition.parquet`.
"""

import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import cv2
import numpy as np
import pyarrow as pa

from cxrpipe import console, storage
from cxrpipe.archives.reader import Reader
from cxrpipe.config.cores import machine_cores
from cxrpipe.errors import ConfigError, StoreError, StudyError
from cxrpipe.images.isolation import Isolated
from cxrpipe.images.letterbox import Letterbox, Preparation
from cxrpipe.images.squares import Decode, Decoded, decode_view
from cxrpipe.records import FRONTAL, Study
from cxrpipe.records.study_table import StudyTable

FILE = "acquisition.parquet"
_VERSION = b"1"
"""Raised when a statistic is measured otherwise. Statistics of another version are measured again."""
_PREPARATION = Preparation("voi", 512)
_TIMEOUT_S = 60.0
_BLACK = 10
"""Highest grey value of a border."""
_BORDER_ROW = 0.95
"""A row or column whose pixels are black to this fraction, and all those outside of it, are border."""
_AHEAD = 256
"""Studies that are handed to the threads at once."""
_PREFIX = re.compile(r"[A-Za-z]+")


class Acquisition(NamedTuple):
    """The statistics of one view, or their means over the views of a study."""

    brightness: float
    """Mean inside the border, 0..1."""
    contrast: float
    """Standard deviation inside the border, 0..0.5."""
    border: float
    """Area of the black border, as a fraction of the image."""
    sharpness: float
    """Mean absolute Laplacian inside the border at a longer side of 512 px, over the contrast."""
    log_side: float
    """Binary logarithm of the longer side of the file in pixels."""
    log_aspect: float
    """Binary logarithm of rows over columns."""


class StudyAcquisition(NamedTuple):
    study_id: str
    study_digest: str
    prefix: str
    """The letters that the name of the first frontal view begins with; empty where it begins otherwise."""
    values: Acquisition | None
    """None: no frontal view of the study can be read."""


def acquisition_of(decoded: Decoded) -> Acquisition:
    """Measure a view that was decoded under one preparation."""
    (square,) = decoded.squares.values()
    image = square[Letterbox.of(decoded.rows_px, decoded.columns_px, len(square)).inside]
    inside = image[_without_border(image)]
    contrast = float(inside.std()) / 255
    laplacian = cv2.Laplacian(inside, cv2.CV_32F, ksize=1)
    return Acquisition(
        brightness=float(inside.mean()) / 255,
        contrast=contrast,
        border=1 - inside.size / image.size,
        sharpness=float(np.abs(laplacian).mean()) / 255 / max(contrast, 1 / 255),
        log_side=float(np.log2(max(decoded.rows_px, decoded.columns_px))),
        log_aspect=float(np.log2(decoded.rows_px / decoded.columns_px)),
    )


def measure(table: StudyTable, study_ids: Iterable[str], decode: Decode | None = None) -> dict[str, StudyAcquisition]:
    """Study id → its statistics. Those that are kept beside the table are not measured again, the others are added.

    decode  decodes a view; None: in processes of their own, as many as there are cores
    """
    place, wanted = storage.join(table.url.rpartition("/")[0], FILE), set(study_ids)
    known = {each.study_id: each for each in _kept(place)}
    studies = [
        study
        for study in table.studies()
        if study.study_id in wanted
        and (study.study_id not in known or known[study.study_id].study_digest != study.study_digest)
    ]
    if studies:
        known |= {each.study_id: each for each in _measured(studies, table, decode)}
        try:
            storage.write_table(place, _as_table(known.values()))
        except (StoreError, ConfigError) as error:
            console.log(f"the statistics of acquisition cannot be kept, and will be measured again ({error})")
    return {study_id: known[study_id] for study_id in wanted}


def _measured(studies: list[Study], table: StudyTable, decode: Decode | None) -> Iterator[StudyAcquisition]:
    cores = machine_cores()
    console.log(f"measuring the acquisition of {len(studies):,} studies; it is kept beside the study table")
    with (
        Reader(table.seek_points) as reader,
        Isolated(decode_view, _TIMEOUT_S, cores) as isolated,
        ThreadPoolExecutor(cores) as threads,
        console.progress("acquisition", len(studies)) as advance,
    ):
        for start in range(0, len(studies), _AHEAD):
            some = studies[start : start + _AHEAD]
            for result in threads.map(lambda study: _measure(study, reader, decode or isolated), some):
                advance(1)
                yield result


def _measure(study: Study, reader: Reader, decode: Decode) -> StudyAcquisition:
    frontal = [view for view in study.views if view.view_position in FRONTAL]
    measured = []
    for view in frontal:
        try:
            measured.append(acquisition_of(decode(reader.read(view), view.name, [_PREPARATION])))
        except StudyError:
            continue  # scoring says what is wrong with a file
    prefix = _PREFIX.match(storage.last_part(frontal[0].entry or frontal[0].url)) if frontal else None
    values = Acquisition(*np.mean(measured, axis=0).tolist()) if measured else None
    return StudyAcquisition(study.study_id, study.study_digest, prefix[0] if prefix else "", values)


def _without_border(image: np.ndarray) -> tuple[slice, slice]:
    """The part of an image inside its black border; the whole of a black image."""
    black = image <= _BLACK
    rows, columns = (np.flatnonzero(black.mean(axis=axis) < _BORDER_ROW) for axis in (1, 0))
    if not len(rows) or not len(columns):
        return slice(None), slice(None)
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


# ---- beside the table -----------------------------------------------------------------------------------------

_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("study_id", "study_digest", "prefix")),
        *((name, pa.float64()) for name in Acquisition._fields),
    ],
    metadata={b"version": _VERSION},
)


def _as_table(measured: Iterable[StudyAcquisition]) -> pa.Table:
    rows = [
        {"study_id": each.study_id, "study_digest": each.study_digest, "prefix": each.prefix}
        | (each.values._asdict() if each.values else {})
        for each in measured
    ]
    return pa.Table.from_pylist(rows, schema=_SCHEMA)


def _kept(place: str) -> Iterator[StudyAcquisition]:
    if storage.stat(place) is None or (storage.schema(place).metadata or {}).get(b"version") != _VERSION:
        return
    for row in storage.read_table(place).to_pylist():
        values = [row[name] for name in Acquisition._fields]
        known = None if None in values else Acquisition(*values)
        yield StudyAcquisition(row["study_id"], row["study_digest"], row["prefix"], known)

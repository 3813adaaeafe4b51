"""A score root of many synthetic rows with masks, and its study table, made in arrays: a million rows in minutes.

The files are those of `publish`: the schema of today, zstd without dictionaries, row groups of 1,000 rows and files of
about 256 MB. One large run comes first; nights follow, each with new studies and some that are scored again.
"""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cxrpipe import storage
from cxrpipe.images import masks
from cxrpipe.records import SCHEMA_VERSION, SPLITS, ModelReport, RunReport, score_schema, study_schema
from cxrpipe.records.score import SCORED_VIEW
from cxrpipe.records.study import MASK_VIEW, VIEW
from cxrpipe.runs.plan import ROW_GROUP

FINDINGS = (
    *("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis"),
    *("Hernia", "Infiltration", "Mass", "Nodule", "Pleural_Thickening", "Pneumonia", "Pneumothorax"),
)
MEMBERS = 3
FINGERPRINT = "f" * 64
_FILE_BYTES = 256 << 20
_NIGHTS = 10
_MASK_PX = 256
_ENDS = [  # status, reason, share
    ("ok", None, 0.95),
    ("partial", "truncated", 0.02),
    ("rejected", "blank", 0.005),
    ("rejected", "not_chest", 0.005),
    ("failed", "corrupt", 0.01),
    ("failed", "missing", 0.01),
]
_FLAGS = pa.array([[], ["inverted_suspect"], ["lungs_cropped"], ["lungs_cropped", "ood"]])


def study_ids(places: np.ndarray) -> list[str]:
    """Study Instance UIDs of 40 characters, in no order."""
    return [f"1.2.840.113619.2.55.{(place * 2654435761) % 2**32:010d}.{place:09d}" for place in places.tolist()]


def make(out: str, table: Path, studies: int, pool: int = 4_096) -> None:
    """A score root of `studies` studies under `out`, and the study table of its archive.

    pool  different masks, of which every view has one
    """
    _write_table(table, studies)
    pictures, rng = _pictures(pool), np.random.default_rng(0)
    night = studies // 200
    first = studies - _NIGHTS * night
    starts = [0, *(first + night * number for number in range(_NIGHTS)), studies]
    for number, (start, end) in enumerate(itertools.pairwise(starts)):
        again = rng.integers(0, start, night // 10) if start else np.zeros(0, np.int64)
        places = np.concatenate([np.arange(start, end), np.unique(again)])
        _write_run(out, f"202611{number + 10}T200000.000000-{number:08x}", places, pictures, rng)


def _write_run(out: str, run_id: str, places: np.ndarray, pictures: np.ndarray, rng: np.random.Generator) -> None:
    folder = storage.join(out, "scores", f"run={run_id}")
    chunks = (places[start : start + ROW_GROUP] for start in range(0, len(places), ROW_GROUP))
    _write_files((_rows(chunk, pictures, rng) for chunk in chunks), folder)
    day = f"2026-11-{run_id[6:8]}"
    report = RunReport(
        run_id=run_id,
        studies=len(places),
        studies_per_second=55.5,
        seconds=len(places) / 55.5,
        fingerprint=FINGERPRINT,
        findings=FINDINGS,
        models=tuple(ModelReport(url=f"/models/{n}", findings=FINDINGS) for n in range(MEMBERS)),
        start=f"{day}T20:00:00+00:00",
        end=f"{day}T23:00:00+00:00",
    )
    storage.write(storage.join(out, "runs", run_id, "run.json"), report.to_json())


def _write_files(tables: Iterator[pa.Table], folder: str) -> None:
    """Write tables into files of about 256 MB."""
    table = next(tables, None)
    for number in itertools.count():
        if table is None:
            return
        with (
            storage.filling(storage.join(folder, f"scores-{number:05d}.parquet")) as path,
            pq.ParquetWriter(path, table.schema, compression="zstd", use_dictionary=False) as writer,
        ):
            while table is not None and path.stat().st_size < _FILE_BYTES:
                writer.write_table(table, row_group_size=ROW_GROUP)
                table = next(tables, None)


def _rows(places: np.ndarray, pictures: np.ndarray, rng: np.random.Generator) -> pa.Table:
    """The score rows of some studies. One study in five has two views."""
    count = len(places)
    ends = rng.choice(len(_ENDS), count, p=[share for *_, share in _ENDS])
    is_scored = ends < 2
    n_views = 1 + (places % 5 == 0)
    columns: dict[str, pa.Array] = {
        "study_id": pa.array(study_ids(places)),
        "patient_id": pa.array([f"patient{place // 3:09d}" for place in places.tolist()]),
        "study_digest": _hexadecimal(count, 16, rng),
        "fingerprint": pa.array([FINGERPRINT]).take(pa.array(np.zeros(count, np.int64))),
        "status": pa.array([status for status, *_ in _ENDS]).take(pa.array(ends)),
        "reason": pa.array([reason for _, reason, _ in _ENDS]).take(pa.array(ends)),
        "detail": pa.array(
            [None if reason is None else f"b07.tar!p12.png: {reason}, as 1,024 bytes are" for _, reason, _ in _ENDS]
        ).take(pa.array(ends)),
        "n_views": pa.array(n_views.astype(np.int16)),
        "n_views_ok": pa.array(np.where(is_scored, n_views, 0).astype(np.int16)),
        "flags": _FLAGS.take(pa.array(rng.choice(4, count, p=[0.94, 0.02, 0.03, 0.01]))),
        "views": _views(places, n_views, rng),
        "masks": _masks(n_views, is_scored, pictures, rng),
    }
    for number, finding in enumerate(FINDINGS):
        columns |= _finding(finding, is_scored, 0.2 + number / 10, rng)
    schema = score_schema(FINDINGS)
    arrays = [columns[field.name] if field.name in columns else pa.nulls(count, field.type) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def _finding(finding: str, is_scored: np.ndarray, skew: float, rng: np.random.Generator) -> dict[str, pa.Array]:
    unscored = ~is_scored
    base = rng.beta(skew, 4.0, len(is_scored))
    members = np.clip(base[:, None] + rng.normal(0, 0.08, (len(is_scored), MEMBERS)), 0, 1).astype(np.float32)
    votes = (members >= 0.5).sum(axis=1)
    return {
        f"prob_{finding}": pa.array(members.mean(axis=1), mask=unscored),
        f"votes_{finding}": pa.array(votes.astype(np.int8), mask=unscored),
        f"consensus_{finding}": pa.array(2 * votes > MEMBERS, mask=unscored),
        f"member_probs_{finding}": _lists(pa.array(members.ravel()), np.full(len(members), MEMBERS), unscored),
        f"disagreement_{finding}": pa.array(members.std(axis=1), mask=unscored),
    }


def _lists(values: pa.Array, lengths: np.ndarray, is_null: np.ndarray | None = None) -> pa.ListArray:
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, values, mask=None if is_null is None else pa.array(is_null))


def _hexadecimal(count: int, size: int, rng: np.random.Generator) -> pa.Array:
    data = rng.bytes(count * size).hex()
    return pa.array([data[start : start + 2 * size] for start in range(0, len(data), 2 * size)])


def _views(places: np.ndarray, n_views: np.ndarray, rng: np.random.Generator) -> pa.ListArray:
    count = int(n_views.sum())
    of_study = np.repeat(places, n_views)
    members = rng.random((count, MEMBERS, len(FINDINGS)), np.float32)
    lungs = rng.normal(0.15, 0.02, (2, count)).astype(np.float32)
    columns = {
        "url": pa.array([f"/cxr/{place // 10_000:03d}.tar" for place in of_study.tolist()]),
        "entry": pa.array([f"{place:09d}/{number}.png" for number, place in enumerate(of_study.tolist())]),
        "view_position": pa.array(["PA", "AP", None]).take(pa.array(rng.integers(0, 3, count))),
        "status": pa.array(["ok"]).take(pa.array(np.zeros(count, np.int64))),
        "rows_px": pa.array(np.full(count, 2140, np.int32)),
        "columns_px": pa.array(np.full(count, 1760, np.int32)),
        "sha256": _hexadecimal(count, 32, rng),
        "lung_fraction": pa.array(lungs[0] + lungs[1]),
        "left_fraction": pa.array(lungs[0]),
        "right_fraction": pa.array(lungs[1]),
        "mask_quality": pa.array(rng.random(count, np.float32)),
        "member_probs": _lists(
            _lists(pa.array(members.ravel()), np.full(count * MEMBERS, len(FINDINGS))), np.full(count, MEMBERS)
        ),
    }
    arrays = [columns[field.name] if field.name in columns else pa.nulls(count, field.type) for field in SCORED_VIEW]
    return _lists(pa.StructArray.from_arrays(arrays, fields=list(SCORED_VIEW)), n_views)


def _masks(n_views: np.ndarray, is_scored: np.ndarray, pictures: np.ndarray, rng: np.random.Generator) -> pa.ListArray:
    drawn = pictures[rng.integers(0, len(pictures), int(n_views.sum()))]
    return _lists(pa.array(drawn.tolist(), pa.binary()), n_views, ~is_scored)


def _pictures(count: int) -> np.ndarray:
    """(N,) object: masks of two lungs as PNG, of which no two are alike."""
    rng, pictures = np.random.default_rng(1), []
    for _ in range(count):
        mask = np.zeros((_MASK_PX, _MASK_PX), np.uint8)
        for centre in (85, 171):
            axes = tuple(rng.integers((28, 60), (45, 95)).tolist())
            place = (centre + int(rng.integers(-8, 8)), 128 + int(rng.integers(-10, 10)))
            cv2.ellipse(mask, place, axes, float(rng.normal(0, 8)), 0, 360, 1, -1)
        ragged = rng.random((_MASK_PX, _MASK_PX)) < 0.5
        edge = cv2.dilate(mask, np.ones((3, 3), np.uint8)) - cv2.erode(mask, np.ones((3, 3), np.uint8))
        pictures.append(masks.encode(np.where(edge > 0, ragged, mask > 0)))
    return np.array(pictures, object)


def _write_table(path: Path, studies: int) -> None:
    """The study table: split, labels of half of the studies, age and sex."""
    rng = np.random.default_rng(2)
    metadata = {
        "schema_version": str(SCHEMA_VERSION),
        "archive": "/cxr",
        "layout": "table",
        "findings": json.dumps(FINDINGS),
        "split_seed": "0",
    }
    schema = study_schema(FINDINGS).with_metadata(metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for start in range(0, studies, 5_000):
            writer.write_table(_catalogued(np.arange(start, min(start + 5_000, studies)), schema, rng))


def _catalogued(places: np.ndarray, schema: pa.Schema, rng: np.random.Generator) -> pa.Table:
    count = len(places)
    n_views = 1 + (places % 5 == 0)
    of_study = np.repeat(places, n_views)
    views = {
        "url": pa.array([f"/cxr/{place // 10_000:03d}.tar" for place in of_study.tolist()]),
        "entry": pa.array([f"{place:09d}/{number}.png" for number, place in enumerate(of_study.tolist())]),
        "offset": pa.array(512 * of_study),
        "length": pa.array(np.full(len(of_study), 400_000)),
        "compression": pa.array(["none"]).take(pa.array(np.zeros(len(of_study), np.int64))),
    }
    arrays = [views[field.name] if field.name in views else pa.nulls(len(of_study), field.type) for field in VIEW]
    columns: dict[str, pa.Array] = {
        "study_id": pa.array(study_ids(places)),
        "patient_id": pa.array([f"patient{place // 3:09d}" for place in places.tolist()]),
        "study_digest": _hexadecimal(count, 16, rng),
        "views": _lists(pa.StructArray.from_arrays(arrays, fields=list(VIEW)), n_views),
        "mask_views": pa.array([[]] * count, pa.list_(MASK_VIEW)),
        "split": pa.array(SPLITS).take(pa.array(rng.choice(3, count, p=[0.8, 0.1, 0.1]))),
        "patient_age": pa.array(rng.integers(0, 95, count).astype(np.float32)),
        "patient_sex": pa.array(["M", "F"]).take(pa.array(rng.integers(0, 2, count))),
    }
    for finding in FINDINGS:
        labels = rng.choice(np.array([0, 1, -1], np.float32), count, p=[0.9, 0.08, 0.02])
        columns[f"label_{finding}"] = pa.array(labels, mask=places % 2 == 1)
    return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)

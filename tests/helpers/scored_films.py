"""A small archive of films and its score root, for the pages of `review`. The rows are made here, without a network."""

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from reading_room import served

from cxrpipe import storage
from cxrpipe.archives.index import index
from cxrpipe.images import heatmaps, masks
from cxrpipe.images.letterbox import Letterbox
from cxrpipe.records import ModelReport, RunReport, Study, View, score_schema
from cxrpipe.records.study_table import StudyTable
from cxrpipe.review.app import build
from cxrpipe.review.context import Context, templates
from cxrpipe.review.door import Door
from cxrpipe.review.rows import Rows
from cxrpipe.runs.reviews import Reviews
from cxrpipe.runs.root import ScoreRoot

FINDINGS = ("Pneumonia", "Cardiomegaly")
MEMBERS = ("a", "b")
RUN_ID = "20261129T200000"
_SIDE_PX = 64


def film(seed: int, rows: int = 80, columns: int = 64) -> bytes:
    """A PNG of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (rows, columns), dtype=np.uint8)
    return cv2.imencode(".png", pixels)[1].tobytes()


MARKUP = 'x"><b>bold</b>&'
FILES = {
    "p1/a": [film(1), film(2, rows=60, columns=90)],
    "p1/b": [film(3)],
    MARKUP: [film(4)],
    "half": [film(5), b"junk <i>"],
    "junk": [b"%PDF-1.4 no film <script>alert(1)</script>"],
}
"""Study id → the bytes of its views. A part before `/` is the patient."""


class Archive(NamedTuple):
    table: StudyTable
    root: ScoreRoot


def scored_archive(folder: Path, key: Path | None = None) -> Archive:
    """`FILES`, indexed, and a root with masks, heat maps and feature vectors of them.

    key  of pseudonyms: then the root names no object and holds no vectors, as `score` makes it
    """
    table = _indexed(folder / "archive", key)
    root = ScoreRoot.at(str(folder / "root"))
    data_of = {str(path): path.read_bytes() for path in (folder / "archive").glob("*.png")}
    rows = [_row(study, data_of, is_private=key is not None) for study in table.studies()]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, score_schema(FINDINGS, embed=key is None)), buffer)
    run = root.run(RUN_ID)
    storage.write(storage.join(run.scores, "scores-00000.parquet"), buffer.getvalue())
    if key is None:
        storage.write(run.studies, storage.read(table.url))
    storage.write(run.report, _report(len(rows), embed=key is None).to_json())
    return Archive(table, root)


def _row(study: Study, data_of: dict[str, bytes], is_private: bool) -> dict[str, Any]:
    """The score row of a study: a probability from its digest, a mask and a heat map of every view."""
    views = [_view(view, data_of[view.url], is_private) for view in study.views]
    ok = [view["status"] == "ok" for view in views]
    status = "ok" if all(ok) else "partial" if any(ok) else "failed"
    row: dict[str, Any] = {
        **{"study_id": study.study_id, "patient_id": study.patient_id, "study_digest": study.study_digest},
        **{"fingerprint": "f" * 32, "status": status, "reason": None if all(ok) else "not_an_image"},
        **{"n_views": len(ok), "n_views_ok": sum(ok), "flags": ["lungs_cropped"] if all(ok) else [], "views": views},
    }
    if not any(ok):
        return row
    rng = np.random.default_rng(len(study.views) + int(study.study_digest[:8], 16))
    for finding in FINDINGS:
        probs = rng.random(len(MEMBERS)).astype(np.float32)
        votes = int((probs >= 0.5).sum())
        row[f"prob_{finding}"], row[f"member_probs_{finding}"] = float(probs.mean()), probs.tolist()
        row[f"votes_{finding}"], row[f"disagreement_{finding}"] = votes, float(probs.std())
        row[f"consensus_{finding}"] = bool(probs.mean() >= 0.5) if votes == 1 else votes == 2
    row["masks"] = [_mask(view) if is_ok else None for view, is_ok in zip(views, ok, strict=True)]
    row["heatmaps"] = [_heats(view, rng) if is_ok else None for view, is_ok in zip(views, ok, strict=True)]
    if not is_private:
        vectors = rng.standard_normal((len(ok), len(MEMBERS), 8)).astype(np.float16)
        row["feature_vectors"] = [[*of_view] if is_ok else None for of_view, is_ok in zip(vectors, ok, strict=True)]
    return row


def _view(view: View, data: bytes, is_private: bool) -> dict[str, Any]:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    facts: dict[str, Any] = {"view_position": view.view_position, "status": "ok" if pixels is not None else "failed"}
    if not is_private:
        facts |= {"url": view.url, "sha256": f"{len(data):064}"}
    if pixels is None:
        return facts | {"reason": "not_an_image"}
    return facts | {"rows_px": pixels.shape[0], "columns_px": pixels.shape[1]}


def _mask(view: dict[str, Any]) -> bytes:
    """Its middle."""
    inside = Letterbox.of(view["rows_px"], view["columns_px"], _SIDE_PX).inside
    mask = np.zeros((_SIDE_PX, _SIDE_PX), bool)
    mask[inside][10:30, 10:30] = True
    return masks.encode(mask)


def _heats(view: dict[str, Any], rng: np.random.Generator) -> Sequence[dict[str, Any]]:
    heat = np.zeros((heatmaps.SIDE_PX, heatmaps.SIDE_PX))
    inside = Letterbox.of(view["rows_px"], view["columns_px"], heatmaps.SIDE_PX).inside
    heat[inside] = rng.random(heat[inside].shape)
    return [{"finding": finding, "png": heatmaps.encode(heat)} for finding in FINDINGS]


def _report(studies: int, embed: bool) -> RunReport:
    models = [
        ModelReport(
            url=f"/models/{name}",
            architecture="resnet18",
            findings=FINDINGS,
            thresholds=dict.fromkeys(FINDINGS, 0.5),
            weights_sha256=name * 64,
        )
        for name in MEMBERS
    ]
    return RunReport(
        run_id=RUN_ID,
        studies=studies,
        fingerprint="f" * 32,
        findings=FINDINGS,
        models=(*models, ModelReport(url="/models/lungs", task="segment", weights_sha256="c" * 64)),
        settings={"embed": embed},
    )


def _indexed(folder: Path, key: Path | None) -> StudyTable:
    folder.mkdir(parents=True)
    lines = [("study_id", "path", "patient_id", "label_Pneumonia")]
    for place, (study_id, files) in enumerate(FILES.items()):
        for number, data in enumerate(files):
            path = folder / f"{place}_{number}.png"
            path.write_bytes(data)
            lines.append((study_id, path.name, study_id.partition("/")[0], str(place % 2)))
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    out = str(folder.parent / "table" / "studies.parquet")
    index(str(folder / "table.csv"), out, pseudonymise=str(key) if key else None)
    return StudyTable(out)


@contextmanager
def served_room(root: ScoreRoot, table: StudyTable | None, pseudonymised: bool = False) -> Iterator[str]:
    """The whole application over a score root; gives the address with its token, as the program prints it."""
    door = Door(0)
    with Rows.open(root, None, table) as rows:
        room = Context(root, rows, table, Reviews(root), templates(), not pseudonymised, pseudonymised)
        with served(build(room, door, ["127.0.0.1"])) as port:
            yield f"http://127.0.0.1:{port}/?token={door.token}"

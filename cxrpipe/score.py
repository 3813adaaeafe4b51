"""Scoring as a plain loop: the specification. `cxrpipe.on_ray.score` hands the same functions to Ray Data.

A study goes through three steps: `prepare_study` (bytes to uint8 squares, on CPUs), `score_prepared` (a batch
through the networks) and `write_part` (rows to Parquet).
"""

import hashlib
import io
import itertools
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cxrpipe import ensemble as opinions
from cxrpipe import masks, storage
from cxrpipe.cards import Ensemble
from cxrpipe.prepare import Prepared, Row, prepare_study
from cxrpipe.reader import Reader
from cxrpipe.records import Study, score_schema

if TYPE_CHECKING:  # torch takes 700 MB and seconds: who only prepares or lands studies goes without
    from cxrpipe.predict import Predictor


_FOR_RECEIPT = [("prepare_s", pa.float32()), ("predict_s", pa.float32()), ("computed_on", pa.string())]
"""Columns that ride with a row until it lands, and are not part of it."""


class Receipt(NamedTuple):
    """What landing one part says."""

    studies: int
    counts: dict[str, int]
    """`status` or `status/reason` → studies."""
    seconds: dict[str, float]
    """Stage → seconds of work on these studies, one worker's time."""
    computed_on: str
    """Device and precision: `cpu float32`."""


# ---- predict and agree ----------------------------------------------------------------------------------------


def score_prepared(batch: Sequence[Prepared], predictor: "Predictor", ensemble: Ensemble) -> list[Row]:
    """Score rows of a batch of studies: all their views go through the networks at once."""
    pixels = {
        preparation: np.concatenate([prepared.pixels[preparation] for prepared in batch])
        for preparation in ensemble.preparations
    }
    started = time.monotonic()
    probs, lungs = predictor.predict(pixels)  # (K, ΣV, F), (ΣV, S, S)
    for_receipt = {"predict_s": (time.monotonic() - started) / len(batch), "computed_on": predictor.computed_on}
    ends = np.cumsum([prepared.row["n_views_ok"] for prepared in batch])
    rows = []
    for prepared, end in zip(batch, ends, strict=True):
        own = slice(end - prepared.row["n_views_ok"], end)
        row = prepared.row | for_receipt
        if own.start < own.stop:
            row = _with_numbers(row, ensemble, probs[:, own], None if lungs is None else lungs[own])
        rows.append(row)
    return rows


def _with_numbers(row: Row, ensemble: Ensemble, probs: np.ndarray, lungs: np.ndarray | None) -> Row:
    """Fill in what the networks said of one study.

    probs  (K, V, F) float32, uncalibrated, of the views that are ok
    lungs  (V, S, S) bool, or None without a segmenter
    """
    row = row | _findings(ensemble, probs) | {"views": [dict(view) for view in row["views"]]}
    pngs: list[bytes | None] = []
    ok = iter(range(probs.shape[1] if lungs is None else len(lungs)))
    for view in row["views"]:
        if view["status"] != "ok":
            pngs.append(None)
            continue
        number = next(ok)
        if ensemble.members:
            view["member_probs"] = probs[:, number].tolist()
        if lungs is not None:
            pngs.append(masks.encode(lungs[number]))
            fractions = masks.lung_fractions(lungs[number], view["rows_px"], view["columns_px"])
            view |= {f"{name}_fraction": value for name, value in fractions._asdict().items()}
    row["masks"] = None if lungs is None else pngs
    return row


def _findings(ensemble: Ensemble, probs: np.ndarray) -> Row:
    """The columns of the findings of one study, from its views' probabilities (K, V, F)."""
    if not ensemble.members:
        return {}
    cards = [member.card for member in ensemble.members]
    by_member = np.stack(
        [
            opinions.calibrate(opinions.aggregate_views(own, card.rules), *card.platt)
            for card, own in zip(cards, probs, strict=True)
        ]
    )  # (K, F)
    agreed = opinions.combine(by_member[:, None], np.stack([card.operating_points for card in cards]))
    columns: Row = {}
    for number, finding in enumerate(ensemble.findings):
        columns[f"prob_{finding}"] = float(agreed.mean[0, number])
        columns[f"votes_{finding}"] = int(agreed.votes[0, number])
        columns[f"consensus_{finding}"] = bool(agreed.agreed[0, number])
        columns[f"member_probs_{finding}"] = by_member[:, number].tolist()
        columns[f"disagreement_{finding}"] = float(agreed.disagreement[0, number])
    return columns


# ---- land -----------------------------------------------------------------------------------------------------


def score_table(rows: Iterable[Row], findings: Sequence[str]) -> pa.Table:
    """Rows as a table of the score schema, and what the receipt needs behind it."""
    schema = score_schema(findings)
    for name, kind in _FOR_RECEIPT:
        schema = schema.append(pa.field(name, kind))
    return pa.Table.from_pylist(list(rows), schema=schema)


def write_part(rows: pa.Table, parts: str) -> Receipt:
    """Write rows as one file whose name follows from their study ids: written twice, it is the same file."""
    started = time.monotonic()
    scores = rows.drop_columns([name for name, _ in _FOR_RECEIPT])
    ids = hashlib.sha256("\n".join(sorted(rows["study_id"].to_pylist())).encode()).hexdigest()
    data = io.BytesIO()
    pq.write_table(scores, data, compression="zstd")
    storage.write(storage.join(parts, f"part-{ids[:32]}.parquet"), data.getvalue())
    seconds = {name: pc.sum(rows[f"{name}_s"]).as_py() or 0.0 for name in ("prepare", "predict")}
    return Receipt(
        studies=rows.num_rows,
        counts=dict(count_statuses(scores)),
        seconds=seconds | {"land": time.monotonic() - started},
        computed_on=rows["computed_on"][0].as_py(),
    )


def count_statuses(rows: pa.Table) -> Counter:
    """`ok`, `partial/truncated`, `failed/missing` … → studies."""
    pairs = zip(rows["status"].to_pylist(), rows["reason"].to_pylist(), strict=True)
    return Counter(status if reason is None else f"{status}/{reason}" for status, reason in pairs)


# ---- the loop -------------------------------------------------------------------------------------------------


def score(
    studies: Iterable[Study],
    reader: Reader,
    ensemble: Ensemble,
    predictor: "Predictor",
    *,
    batch_studies: int = 16,
    private: bool = False,
) -> Iterator[Row]:
    """Score studies one batch after another, in this process."""
    studies = iter(studies)
    while batch := list(itertools.islice(studies, batch_studies)):
        prepared = [prepare_study(study, reader, ensemble, private=private) for study in batch]
        yield from score_prepared(prepared, predictor, ensemble)

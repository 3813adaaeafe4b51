"""Scoring as a plain loop: the specification. `cxrpipe.on_ray.score` hands the same functions to Ray Data.

A study goes through three steps: `prepare_study` (bytes to uint8 squares, on CPUs), `score_prepared` (a batch
through the networks) and `write_part` (rows to Parquet).
"""

import hashlib
import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cxrpipe import storage
from cxrpipe.archives.reader import Reader
from cxrpipe.images import flags, heatmaps, masks
from cxrpipe.images.squares import Decode, decode_view
from cxrpipe.models import consensus as opinions
from cxrpipe.models.ensemble import Ensemble
from cxrpipe.records import Study, score_schema
from cxrpipe.scoring.faults import Fault, guarded
from cxrpipe.scoring.prepare import Prepared, Row, failed_by, prepare_study

if TYPE_CHECKING:  # torch takes 700 MB and seconds: who only prepares or lands studies goes without
    from cxrpipe.scoring.predict import Predictions, Predictor


_FOR_RECEIPT: list[tuple[str, pa.DataType]] = [
    ("prepare_s", pa.float32()),
    ("predict_s", pa.float32()),
    ("prepared_at", pa.float64()),
    ("predicted_at", pa.float64()),
    ("computed_on", pa.string()),
    ("fault", pa.struct([(name, pa.string()) for name in Fault._fields])),
]
"""Columns that ride with a row until it lands, and are not part of it."""


class StudyFault(NamedTuple):
    """A study of a part that met an error in this program."""

    study_id: str
    place: int
    """Of its row in the part, which has rows in the order in which they were finished."""
    fault: Fault


class Receipt(NamedTuple):
    """What landing one part says."""

    studies: int
    counts: dict[str, int]
    """`status` or `status/reason` → studies."""
    seconds: dict[str, float]
    """Stage → seconds of work on these studies, one worker's time."""
    computed_on: str
    """Device, precision and kernels: `cpu float32 fused`."""
    prepared_at: Sequence[float] = ()
    """When each study was prepared, in seconds since 1970; nothing for what was derived."""
    predicted_at: Sequence[float] = ()
    """When the batch of each study had been predicted, likewise."""
    faults: Sequence[StudyFault] = ()

    def to_json(self) -> str:
        return json.dumps(self._asdict())

    @classmethod
    def from_json(cls, text: str) -> "Receipt":
        receipt = cls(**json.loads(text))
        faults = [StudyFault(study_id, place, Fault(*fault)) for study_id, place, fault in receipt.faults]
        return receipt._replace(faults=faults)


# ---- predict and agree ----------------------------------------------------------------------------------------


def score_prepared(
    batch: Sequence[Prepared],
    predictor: "Predictor",
    ensemble: Ensemble,
    clock: Callable[[], float] = time.time,
) -> list[Row]:
    """Score rows of a batch of studies: all their views go through the networks at once."""
    started = clock()
    predictions = _predict(batch, predictor, ensemble)
    ended = clock()
    for_receipt = {
        "predict_s": (ended - started) / len(batch),
        "predicted_at": ended,
        "computed_on": predictor.computed_on,
    }
    return [
        _finish(prepared._replace(row=prepared.row | for_receipt), own, ensemble)
        for prepared, own in zip(batch, predictions, strict=True)
    ]


def _predict(batch: Sequence[Prepared], predictor: "Predictor", ensemble: Ensemble) -> "list[Predictions | Fault]":
    """What the networks say of each study. A batch that raises is halved until the study that does it is alone."""

    def halved(fault: Fault) -> "list[Predictions | Fault]":
        if len(batch) == 1:
            return [fault]
        middle = len(batch) // 2
        return _predict(batch[:middle], predictor, ensemble) + _predict(batch[middle:], predictor, ensemble)

    return guarded(lambda: _predict_together(batch, predictor, ensemble), halved)


def _predict_together(
    batch: Sequence[Prepared], predictor: "Predictor", ensemble: Ensemble
) -> "list[Predictions | Fault]":
    pixels = {
        preparation: np.concatenate([prepared.pixels[preparation] for prepared in batch])
        for preparation in ensemble.preparations
    }
    predictions = predictor.predict(pixels)  # of ΣV views
    ends = np.cumsum([prepared.row["n_views_ok"] for prepared in batch])
    starts = [0, *ends[:-1]]
    return [predictions.of(slice(start, end)) for start, end in zip(starts, ends, strict=True)]


def _finish(prepared: Prepared, predictions: "Predictions | Fault", ensemble: Ensemble) -> Row:
    """The row of one study, with what the networks said of it."""
    row = prepared.row
    if not row["n_views_ok"]:
        return row
    if isinstance(predictions, Fault):
        return failed_by(row, predictions)
    squares = prepared.pixels[ensemble.preparations[0]]
    return guarded(lambda: _with_numbers(row, ensemble, predictions, squares), lambda fault: failed_by(row, fault))


def _with_numbers(row: Row, ensemble: Ensemble, said: "Predictions", squares: np.ndarray) -> Row:
    """Fill in what the networks said of one study.

    said     of its V views that are ok
    squares  (V, S, S) uint8, those views
    """
    row = row | findings_of(ensemble, said.probs)
    number = itertools.count()
    numbers = [next(number) if view["status"] == "ok" else None for view in row["views"]]

    def column(of_view: Callable[[int], Any]) -> list[Any]:
        return [None if each is None else of_view(each) for each in numbers]

    sizes = [(view["rows_px"], view["columns_px"]) for view in row["views"] if view["status"] == "ok"]
    facts = column(lambda each: _of_view(ensemble, said, each, sizes[each]))
    row["views"] = [view | (own or {}) for view, own in zip(row["views"], facts, strict=True)]
    found = itertools.chain(*(_flags(said, each, squares[each], sizes[each]) for each in range(len(squares))))
    row["flags"] = sorted({*row["flags"], *found})
    if (lungs := said.masks) is not None:
        row["masks"] = column(lambda each: masks.encode(lungs[each]))
    if (maps := said.maps) is not None:
        speaking = _speaking(ensemble, row)
        row["heatmaps"] = column(lambda each: _heatmaps(ensemble, maps, each, speaking))
    return row


def _of_view(ensemble: Ensemble, said: "Predictions", number: int, size: tuple[int, int]) -> Row:
    """What is said of one view of `size` rows and columns."""
    facts: Row = {}
    if ensemble.members:
        facts["member_probs"] = said.probs[:, number].tolist()
    if said.masks is not None and said.expected_dice is not None:
        mask = said.masks[number]
        fractions = masks.lung_fractions(mask, *size)
        facts |= {f"{name}_fraction": value for name, value in fractions._asdict().items()}
        facts["mask_quality"] = masks.quality(mask, float(said.expected_dice[number]), *size)
    return facts


def _flags(said: "Predictions", number: int, square: np.ndarray, size: tuple[int, int]) -> Iterator[str]:
    if flags.looks_inverted(square, *size):
        yield "inverted_suspect"
    if said.masks is not None and flags.lungs_cropped(said.masks[number], *size):
        yield "lungs_cropped"
    if said.unlike is not None and said.unlike[number]:
        yield "ood"


def _speaking(ensemble: Ensemble, row: Row) -> list[int]:
    """The findings that get a heat map: their mean probability reaches the members' mean threshold."""
    thresholds = np.stack([member.card.operating_points for member in ensemble.members]).mean(axis=0)
    return [number for number, finding in enumerate(ensemble.findings) if row[f"prob_{finding}"] >= thresholds[number]]


def _heatmaps(ensemble: Ensemble, maps: tuple[np.ndarray, ...], number: int, speaking: Sequence[int]) -> list[Row]:
    """Of one view: per finding that speaks, the mean of the members' maps."""
    return [
        {
            "finding": ensemble.findings[finding],
            "png": heatmaps.encode(heatmaps.mean_map([own[number, finding] for own in maps])),
        }
        for finding in speaking
    ]


def findings_of(ensemble: Ensemble, probs: np.ndarray) -> Row:
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
    rows = list(rows)

    def one_by_one(_: Fault) -> pa.Table:
        return pa.concat_tables([_row_table(row, schema) for row in rows])

    return guarded(lambda: pa.Table.from_pylist(rows, schema=schema), one_by_one)


def _row_table(row: Row, schema: pa.Schema) -> pa.Table:
    """A row as a table; `internal_error` where it holds what the schema cannot."""
    return guarded(
        lambda: pa.Table.from_pylist([row], schema=schema),
        lambda fault: pa.Table.from_pylist([failed_by(row, fault)], schema=schema),
    )


def write_part(rows: pa.Table, parts: str) -> Receipt:
    """Write rows as one file whose name follows from their study ids: written twice, it is the same file."""
    started = time.monotonic()
    scores = rows.drop_columns([name for name, _ in _FOR_RECEIPT])
    ids = hashlib.sha256("\n".join(sorted(rows["study_id"].to_pylist())).encode()).hexdigest()
    storage.write_table(storage.join(parts, f"part-{ids[:32]}.parquet"), scores)
    seconds = {name: pc.sum(rows[f"{name}_s"]).as_py() or 0.0 for name in ("prepare", "predict")}
    return Receipt(
        studies=rows.num_rows,
        counts=dict(count_statuses(scores)),
        seconds=seconds | {"land": time.monotonic() - started},
        computed_on=rows["computed_on"][0].as_py(),
        prepared_at=rows["prepared_at"].drop_null().to_pylist(),
        predicted_at=rows["predicted_at"].drop_null().to_pylist(),
        faults=list(_faults(rows)),
    )


def _faults(rows: pa.Table) -> Iterator[StudyFault]:
    """A traceback is long, and stands with the first of its kind only."""
    kinds: set[str] = set()
    met = rows["fault"].is_valid().to_numpy()
    for place in np.flatnonzero(met).tolist():
        fault = Fault(**rows["fault"][place].as_py())
        yield StudyFault(
            rows["study_id"][place].as_py(), place, Fault(fault.kind, "", "") if fault.kind in kinds else fault
        )
        kinds.add(fault.kind)


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
    decode: Decode = decode_view,
    private: bool = False,
    clock: Callable[[], float] = time.time,
) -> Iterator[Row]:
    """Score studies one batch after another, in this process."""
    studies = iter(studies)
    while batch := list(itertools.islice(studies, batch_studies)):
        prepared = [prepare_study(study, reader, ensemble, decode, private=private, clock=clock) for study in batch]
        yield from score_prepared(prepared, predictor, ensemble, clock)

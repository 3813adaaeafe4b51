"""Score rows → parts: Parquet files on storage, each with a receipt that says what landed."""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from cxrpipe import storage
from cxrpipe.records import score_schema
from cxrpipe.scoring.faults import Fault
from cxrpipe.scoring.prepare import Row
from cxrpipe.scoring.work import Span, add_span, stage_seconds, worker

_STAGES = {"prepare": "prepared", "predict": "predicted", "finish": "finished"}
"""Stage → the participle in the names of its columns."""
_FOR_RECEIPT: list[tuple[str, pa.DataType]] = [
    *((f"{stage}_s", pa.float32()) for stage in _STAGES),  # the study's share of the seconds of its batch
    *((f"{done}_at", pa.float64()) for done in _STAGES.values()),  # seconds since 1970
    *((f"{done}_by", pa.string()) for done in _STAGES.values()),  # see `batch.worker`
    ("computed_on", pa.string()),
    ("fault", pa.struct([(name, pa.string()) for name in Fault._fields])),
]
"""Columns that a row carries until it lands; no part has them.

They are columns, and no value beside the rows of a batch, because Ray cuts its batches anew: 16 studies go through the
networks at once, 256 into a part, and what belongs to a study has to follow its row through both.
"""


class StudyFault(NamedTuple):
    """A study of a part that met an error in this program."""

    study_id: str
    place: int
    """Place of its row in the part, whose rows stand in the order in which they were finished."""
    fault: Fault


class Receipt(NamedTuple):
    """What landed with one part: how many studies, how they ended, and what they cost."""

    studies: int
    counts: dict[str, int]
    """`status` or `status/reason` → studies."""
    spans: dict[str, dict[str, Span]]
    """Stage → worker (see `worker`) → its work on these studies."""
    computed_on: dict[str, int]
    """Device, precision and kernels (`cpu float32 fused`) → studies."""
    prepared_at: Sequence[float] = ()
    """When each study was prepared, in seconds since 1970; derived studies have no such time."""
    predicted_at: Sequence[float] = ()
    """When each study's batch left the networks, in seconds since 1970."""
    faults: Sequence[StudyFault] = ()

    def to_json(self) -> str:
        return json.dumps(self._asdict())

    @classmethod
    def from_json(cls, text: str) -> "Receipt":
        receipt = cls(**json.loads(text))
        faults = [StudyFault(study_id, place, Fault(*fault)) for study_id, place, fault in receipt.faults]
        spans = {stage: {by: Span(*span) for by, span in workers.items()} for stage, workers in receipt.spans.items()}
        return receipt._replace(faults=faults, spans=spans)

    @property
    def seconds(self) -> dict[str, float]:
        """Stage → seconds of work on these studies, summed over all workers."""
        return stage_seconds(self.spans)


def score_table(
    rows: Iterable[Row],
    findings: Sequence[str],
    columns: Mapping[str, pa.Array] = MappingProxyType({}),
    *,
    embed: bool = False,
) -> pa.Table:
    """Rows as a table: the columns of the score schema, then those for the receipt.

    columns  columns of the same rows that are arrays already
    embed    with the column `feature_vectors`
    """
    schema = score_schema(findings, embed)
    for name, kind in _FOR_RECEIPT:
        schema = schema.append(pa.field(name, kind))
    others = pa.schema([field for field in schema if field.name not in columns])
    table = pa.Table.from_pylist(list(rows), schema=others)
    arrays = [columns[name] if name in columns else table[name] for name in schema.names]
    return pa.Table.from_arrays(arrays, schema=schema)


def in_parts(tables: Iterable[pa.Table], part_studies: int) -> Iterator[pa.Table]:
    """Cut a stream of tables anew, into tables of `part_studies` rows; the last may have fewer."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        while sum(each.num_rows for each in waiting) >= part_studies:
            joined = pa.concat_tables(waiting)
            yield joined.slice(0, part_studies)
            waiting = [joined.slice(part_studies)]
    if any(table.num_rows for table in waiting):
        yield pa.concat_tables(waiting)


def write_part(rows: pa.Table, parts: str) -> Receipt:
    """Write rows as one file below `parts`. Its name follows from the study ids: written twice, it is the same file."""
    started = time.time()
    scores = rows.drop_columns([name for name, _ in _FOR_RECEIPT])
    ids = hashlib.sha256("\n".join(sorted(rows["study_id"].to_pylist())).encode()).hexdigest()
    storage.write_table(storage.join(parts, f"part-{ids[:32]}.parquet"), scores)
    ended = time.time()
    spans = {stage: _spans(rows, stage, done) for stage, done in _STAGES.items()}
    return Receipt(
        studies=rows.num_rows,
        counts=dict(count_statuses(scores)),
        spans=spans | {"land": {worker(): Span(ended - started, started, ended)}},
        computed_on=dict(Counter(rows["computed_on"].drop_null().to_pylist())),
        prepared_at=rows["prepared_at"].drop_null().to_pylist(),
        predicted_at=rows["predicted_at"].drop_null().to_pylist(),
        faults=list(_faults(rows)),
    )


def _spans(rows: pa.Table, stage: str, done: str) -> dict[str, Span]:
    """Worker → its span of one stage. Derived studies went through no stage."""
    spans: dict[str, Span] = {}
    columns = (rows[f"{done}_by"].to_pylist(), rows[f"{stage}_s"].to_pylist(), rows[f"{done}_at"].to_pylist())
    for by, seconds, end in zip(*columns, strict=True):
        if by is not None:
            add_span(spans, by, Span(seconds, end - seconds, end))
    return spans


def _faults(rows: pa.Table) -> Iterator[StudyFault]:
    """The faults of a part. A traceback is long: only the first fault of a kind keeps its traceback."""
    kinds: set[str] = set()
    has_fault = rows["fault"].is_valid().to_numpy()
    for place in np.flatnonzero(has_fault).tolist():
        fault = Fault(**rows["fault"][place].as_py())
        shortened = Fault(fault.kind, "", "") if fault.kind in kinds else fault
        yield StudyFault(rows["study_id"][place].as_py(), place, shortened)
        kinds.add(fault.kind)


def count_statuses(rows: pa.Table) -> Counter[str]:
    """`ok`, `partial/truncated`, `failed/missing` … → studies."""
    pairs = zip(rows["status"].to_pylist(), rows["reason"].to_pylist(), strict=True)
    return Counter(status if reason is None else f"{status}/{reason}" for status, reason in pairs)

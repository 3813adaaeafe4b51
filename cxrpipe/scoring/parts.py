"""Score rows → parts: Parquet files on storage, each with a receipt that says what landed."""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cxrpipe import storage
from cxrpipe.records import score_schema
from cxrpipe.scoring.faults import Fault, guarded
from cxrpipe.scoring.prepare import Row, failed_by

_FOR_RECEIPT: list[tuple[str, pa.DataType]] = [
    ("prepare_s", pa.float32()),
    ("predict_s", pa.float32()),
    ("prepared_at", pa.float64()),
    ("predicted_at", pa.float64()),
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
    seconds: dict[str, float]
    """Stage → seconds of work on these studies, one worker's time."""
    computed_on: str
    """Device, precision and kernels: `cpu float32 fused`."""
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
        return receipt._replace(faults=faults)


def score_table(rows: Iterable[Row], findings: Sequence[str]) -> pa.Table:
    """Rows as a table: the columns of the score schema, then those for the receipt."""
    schema = score_schema(findings)
    for name, kind in _FOR_RECEIPT:
        schema = schema.append(pa.field(name, kind))
    rows = list(rows)

    def row_by_row(_: Fault) -> pa.Table:
        return pa.concat_tables([_row_table(row, schema) for row in rows])

    return guarded(lambda: pa.Table.from_pylist(rows, schema=schema), row_by_row)


def _row_table(row: Row, schema: pa.Schema) -> pa.Table:
    """One row as a table; the row becomes `internal_error` where the schema cannot hold its values."""
    return guarded(
        lambda: pa.Table.from_pylist([row], schema=schema),
        lambda fault: pa.Table.from_pylist([failed_by(row, fault)], schema=schema),
    )


def write_part(rows: pa.Table, parts: str) -> Receipt:
    """Write rows as one file below `parts`. Its name follows from the study ids: written twice, it is the same file."""
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

"""Patients that a score root must not hold, as keyed hashes of their ids: consulted before a list is frozen."""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from cxrpipe import storage

_SCHEMA = pa.schema([pa.field("patient", pa.string(), nullable=False), pa.field("since", pa.string(), nullable=False)])


@dataclass(frozen=True)
class Forgotten:
    """The list of one root. Its key lies with it: it keeps ids from being read off, not from being tried."""

    key: bytes
    rows: tuple[tuple[str, str], ...]
    """(hash, time) of each patient."""

    def is_kept(self, studies: pa.Table) -> np.ndarray:
        """(N,) bool: the study is of no forgotten patient."""
        hashes = {patient for patient, _ in self.rows}
        if not hashes:
            return np.ones(studies.num_rows, bool)
        patients = studies["patient_id"].to_pylist()
        return np.array([each is None or self.hash(each) not in hashes for each in patients], bool)

    def hash(self, patient_id: str) -> str:
        return hmac.new(self.key, patient_id.encode(), hashlib.sha256).hexdigest()[:32]


def read_forgotten(root: str) -> Forgotten:
    try:
        rows = storage.read_table(_place(root))
    except FileNotFoundError:
        return Forgotten(secrets.token_bytes(32), ())
    columns = (rows["patient"].to_pylist(), rows["since"].to_pylist())
    return Forgotten(bytes.fromhex(rows.schema.metadata[b"key"].decode()), tuple(zip(*columns, strict=True)))


def add_forgotten(root: str, patient_id: str) -> None:
    """Only who holds the root's lock may."""
    before = read_forgotten(root)
    hash_ = before.hash(patient_id)
    if hash_ in {patient for patient, _ in before.rows}:
        return
    rows = [*before.rows, (hash_, datetime.now(UTC).isoformat(timespec="seconds"))]
    table = pa.Table.from_pylist(
        [{"patient": patient, "since": since} for patient, since in rows],
        schema=_SCHEMA.with_metadata({"key": before.key.hex()}),
    )
    storage.write_table(_place(root), table)


def _place(root: str) -> str:
    return storage.join(root, "forgotten.parquet")

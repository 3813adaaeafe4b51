"""The patients whom a score root must not hold, as keyed hashes of their ids. Read before a list is frozen."""

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
    """The list of one score root.

    The key lies beside the hashes. It keeps ids from being read off the list, but not from being guessed and tried.
    """

    key: bytes
    rows: tuple[tuple[str, str], ...]
    """(hash, time) of each patient."""

    def is_kept(self, studies: pa.Table) -> np.ndarray:
        """(N,) bool: the study belongs to no forgotten patient."""
        hashes = {patient for patient, _ in self.rows}
        if not hashes:
            return np.ones(studies.num_rows, bool)
        patients = studies["patient_id"].to_pylist()
        return np.array([patient is None or self.hash(patient) not in hashes for patient in patients], bool)

    def hash(self, patient_id: str) -> str:
        return hmac.new(self.key, patient_id.encode(), hashlib.sha256).hexdigest()[:32]


def read_forgotten(url: str) -> Forgotten:
    """Read a list; an empty one with a new key where none is there yet."""
    try:
        rows = storage.read_table(url)
    except FileNotFoundError:
        return Forgotten(secrets.token_bytes(32), ())
    columns = (rows["patient"].to_pylist(), rows["since"].to_pylist())
    return Forgotten(bytes.fromhex(rows.schema.metadata[b"key"].decode()), tuple(zip(*columns, strict=True)))


def add_forgotten(url: str, patient_id: str) -> None:
    """Add a patient to a list. Only the holder of the root's lock may call this."""
    before = read_forgotten(url)
    hash_ = before.hash(patient_id)
    if hash_ in {patient for patient, _ in before.rows}:
        return
    rows = [*before.rows, (hash_, datetime.now(UTC).isoformat(timespec="seconds"))]
    table = pa.Table.from_pylist(
        [{"patient": patient, "since": since} for patient, since in rows],
        schema=_SCHEMA.with_metadata({"key": before.key.hex()}),
    )
    storage.write_table(url, table)

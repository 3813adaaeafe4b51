"""What a score root holds already of each study, under one fingerprint: done, changed since, or to be tried again."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cxrpipe import storage
from cxrpipe.records import REASONS, complete_runs, published
from cxrpipe.records.id_set import IdSet

RETRYABLE = "retryable"
"""In place of a reason: all that may succeed without any change to the object."""


@dataclass(frozen=True)
class Ledger:
    """The rows of the complete runs of one fingerprint."""

    known: IdSet
    """Studies with any row."""
    done: IdSet
    """Studies, by id and digest, with a row whose reason is not retryable."""
    reasons: dict[str, str]
    """Study id → reason of its newest row; studies without one are left out."""

    def is_done(self, studies: pa.Table) -> np.ndarray:
        """(N,) bool"""
        return self.done.contains(versions(studies))

    def is_known(self, studies: pa.Table) -> np.ndarray:
        """(N,) bool; known and not done: changed since, or to be tried again"""
        return self.known.contains(studies["study_id"].to_pylist())

    def is_to_retry(self, studies: pa.Table, words: Sequence[str]) -> np.ndarray:
        """(N,) bool: the newest row has one of these reasons."""
        wanted = set(words) | ({each for each in REASONS if REASONS[each].retryable} if RETRYABLE in words else set())
        return np.array([self.reasons.get(each) in wanted for each in studies["study_id"].to_pylist()], bool)

    def with_reason(self, word: str) -> IdSet:
        """The studies whose newest row has this reason."""
        return IdSet(study_id for study_id, reason in self.reasons.items() if reason == word)


def read_ledger(root: str, fingerprint: str) -> Ledger:
    """Read the ids, digests and reasons of all complete runs; empty for a root without one."""
    known: list[IdSet] = []
    done: list[IdSet] = []
    reasons: dict[str, str] = {}
    for rows in _rows(root, fingerprint):
        ids = rows["study_id"].to_pylist()
        own = rows["reason"].to_pylist()
        known.append(IdSet(ids))
        done.append(IdSet(version for version, reason in zip(versions(rows), own, strict=True) if _is_final(reason)))
        for study_id, reason in zip(ids, own, strict=True):
            if reason is not None:
                reasons[study_id] = reason
            else:
                reasons.pop(study_id, None)
    return Ledger(IdSet.union(known), IdSet.union(done), reasons)


def _is_final(reason: str | None) -> bool:
    return reason is None or not REASONS[reason].retryable


def versions(studies: pa.Table) -> list[str]:
    """Study and digest as one string: what is scored once."""
    pairs = zip(studies["study_id"].to_pylist(), studies["study_digest"].to_pylist(), strict=True)
    return [f"{study_id}\n{digest}" for study_id, digest in pairs]


def _rows(root: str, fingerprint: str) -> Iterator[pa.Table]:
    """Oldest run first."""
    for run in complete_runs(root):
        if run["fingerprint"] == fingerprint:
            for url in published(root, run["run_id"]):
                yield storage.read_table(url, ["study_id", "study_digest", "reason"])

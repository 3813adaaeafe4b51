"""What a score root already holds of every study for one fingerprint: done, changed since, or to be tried again."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cxrpipe import storage
from cxrpipe.records import REASONS, CompleteRuns
from cxrpipe.records.id_set import IdSet

RETRYABLE = "retryable"
"""A word of `--retry` for all reasons after which a study may succeed although its object has not changed."""

RETRYABLE_REASONS = pa.array([word for word, reason in REASONS.items() if reason.retryable], pa.string())


@dataclass(frozen=True)
class Ledger:
    """The rows of the complete runs of one fingerprint."""

    known: IdSet
    """Studies with any row."""
    done: IdSet
    """Studies, by id and digest (see `versions`), with a row whose reason is not retryable."""
    reasons: dict[str, str]
    """Study id → reason of the study's newest row. A study whose newest row has no reason is left out."""

    def is_done(self, studies: pa.Table) -> np.ndarray:
        """(N,) bool"""
        return self.done.contains(versions(studies))

    def is_known(self, studies: pa.Table) -> np.ndarray:
        """(N,) bool. A study that is known and not done has changed since, or is to be tried again."""
        return self.known.contains(studies["study_id"].to_pylist())

    def is_to_retry(self, studies: pa.Table, words: Sequence[str]) -> np.ndarray:
        """(N,) bool: the newest row has one of these reasons."""
        wanted = set(words)
        if RETRYABLE in words:
            wanted |= set(RETRYABLE_REASONS.to_pylist())
        return np.array([self.reasons.get(study_id) in wanted for study_id in studies["study_id"].to_pylist()], bool)

    def with_reason(self, word: str) -> IdSet:
        """The studies whose newest row has this reason."""
        return IdSet(study_id for study_id, reason in self.reasons.items() if reason == word)


def read_ledger(runs: CompleteRuns, fingerprint: str) -> Ledger:
    """Read the ids, digests and reasons of all complete runs of one fingerprint; empty where there is none."""
    known: list[IdSet] = []
    done: list[IdSet] = []
    reasons: dict[str, str] = {}
    for rows in _rows(runs, fingerprint):
        ids = rows["study_id"].to_pylist()
        known.append(IdSet(ids))
        done.append(IdSet(versions(rows.filter(pc.invert(pc.is_in(rows["reason"], RETRYABLE_REASONS))))))
        if reasons:
            for study_id in ids:
                reasons.pop(study_id, None)
        failed = rows.filter(pc.is_valid(rows["reason"]))  # a run has one row of a study
        reasons.update(zip(failed["study_id"].to_pylist(), failed["reason"].to_pylist(), strict=True))
    return Ledger(IdSet.union(known), IdSet.union(done), reasons)


def versions(studies: pa.Table) -> list[str]:
    """Id and digest of every study as one string: what is scored once."""
    joined: list[str] = pc.binary_join_element_wise(studies["study_id"], studies["study_digest"], "\n").to_pylist()
    return joined


def _rows(runs: CompleteRuns, fingerprint: str) -> Iterator[pa.Table]:
    """Oldest run first."""
    for report in runs:
        if report.fingerprint == fingerprint:
            for url in runs.files(report):
                yield storage.read_table(url, ["study_id", "study_digest", "reason"])

"""A reader's verdict on the ensemble's answer for one finding of one study, and the labels that verdicts make."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cxrpipe.errors import ConfigError

Word = Literal["agree", "wrong", "unsure"]
WORDS: tuple[Word, ...] = get_args(Word)
UNSURE = -1
"""The label where a reader is unsure, or where no label has the majority of the readers."""
LONGEST_READER, LONGEST_NOTE = 100, 2_000
"""Characters."""
_ID = re.compile(r"[0-9A-Za-z-]{8,64}")

VERDICT_SCHEMA = pa.schema(
    [
        pa.field("verdict_id", pa.string(), nullable=False),  # of the submission, by one reader
        pa.field("study_id", pa.string(), nullable=False),
        pa.field("patient_id", pa.string()),
        pa.field("finding", pa.string(), nullable=False),
        pa.field("fingerprint", pa.string(), nullable=False),  # of the models whose answer was shown
        pa.field("prob", pa.float32(), nullable=False),  # as shown
        pa.field("consensus", pa.bool_(), nullable=False),  # as shown
        pa.field("verdict", pa.string(), nullable=False),  # agree, wrong, unsure
        pa.field("label", pa.int8(), nullable=False),  # 1, 0, -1 unsure
        pa.field("reader", pa.string(), nullable=False),
        pa.field("time", pa.timestamp("us", "UTC"), nullable=False),
        pa.field("note", pa.string()),
    ]
)
LABEL_SCHEMA = pa.schema(
    [("study_id", pa.string()), ("finding", pa.string()), ("label", pa.int8()), ("readers", pa.int64())]
)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One row of `VERDICT_SCHEMA`. ConfigError where a field holds what no form of ours sends."""

    verdict_id: str
    """Id of the submission, made by the browser. Verdicts that are sent together share it."""
    study_id: str
    patient_id: str | None
    finding: str
    fingerprint: str
    prob: float
    consensus: bool
    verdict: Word
    label: int
    reader: str
    time: datetime
    note: str | None = None

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.verdict_id):
            raise ConfigError(f"verdict id {self.verdict_id[:80]!r}; expected 8 to 64 letters, digits and hyphens")
        if self.verdict not in WORDS:
            raise ConfigError(f"verdict {self.verdict[:80]!r}; expected one of {', '.join(WORDS)}")
        if self.label != label_of(self.verdict, self.consensus):
            raise ConfigError(f"label {self.label} after {self.verdict!r} on a consensus of {self.consensus}")
        if not 0 <= self.prob <= 1:
            raise ConfigError(f"a probability of {self.prob}; expected 0 to 1")
        if self.time.tzinfo is None:
            raise ConfigError("the time of a verdict has no time zone")
        if not self.reader or len(self.reader) > LONGEST_READER or _has_controls(self.reader):
            raise ConfigError(
                f"a reader's name needs 1 to {LONGEST_READER} characters of text; it has {len(self.reader)}"
            )
        if self.note is not None and (len(self.note) > LONGEST_NOTE or _has_controls(self.note, but="\n\t")):
            raise ConfigError(f"a note may have {LONGEST_NOTE:,} characters of text; this one has {len(self.note):,}")

    @classmethod
    def on(
        cls,
        row: Mapping[str, Any],
        finding: str,
        verdict: Word,
        *,
        verdict_id: str,
        reader: str,
        time: datetime,
        note: str | None = None,
    ) -> Verdict:
        """A verdict on the answer of a score row. ConfigError where the row has no answer for the finding.

        Blanks around a reader's name, and repeated ones in it, are removed: they would make another reader of it.
        """
        consensus = row.get(f"consensus_{finding}")
        if consensus is None:
            raise ConfigError(f"{row['study_id']}: no answer on {finding} there that a reader could agree with")
        return cls(
            verdict_id=verdict_id,
            study_id=row["study_id"],
            patient_id=row["patient_id"],
            finding=finding,
            fingerprint=row["fingerprint"],
            prob=row[f"prob_{finding}"],
            consensus=consensus,
            verdict=verdict,
            label=label_of(verdict, consensus),
            reader=" ".join(unicodedata.normalize("NFC", reader).split()),
            time=time,
            note=(note or "").replace("\r\n", "\n").strip() or None,
        )


def label_of(verdict: Word, consensus: bool) -> int:
    """The label that a verdict makes of the consensus: 1, 0, or -1 for an unsure reader."""
    return UNSURE if verdict == "unsure" else int(consensus == (verdict == "agree"))


def as_table(verdicts: Sequence[Verdict]) -> pa.Table:
    return pa.Table.from_pylist([asdict(verdict) for verdict in verdicts], schema=VERDICT_SCHEMA)


def each_once(verdicts: pa.Table) -> pa.Table:
    """The verdicts in the order of their times, each once: a browser may have sent a submission twice."""
    ordered = verdicts.take(pc.sort_indices(verdicts, [("time", "ascending"), ("verdict_id", "ascending")]))
    return ordered.take(_places(ordered, ["verdict_id", "study_id", "finding"], "min"))


def newest_of_readers(verdicts: pa.Table) -> pa.Table:
    """The last verdict of every reader on every study and finding.

    verdicts  see `each_once`
    """
    return verdicts.take(_places(verdicts, ["reader", "study_id", "finding"], "max"))


def labels_of(verdicts: pa.Table) -> pa.Table:
    """One row (`LABEL_SCHEMA`) for every study and finding: the label that more than half of its readers gave, else -1.

    verdicts  see `newest_of_readers`
    """
    is_label = {name: pc.cast(pc.equal(verdicts["label"], label), pa.int64()) for name, label in (("1", 1), ("0", 0))}
    counted = verdicts.select(["study_id", "finding", "reader"])
    for name, column in is_label.items():
        counted = counted.append_column(name, column)
    sums = counted.group_by(["study_id", "finding"], use_threads=False).aggregate(
        [("1", "sum"), ("0", "sum"), ("reader", "count")]
    )
    readers = sums["reader_count"].to_numpy()
    is_one, is_zero = (2 * sums[f"{label}_sum"].to_numpy() > readers for label in (1, 0))
    labels = np.where(is_one, 1, np.where(is_zero, 0, UNSURE)).astype(np.int8)
    return pa.table([sums["study_id"], sums["finding"], labels, readers], schema=LABEL_SCHEMA)


def decided_on(labels: pa.Table, finding: str, study_ids: pa.ChunkedArray) -> pa.Table:
    """What the readers decided on one finding of these studies (N,), in their order; null for a study without verdict.

    labels  see `labels_of`
    """
    of_finding = labels.filter(pc.equal(labels["finding"], finding)).combine_chunks()
    places = pc.index_in(study_ids, value_set=of_finding["study_id"].combine_chunks())
    return of_finding.select(["label", "readers"]).take(places.combine_chunks())


def _places(verdicts: pa.Table, keys: list[str], which: Literal["min", "max"]) -> pa.Array:
    """The first (`min`) or the last (`max`) row of every key, in the order of the rows."""
    numbered = verdicts.select(keys).append_column("place", pa.array(np.arange(verdicts.num_rows)))
    places = numbered.group_by(keys, use_threads=False).aggregate([("place", which)])[f"place_{which}"]
    return places.combine_chunks().sort()


def _has_controls(text: str, but: str = "") -> bool:
    """Whether a text has control characters, or halves of surrogate pairs, which UTF-8 cannot encode."""
    return any(unicodedata.category(character) in ("Cc", "Cs") and character not in but for character in text)

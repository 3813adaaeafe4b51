"""The lines of a list of studies: what is shown of each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from cxrpipe.report.words import study_url
from cxrpipe.review.context import Context
from cxrpipe.review.filters import Filter

Row = Mapping[str, Any]
_NUMBERS = ("prob", "votes", "disagreement")
_READ = {1: "present", 0: "absent", -1: "unsure"}


class Line(NamedTuple):
    row: Row
    """The score row, without pictures."""
    url: str
    """Of the study's page. It knows the list, for the studies before and after."""
    finding: str | None
    """The finding of the list, or else the one with the highest of the numbers by which the list is sorted. None:
    nothing was scored."""
    voters: int
    """Members that know the finding."""
    members: tuple[float, ...]
    """Their probabilities, where the list shows them."""
    others: tuple[str, ...]
    """Other findings that the consensus calls positive."""
    label: str
    """Of the study table, for the finding: `1`, `0`, `-1`, or empty."""
    read: str
    """What the readers decided on the finding; empty where none has said anything."""


def lines_of(room: Context, rows: Sequence[Row], asked: Filter) -> list[Line]:
    read = _read(room, [row["study_id"] for row in rows])
    return [_line(room, row, asked, read) for row in rows]


def _line(room: Context, row: Row, asked: Filter, read: Mapping[tuple[str, str], str]) -> Line:
    finding = asked.finding or _highest(row, asked.sort if asked.sort in _NUMBERS else "prob", room.rows.findings)
    query = asked.query()
    url = study_url(row["study_id"]) + (f"?{query}" if query else "")
    if finding is None or row.get(f"prob_{finding}") is None:
        return Line(row, url, None, 0, (), (), "", "")
    label = row.get(f"label_{finding}")
    return Line(
        row,
        url,
        finding,
        sum(finding in (member.findings or ()) for member in room.rows.runs.newest.members),
        tuple(prob for prob in row.get(f"member_probs_{finding}") or () if prob is not None),
        tuple(name for name in room.rows.findings if name != finding and row.get(f"consensus_{name}")),
        "" if label is None else f"{label:g}",
        read.get((row["study_id"], finding), ""),
    )


def _highest(row: Row, number: str, findings: Sequence[str]) -> str | None:
    """The finding of a row whose probability, votes or disagreement is the highest."""
    of_findings = {name: row[f"{number}_{name}"] for name in findings if row.get(f"{number}_{name}") is not None}
    return max(of_findings, key=of_findings.__getitem__, default=None)


def _read(room: Context, study_ids: Sequence[str]) -> dict[tuple[str, str], str]:
    """(study id, finding) → what the readers decided, for the studies of a page."""
    labels = room.reviews.labels()
    labels = labels.filter(pc.is_in(labels["study_id"], pa.array(study_ids, pa.string())))
    return {(row["study_id"], row["finding"]): _READ[row["label"]] for row in labels.to_pylist()}

"""Results as Markdown for docs/performance.md, and as JSON."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from gpu_parts.catalogue import FAILED
from gpu_parts.processes import Result

WITHIN = "within"
"""A column whose `no` says that a row is beyond what is allowed."""


class Summary(NamedTuple):
    """All results of one call."""

    command: str
    date: str
    seconds: float
    machine: dict[str, Any]
    parts: list[Result]

    @property
    def is_well(self) -> bool:
        """Whether no part crashed, no measurement failed, and no row is beyond what is allowed."""
        rows = [row for part in self.parts for rows in part.tables.values() for row in rows]
        reasons = [reason for part in self.parts for _, reason in part.missing]
        return not (
            any(part.status == "crashed" for part in self.parts)
            or any(reason.startswith(FAILED) for reason in reasons)
            or any(row.get(WITHIN) == "no" for row in rows)
        )


def markdown(summary: Summary) -> str:
    return "\n".join(_lines(summary))


def _lines(summary: Summary) -> Iterator[str]:
    machine = ", ".join(str(value) for name, value in summary.machine.items() if name != "device")
    yield f"`{summary.command}` on {machine}, {summary.date}, {summary.seconds:.0f} s:"
    for part in summary.parts:
        for title, rows in part.tables.items():
            yield from ("", f"**{title}**", "", *_table(rows))
    missing = [
        {"part": part.name, "not measured": what, "why": reason}
        for part in summary.parts
        for what, reason in part.missing
    ]
    if missing:
        yield from ("", *_table(missing))


def _table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Columns in the order in which rows name them first; a row without a column leaves its cell empty."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    yield f"| {' | '.join(columns)} |"
    yield f"|{'---|' * len(columns)}"
    for row in rows:
        yield f"| {' | '.join(_cell(row.get(column)) for column in columns)} |"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.3g}"
    return str(value).replace("|", "/")


def as_json(summary: Summary) -> dict[str, Any]:
    return summary._asdict() | {"parts": {part.name: part._asdict() for part in summary.parts}}

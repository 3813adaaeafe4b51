"""What the reading room answers about a score root: plain values, which pages draw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Page:
    """One page of a list of studies."""

    rows: list[Row]
    """Numbers and words of each study under the names of the score row; no picture, no text of a file."""
    total: int
    """Studies of the whole list."""
    number: int
    """Of this page, counted from 1."""
    size: int
    """Studies of a full page."""

    @property
    def pages(self) -> int:
        """Pages of the whole list, at least one."""
        return max(1, -(-self.total // self.size))


@dataclass(frozen=True)
class Pictures:
    """The pictures that a score row holds, as PNG, in the order of its views. None: the view has none."""

    masks: list[bytes | None]
    heatmaps: list[list[tuple[str, bytes]]]
    """Of each view: (finding, PNG)."""
    structures: list[list[tuple[str, bytes]]]
    """Of each view: (name of the structure, PNG)."""


@dataclass(frozen=True)
class FindingFigures:
    """One finding in some rows."""

    finding: str
    scored: int
    """Studies with a probability."""
    positive: int
    """Studies that the consensus calls positive."""
    mean_prob: float | None
    """None: nothing was scored."""

    @property
    def positive_fraction(self) -> float | None:
        return self.positive / self.scored if self.scored else None


@dataclass(frozen=True)
class RunFigures:
    """What one run found, without the studies of forgotten patients."""

    run_id: str
    start: str
    """`start` and `end`: UTC, ISO 8601."""
    end: str
    studies: int
    seconds: float
    studies_per_second: float | None
    counts: Mapping[tuple[str, str | None], int]
    """(status, reason) → studies, the most first."""
    flags: Mapping[str, int]
    """Flag → studies, the most first."""
    findings: tuple[FindingFigures, ...]


@dataclass(frozen=True)
class Summary:
    """The newest run beside the run before, and the whole root."""

    tonight: RunFigures
    before: RunFigures | None
    """None: the root has one run of these models."""
    studies: int
    """Studies of the root under these models: the newest row of each."""
    runs: int


@dataclass(frozen=True)
class FailureGroup:
    """The studies that ended with one status and reason."""

    status: str
    reason: str
    studies: int
    meaning: str
    """What the reason says."""
    is_retryable: bool
    what_to_do: str
    examples: list[Row]
    """A few of its studies, with `detail` and `views`."""


@dataclass(frozen=True)
class Choices:
    """What the studies of a root have, and a form can therefore offer."""

    flags: tuple[str, ...]
    reasons: tuple[str, ...]
    run_ids: tuple[str, ...]
    """The newest first."""
    sexes: tuple[str, ...]

"""What an ensemble says of one study: for each finding the members' probabilities against their thresholds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from cxrpipe.evaluation.join import names_of
from cxrpipe.records import RunReport
from cxrpipe.report.words import votes


class Opinion(NamedTuple):
    """One member on one finding."""

    member: str
    prob: float
    threshold: float | None
    """None: the report of the run is older than thresholds."""

    @property
    def is_vote(self) -> bool:
        return self.threshold is not None and self.prob >= self.threshold


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The ensemble on one finding. The members are those that know the finding."""

    finding: str
    prob: float
    consensus: bool
    votes: int
    voters: int
    disagreement: float
    opinions: Sequence[Opinion]
    label: float | None
    """Of the archive: 1, 0, -1 uncertain. None: not mentioned, or unknown here."""


def answers(row: Mapping[str, Any], report: RunReport) -> list[Answer]:
    """The findings that have a number: those of the consensus first, then by probability.

    row     a score row, with the labels of the archive where they are known
    report  of its run
    """
    findings = [finding for finding in report.findings if row.get(f"prob_{finding}") is not None]
    every = [_answer(row, report, finding) for finding in findings]
    return sorted(every, key=lambda answer: (not answer.consensus, -answer.prob))


def _answer(row: Mapping[str, Any], report: RunReport, finding: str) -> Answer:
    yes, voters = votes(row, finding)
    pairs = zip(names_of(report.members), report.members, row[f"member_probs_{finding}"], strict=True)
    return Answer(
        finding=finding,
        prob=row[f"prob_{finding}"],
        consensus=row[f"consensus_{finding}"],
        votes=yes,
        voters=voters,
        disagreement=row[f"disagreement_{finding}"],
        opinions=[
            Opinion(name, prob, model.thresholds.get(finding) if model.thresholds else None)
            for name, model, prob in pairs
            if prob is not None
        ],
        label=row.get(f"label_{finding}"),
    )

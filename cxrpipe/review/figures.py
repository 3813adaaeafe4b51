"""The figures of single runs, and of the studies that failed, from the table `rows`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from cxrpipe.records import REASONS
from cxrpipe.review.answers import FailureGroup, FindingFigures, Row, RunFigures
from cxrpipe.review.loading import Loaded
from cxrpipe.review.row_files import Place, read_rows

_SHOWN = ("detail", "views", "n_views", "n_views_ok")


def run_figures(loaded: Loaded, run: int) -> RunFigures:
    """What one run found, from all of its rows that `rows` holds.

    run  its place among the complete runs
    """
    report, between = list(loaded.runs)[run], list(loaded.files_of(run))
    ours = "file BETWEEN ? AND ?"
    counts = loaded.answers(
        f"SELECT status, reason, count(*) AS studies FROM rows WHERE {ours} "
        "GROUP BY ALL ORDER BY studies DESC, status, reason",
        between,
    )
    flags = loaded.answers(
        f"SELECT flag, count(*) AS studies FROM (SELECT unnest(flags) AS flag FROM rows WHERE {ours}) "
        "GROUP BY flag ORDER BY studies DESC, flag",
        between,
    )
    return RunFigures(
        run_id=report.run_id,
        start=report.start,
        end=report.end,
        studies=sum(studies for *_, studies in counts),
        seconds=report.seconds,
        studies_per_second=report.studies_per_second,
        counts={(status, reason): studies for status, reason, studies in counts},
        flags=dict(flags),
        findings=_finding_figures(loaded, ours, between),
    )


def _finding_figures(loaded: Loaded, ours: str, between: list[int]) -> tuple[FindingFigures, ...]:
    if not loaded.findings:
        return ()
    columns = ", ".join(
        f"count(prob_{number}), count_if(consensus_{number}), avg(prob_{number})"
        for number in range(len(loaded.findings))
    )
    (numbers,) = loaded.answers(f"SELECT {columns} FROM rows WHERE {ours}", between)
    triples = zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True)
    return tuple(FindingFigures(finding, *triple) for finding, triple in zip(loaded.findings, triples, strict=True))


@dataclass(frozen=True)
class _Example:
    status: str
    reason: str
    place: Place
    run: int


def failure_groups(loaded: Loaded, examples: int) -> list[FailureGroup]:
    """The studies with a reason, by status and reason, the most first; the newest of each as examples."""
    counts = loaded.answers(
        "SELECT status, reason, count(*) AS studies FROM rows WHERE reason IS NOT NULL "
        "GROUP BY ALL ORDER BY studies DESC, status, reason"
    )
    picked = _examples(loaded, examples)
    rows = read_rows([example.place for example in picked], _SHOWN.__contains__)
    shown = defaultdict[tuple[str, str], list[Row]](list)
    for example in picked:
        row = rows[example.place.study_id].to_pylist()[0]
        run_id = list(loaded.runs)[example.run].run_id
        shown[example.status, example.reason].append(
            row | {"status": example.status, "reason": example.reason, "run_id": run_id}
        )
    return [_group(status, reason, studies, shown[status, reason]) for status, reason, studies in counts]


def _examples(loaded: Loaded, examples: int) -> list[_Example]:
    rows = loaded.answers(
        "SELECT status, reason, study_id, file, row FROM rows WHERE reason IS NOT NULL "
        "QUALIFY row_number() OVER (PARTITION BY status, reason ORDER BY file DESC, row) <= ? "
        "ORDER BY status, reason, file DESC, row",
        [examples],
    )
    return [
        _Example(status, reason, Place(study_id, loaded.files[file].url, row), loaded.files[file].run)
        for status, reason, study_id, file, row in rows
    ]


def _group(status: str, word: str, studies: int, examples: Sequence[Row]) -> FailureGroup:
    reason = REASONS.get(word)
    return FailureGroup(
        status=status,
        reason=word,
        studies=studies,
        meaning=reason.meaning if reason else "a word of another version of cxrpipe",
        is_retryable=reason.retryable if reason else False,
        what_to_do=reason.what_to_do if reason else "look at the detail",
        examples=list(examples),
    )

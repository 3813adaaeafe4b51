"""The program `nightly`: index, score what is new, compare with a reference, and write the night's report.

    <out>/nights/<start>.json   {"start", "end", "exit_status", "steps", "index", "runs", "error"}

The lock of the score root is held from the first step to the last: a second night, or any other run in this root, is
refused with status 4, after --wait-for-lock-s. A night that breaks does no harm: the next night completes its run
first.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

from cxrpipe import console, storage
from cxrpipe.archives.index import index
from cxrpipe.archives.study_table_writer import IndexCounts
from cxrpipe.config import CompareConfig, NightlyConfig, ScoreConfig
from cxrpipe.config.score import Scoring
from cxrpipe.errors import ConfigError, CxrError, ExitStatus
from cxrpipe.programs.index import print_counts
from cxrpipe.programs.score import score_archive
from cxrpipe.records import RunReport
from cxrpipe.runs.engine import Engine
from cxrpipe.runs.root import ScoreRoot

Compare = Callable[[str, str], int]
"""(score root that is the reference, url of tonight's run) → exit status: `DONE`, or `DRIFTED`."""

_GRAVEST_FIRST = (ExitStatus.TOO_MANY_FAILED, ExitStatus.DRIFTED, ExitStatus.DONE)
"""The statuses of steps that end. A step that breaks or is refused ends the night."""


def run(config: NightlyConfig) -> int:
    from cxrpipe.on_ray.score import engine
    from cxrpipe.programs import compare

    return nightly(config, engine, lambda reference, tonight: compare.run(CompareConfig(runs=(reference, tonight))))


def nightly(config: NightlyConfig, engine: Engine, compare: Compare | None = None) -> int:
    """One night; the gravest exit status of its steps. The report is written even if a step raises."""
    if config.reference and compare is None:
        raise ConfigError("reference: this cxrpipe has nothing to compare runs with; leave --reference out")
    root = ScoreRoot.at(config.out)
    with root.locked(config.wait_for_lock_s) as lock, _reported(root, bool(config.pseudonymise)) as night:
        account = _index(config)
        night["index"] = _index_counts(account)
        night["steps"]["index"] = ExitStatus.DONE
        before = {report.run_id for report in root.complete_runs()}
        night["steps"]["score"] = score_archive(_scoring(config), engine, lock)
        tonight = [report for report in root.complete_runs() if report.run_id not in before]
        night["runs"] = [_run_counts(report) for report in tonight]
        if config.reference and compare and tonight:
            urls = [root.run(report.run_id).url for report in tonight]
            night["steps"]["compare"] = _gravest([compare(config.reference, url) for url in urls])
        night["exit_status"] = _gravest([*night["steps"].values()])
    _print(night)
    return int(night["exit_status"])


def _index(config: NightlyConfig) -> IndexCounts:
    """Write tonight's study table in the place of the last one, from which unchanged containers are taken."""
    known = storage.stat(storage.normalise(config.studies)) is not None
    counts = index(
        config.archive,
        config.studies,
        layout=config.layout,
        split_seed=config.split_seed,
        previous=config.studies if known else None,
        pseudonymise=config.pseudonymise,
    )
    print_counts(counts, private=bool(config.pseudonymise))
    return counts


def _scoring(config: NightlyConfig) -> ScoreConfig:
    shared = {setting.name: getattr(config, setting.name) for setting in fields(Scoring)}
    return ScoreConfig(**shared, studies=config.studies, incremental=True)


@contextmanager
def _reported(root: ScoreRoot, private: bool) -> Iterator[dict[str, Any]]:
    """The night's report as the block fills it; written when the block ends, also by an exception."""
    start = datetime.now(UTC)
    night: dict[str, Any] = {"start": start.isoformat(timespec="seconds"), "steps": {}, "runs": [], "error": None}
    try:
        yield night
    except CxrError as error:
        night["exit_status"] = error.exit_status
        night["error"] = type(error).__name__ if private else str(error)  # the message may name an object
        raise
    finally:
        night.setdefault("exit_status", ExitStatus.BROKE)
        night["end"] = datetime.now(UTC).isoformat(timespec="seconds")
        url = storage.join(root.url, "nights", f"{start:%Y%m%dT%H%M%S.%f}.json")
        storage.write(url, json.dumps(night, indent=2).encode() + b"\n")
        console.log(f"report of the night: {url}")


def _index_counts(counts: IndexCounts) -> dict[str, Any]:
    """Numbers only: no name of the archive enters the report."""
    return {
        "studies": counts.studies,
        "patients": counts.patients,
        "views": counts.views,
        "skipped": dict(counts.skipped),
        "losses": counts.lost,
        "labels_without_files": counts.unmatched,
    }


def _run_counts(report: RunReport) -> dict[str, Any]:
    return {"run_id": report.run_id, "studies": report.studies, "counts": report.counts}


def _gravest(statuses: list[int]) -> int:
    return next(status for status in _GRAVEST_FIRST if status in statuses)


def _print(night: dict[str, Any]) -> None:
    counts: Counter[str] = Counter()
    for run_counts in night["runs"]:
        counts.update(run_counts["counts"])
    scored = ", ".join(f"{count:,} {status}" for status, count in counts.most_common()) or "nothing new"
    console.out().print(f"Night: {night['index']['studies']:,} studies in the archive; scored: {scored}")

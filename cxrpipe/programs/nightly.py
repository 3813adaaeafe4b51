"""The program `nightly`: index, score what has come, compare with a reference, and write the night's account.

    <out>/nights/<start>.json   {"start", "end", "exit_status", "steps", "index", "runs", "error"}

The lock of the score root is held from the first step to the last: a second night, or any other run in this root, is
refused with status 4. A night that broke is no harm: the next one completes its run first.
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
from cxrpipe.errors import ConfigError, CxrError
from cxrpipe.programs.index import print_counts
from cxrpipe.programs.score import score_archive
from cxrpipe.records import complete_runs
from cxrpipe.runs.engine import Engine
from cxrpipe.runs.lock import locked

Compare = Callable[[str, str], int]
"""(score root that is the reference, url of tonight's run) → 0, or 5 where the findings have drifted."""

_GRAVEST_FIRST = (3, 5, 0)
"""Of the statuses with which a step ends: too many failures, drift, done. What breaks or refuses ends the night."""


def run(config: NightlyConfig) -> int:
    from cxrpipe.on_ray.score import engine
    from cxrpipe.programs import compare

    return nightly(config, engine, lambda reference, tonight: compare.run(CompareConfig(runs=(reference, tonight))))


def nightly(config: NightlyConfig, engine: Engine, compare: Compare | None = None) -> int:
    """One night; the gravest exit status of its steps. The account is written also where a step raises."""
    if config.reference and compare is None:
        raise ConfigError("reference: this cxrpipe has nothing to compare runs with; leave --reference out")
    root = storage.normalise(config.out)
    with locked(root) as lock, _accounted(root, bool(config.pseudonymise)) as night:
        counts = _index(config)
        night["index"] = _told(counts)
        night["steps"]["index"] = 0
        before = {run["run_id"] for run in complete_runs(root)}
        night["steps"]["score"] = score_archive(_scoring(config), engine, lock)
        tonight = [run for run in complete_runs(root) if run["run_id"] not in before]
        night["runs"] = [{name: run[name] for name in ("run_id", "studies", "counts")} for run in tonight]
        if config.reference and compare and tonight:
            night["steps"]["compare"] = _worst(
                [compare(config.reference, storage.join(root, "runs", run["run_id"])) for run in tonight]
            )
        night["exit_status"] = _worst(list(night["steps"].values()))
    _say(night)
    return night["exit_status"]


def _index(config: NightlyConfig) -> IndexCounts:
    """Tonight's study table, in the place of the last one, from which it knows what has not changed."""
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
    shared = {each.name: getattr(config, each.name) for each in fields(Scoring)}
    return ScoreConfig(**shared, studies=config.studies, incremental=True)


@contextmanager
def _accounted(root: str, private: bool) -> Iterator[dict[str, Any]]:
    """The night's account, written at its end however it ends."""
    start = datetime.now(UTC)
    night: dict[str, Any] = {"start": start.isoformat(timespec="seconds"), "steps": {}, "runs": [], "error": None}
    try:
        yield night
    except CxrError as error:
        night["exit_status"] = error.exit_status
        night["error"] = type(error).__name__ if private else str(error)  # the message may name an object
        raise
    finally:
        night.setdefault("exit_status", 1)
        night["end"] = datetime.now(UTC).isoformat(timespec="seconds")
        url = storage.join(root, "nights", f"{start:%Y%m%dT%H%M%S.%f}.json")
        storage.write(url, json.dumps(night, indent=2).encode() + b"\n")
        console.log(f"account {url}")


def _told(counts: IndexCounts) -> dict[str, Any]:
    """Numbers alone."""
    return {
        "studies": counts.studies,
        "patients": counts.patients,
        "views": counts.views,
        "skipped": dict(counts.skipped),
        "losses": counts.lost,
        "labels_without_files": counts.unmatched,
    }


def _worst(statuses: list[int]) -> int:
    return next(status for status in _GRAVEST_FIRST if status in statuses)


def _say(night: dict[str, Any]) -> None:
    counts: Counter = Counter()
    for each in night["runs"]:
        counts.update(each["counts"])
    scored = ", ".join(f"{count:,} {status}" for status, count in counts.most_common()) or "nothing new"
    console.out().print(f"Night: {night['index']['studies']:,} studies in the archive; scored: {scored}")

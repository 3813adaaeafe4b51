"""What must hold after a night, for `soak.py`."""

import contextlib
import itertools
import json
import os
from collections import Counter

import psutil
from soaking.troubles import Place

from cxrpipe import storage
from cxrpipe.records import complete_runs, read_scores
from cxrpipe.records.study_table import StudyTable
from cxrpipe.runs.root import ScoreRoot


class ViolationError(AssertionError):
    """What was found, and what was expected."""


def require(holds: bool, what: str) -> None:
    if not holds:
        raise ViolationError(what)


Published = dict[str, list[tuple[str, str, str]]]
"""Run → study, digest and status of each of its rows, sorted."""


def published_rows(out: str) -> Published:
    """All columns are read: each must be readable."""
    rows: Published = {}
    runs = complete_runs(out)
    for run in runs:
        tables = [storage.read_table(url) for url in runs.files(run)]
        columns = [[each[name].to_pylist() for name in ("study_id", "study_digest", "status")] for each in tables]
        rows[run.run_id] = sorted(itertools.chain(*(zip(*each, strict=True) for each in columns)))
        require(len(rows[run.run_id]) == run.studies, f"{run.run_id}: rows other than its {run.studies}")
    return rows


def kept(before: Published, after: Published) -> None:
    """What was published stands as it was, and nothing stands twice."""
    for run_id, rows in before.items():
        now = after.get(run_id, [])
        require(now == rows, f"{run_id}: had {len(rows)} rows; now {len(now)}, or others")
    for run_id, rows in after.items():
        require(len({study for study, *_ in rows}) == len(rows), f"{run_id}: a study is doubled")
    twice = {study: times for study, times in _scored(after).items() if times > 1}
    require(not twice, f"the same study and digest is scored more than once: {_some(twice)}")


def _scored(rows: Published) -> Counter[tuple[str, str]]:
    """Study and digest → how often it was scored; a failure may be tried again."""
    return Counter((study, digest) for study, digest, status in itertools.chain(*rows.values()) if status == "ok")


def its_own(place: Place) -> None:
    """No row was made of an image that its study never had."""
    rows = read_scores(place.out).to_pylist() if complete_runs(place.out) else []
    ever = place.archive.ever
    others = {row["study_id"]: row["detail"] for row in rows if not ever[row["study_id"]].issuperset(_read(row))}
    require(not others, f"scored from images of others: {_some(others)}")


def closed(place: Place) -> None:
    """After a night that ended with 0: its lock is released, and its account says 0."""
    for folder, name, expected in (("lock", "released", True), ("nights", "exit_status", 0)):
        *_, newest = storage.listing(f"{place.out}/{folder}")
        found = json.loads(storage.read(newest.url))[name]
        require(found == expected, f"{newest.url}: {name} is {found}; expected {expected}")


def complete(place: Place, after: Published) -> None:
    """Every study of the archive is scored, once, as it is now."""
    table = StudyTable(place.studies)
    wanted = {study.study_id: study.study_digest for study in table.studies()}
    images = place.archive.sha256()
    require(set(wanted) == set(images), f"{len(images)} studies in the archive; {len(wanted)} in the table, or others")
    times = _scored(after)
    wrong = {study: times[study, digest] for study, digest in wanted.items() if times[study, digest] != 1}
    require(not wrong, f"expected each study once with its digest; found {_some(wrong)}")
    rows = read_scores(place.out).to_pylist()
    stale = {row["study_id"]: row["study_digest"] for row in rows if wanted.get(row["study_id"]) != row["study_digest"]}
    require(not stale, f"the newest rows have another digest than the table: {_some(stale)}")
    bad = {row["study_id"]: (row["status"], row["reason"], row["detail"]) for row in rows if row["status"] != "ok"}
    require(not bad, f"expected every study to be ok; found {_some(bad)}")
    others = {row["study_id"]: row["detail"] for row in rows if _read(row) != images[row["study_id"]]}
    require(not others, f"scored from other bytes than the archive holds: {_some(others)}")
    still_open = ScoreRoot.at(place.out).unfinished_of(rows[0]["fingerprint"])
    require(not still_open, f"status 0, and runs are left open: {still_open}")


def _read(row: dict) -> list[str]:
    """The sha256 of the images that a score row was made of, sorted."""
    return sorted(view["sha256"] for view in row["views"] if view["sha256"])


def _some(found: dict) -> str:
    return f"{len(found)}, as {dict(itertools.islice(found.items(), 3))}"


def left_behind(session: int) -> list[str]:
    """The processes of a session: what they are."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, psutil.Error):
            if os.getsid(process.pid) == session:
                found.append(f"{process.pid} {' '.join(process.cmdline())[:100]} ({process.status()})")
    return found

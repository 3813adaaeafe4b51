"""A night: index, score what has come, compare, account; one at a time, and again without harm. No network."""

import json
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from builders import own_table, png, radiograph
from engines import Killed, killed_after, must_not_run, without_models

from cxrpipe.config import NightlyConfig
from cxrpipe.errors import ConfigError, LockError, RunError
from cxrpipe.programs.nightly import nightly
from cxrpipe.records import read_scores, runs_of
from cxrpipe.runs import lock
from cxrpipe.runs.engine import Engine
from cxrpipe.runs.lock import locked

pytestmark = pytest.mark.usefixtures("scored_here")
FILMS = {f"s{number}": [png(radiograph(number))] for number in range(4)}
DRIFT = 5


@pytest.fixture
def night(tmp_path, small):
    """One night over an archive of these studies; its exit status."""

    def run(films: Mapping[str, Sequence[bytes | None]], engine: Engine = without_models, **given: Any) -> int:
        compare = given.pop("compare", None)
        own_table(tmp_path, films)
        config = NightlyConfig(
            archive=str(tmp_path / "own" / "table.csv"),
            studies=str(tmp_path / "tables" / "studies.parquet"),
            out=str(tmp_path / "root"),
            models=(small.url,),
            part_studies=2,
            **given,
        )
        return nightly(config, engine, compare)

    return run


def accounts(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((folder / "root" / "nights").iterdir())]


def test_every_night_scores_what_has_come_since_the_last(night, tmp_path):
    first = {name: FILMS[name] for name in ("s0", "s1")}
    assert [night(first), night(FILMS), night(FILMS, must_not_run)] == [0, 0, 0]
    assert [run.studies for run in runs_of(str(tmp_path / "root"))] == [2, 2]
    assert [sum(run["studies"] for run in account["runs"]) for account in accounts(tmp_path)] == [2, 2, 0]
    assert [account["index"]["studies"] for account in accounts(tmp_path)] == [2, 4, 4]


def test_a_night_that_was_killed_is_completed_by_the_next(night, tmp_path):
    with pytest.raises(Killed):
        night(FILMS, killed_after(1))
    assert night(FILMS) == 0
    assert read_scores(str(tmp_path / "root")).num_rows == 4
    assert runs_of(str(tmp_path / "root"))[0].scored_before_resume == 2


def test_two_nights_at_once_are_refused_before_the_second_touches_the_table(night, tmp_path):
    night(FILMS)
    table = (tmp_path / "tables" / "studies.parquet").read_bytes()
    with locked(str(tmp_path / "root")), pytest.raises(LockError):
        night(FILMS | {"new": FILMS["s0"]})
    assert (tmp_path / "tables" / "studies.parquet").read_bytes() == table
    assert len(accounts(tmp_path)) == 1


def test_a_night_that_may_wait_begins_when_the_other_run_ends(night, tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "LOOK_EVERY_S", 0.05)
    with ExitStack() as other:
        other.enter_context(locked(str(tmp_path / "root")))
        release = threading.Timer(0.3, other.close)
        release.start()
        assert night(FILMS, wait_for_lock_s=30) == 0
        release.join()
    assert read_scores(str(tmp_path / "root")).num_rows == 4


def test_a_night_that_breaks_says_so_in_its_account(night, tmp_path):
    with pytest.raises(RunError, match="tried at random"):
        night({"bad": [b"no image"]})
    (account,) = accounts(tmp_path)
    assert (account["exit_status"], account["steps"]) == (1, {"index": 0})
    assert "tried at random" in account["error"]


@pytest.mark.parametrize(("drift", "status"), [(0, 0), (DRIFT, DRIFT)])
def test_the_night_is_compared_with_the_reference_and_drift_is_its_exit_status(night, tmp_path, drift, status):
    asked = []

    def compare(reference: str, tonight: str) -> int:
        asked.append((reference, Path(tonight).name))
        return drift

    assert night(FILMS, reference="before", compare=compare) == status
    assert night(FILMS, reference="before", compare=compare) == 0  # nothing came, so nothing is compared
    assert asked == [("before", runs_of(str(tmp_path / "root"))[0].run_id)]


def test_too_many_failed_studies_are_graver_than_drift(night, tmp_path):
    films = {f"ok{number}": FILMS["s0"] for number in range(40)} | {f"bad{number}": [b"junk"] for number in range(12)}
    assert night(films, reference="before", compare=lambda *_: DRIFT) == 3
    assert accounts(tmp_path)[0]["steps"] == {"index": 0, "score": 3, "compare": DRIFT}


def test_a_night_without_a_place_for_its_table_is_refused(small):
    with pytest.raises(ConfigError, match=r"ends in \.parquet"):
        NightlyConfig(archive="a", studies="tables", out="o", models=(small.url,))


def test_a_reference_is_never_ignored(night):
    with pytest.raises(ConfigError, match="nothing to compare"):
        night(FILMS, reference="before")

"""A scoring job that is killed, again and again, loses no study and doubles none."""

import subprocess
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from builders import classifier, nih_table, segmenter
from processes import finish, kill_when, start, wait_until

from cxrpipe.records import read_scores
from cxrpipe.study_table import StudyTable

pytestmark = [pytest.mark.slow, pytest.mark.ray]

STUDIES = 600


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> StudyTable:
    return nih_table(tmp_path_factory.mktemp("archive"), studies=STUDIES, side_px=64)


@pytest.fixture(scope="module")
def command(table: StudyTable, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The job but for its --out: 600 studies in parts of ten."""
    folder = tmp_path_factory.mktemp("models")
    return [
        "jobs/score.py",
        f"--studies={table.url}",
        f"--models={classifier(folder / 'a', seed=1).url},{classifier(folder / 'b', seed=2).url}",
        f"--segmenter={segmenter(folder / 'lungs').url}",
        "--batch-studies=5",
        "--part-studies=10",
    ]


def _parts(out: Path) -> list[Path]:
    return list(out.glob("runs/*/parts/*.parquet"))


def _assert_every_study_once(out: Path, table: StudyTable) -> None:
    published = [study_id for path in out.glob("scores/*/*.parquet") for study_id in _ids(path)]
    wanted = [study.study_id for study in table.studies()]
    assert sorted(published) == sorted(wanted)
    assert read_scores(str(out)).num_rows == len(wanted)
    assert len(list(out.glob("runs/*/run.json"))) == 1


def _ids(path: Path) -> list[str]:
    return pq.read_table(path, columns=["study_id"], partitioning=None)["study_id"].to_pylist()


def test_three_killed_drivers_lose_and_double_nothing(command: list[str], table: StudyTable, tmp_path: Path) -> None:
    for wanted in (5, 15, 30):
        process = start(*command, f"--out={tmp_path}")
        kill_when(process, lambda wanted=wanted: len(_parts(tmp_path)) >= wanted)
        assert not list(tmp_path.glob("runs/*/run.json"))
    status, output = finish(start(*command, f"--out={tmp_path}"))
    assert status == 0, output
    assert "done before" in output
    _assert_every_study_once(tmp_path, table)


@pytest.mark.parametrize("stage", ["_Preparer", "_Predictor"])
def test_a_killed_actor_costs_time_and_no_row(
    command: list[str], table: StudyTable, tmp_path: Path, stage: str
) -> None:
    process = start(*command, f"--out={tmp_path}")
    wait_until(process, lambda: bool(_actors_at_work(process, stage)))
    for actor in _actors_at_work(process, stage):
        actor.kill()
    status, output = finish(process)
    assert status == 0, output
    _assert_every_study_once(tmp_path, table)


def _actors_at_work(process: subprocess.Popen[str], stage: str) -> list[psutil.Process]:
    """Ray names a worker after what it does: `ray::MapWorker(MapBatches(_Preparer)).submit`."""
    return [child for child in psutil.Process(process.pid).children(recursive=True) if _does(child, stage)]


def _does(process: psutil.Process, stage: str) -> bool:
    try:
        return f"({stage})).submit" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def test_a_kill_while_publishing_is_repaired_by_the_next_run(
    command: list[str], table: StudyTable, tmp_path: Path
) -> None:
    process = start(*command, f"--out={tmp_path}")
    kill_when(process, lambda: len(_parts(tmp_path)) >= STUDIES // 10)
    for path in tmp_path.glob("scores/*/*"):  # as if it had died half way through writing
        path.write_bytes(path.read_bytes()[:100])
    half = _parts(tmp_path)[0]
    half.write_bytes(half.read_bytes()[:-10])
    status, output = finish(start(*command, f"--out={tmp_path}"))
    assert status == 0, output
    _assert_every_study_once(tmp_path, table)

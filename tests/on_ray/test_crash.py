"""A scoring job that is killed, again and again, loses no study and doubles none; on disk and on S3.

CXRPIPE_CRASHES=10 adds so many kills at random times. Nodes that die are in test_cluster.py.
"""

import itertools
import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from builders import nih_table, small_classifier
from processes import actors_at_work, finish, kill_when, start, wait_until

from cxrpipe import storage
from cxrpipe.records import complete_runs, read_scores
from cxrpipe.records.study_table import StudyTable

pytestmark = [pytest.mark.slow, pytest.mark.ray]

STUDIES = 800
CRASHES = int(os.environ.get("CXRPIPE_CRASHES", "0"))
on_request = pytest.mark.skipif(not CRASHES, reason="takes long; set CXRPIPE_CRASHES=10")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> StudyTable:
    return nih_table(tmp_path_factory.mktemp("archive"), studies=STUDIES, side_px=64)


@pytest.fixture(scope="module")
def command(table: StudyTable, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The job but for its --out: 800 studies in parts of ten, and a network that starts fast."""
    model = small_classifier(tmp_path_factory.mktemp("model") / "small")
    return [
        "jobs/score.py",
        f"--studies={table.url}",
        f"--models={model.url}",
        "--batch-studies=5",
        "--part-studies=10",
    ]


def _parts(out: str) -> list[str]:
    return [found.url for found in storage.listing(f"{out}/runs") if "/parts/" in found.url]


def _assert_every_study_once(out: str, table: StudyTable) -> None:
    wanted = [study.study_id for study in table.studies()]
    runs = complete_runs(out)
    (report,) = runs
    ids = [storage.read_table(url)["study_id"].to_pylist() for url in runs.files(report)]
    assert sorted(itertools.chain(*ids)) == sorted(wanted)
    assert read_scores(out).num_rows == len(wanted)
    for part in _parts(out):
        assert storage.read_table(part).num_rows > 0


def _kill_actor(process: subprocess.Popen[str], stage: str) -> None:
    wait_until(process, lambda: bool(actors_at_work(process, stage)))
    for actor in actors_at_work(process, stage):
        actor.kill()


def test_killed_drivers_and_actors_lose_and_double_nothing(
    command: list[str], table: StudyTable, tmp_path: Path
) -> None:
    out = str(tmp_path)
    for wanted in (10, 30):
        process = start(*command, f"--out={out}")
        kill_when(process, lambda wanted=wanted: len(_parts(out)) >= wanted)
        assert not complete_runs(out)
    process = start(*command, f"--out={out}")
    _kill_actor(process, "_Preparer")
    _kill_actor(process, "_Predictor")
    status, output = finish(process)
    assert status == 0, output
    assert "done before" in output
    _assert_every_study_once(out, table)


def test_a_driver_that_is_terminated_says_so_and_leaves_no_lock(
    command: list[str], table: StudyTable, tmp_path: Path
) -> None:
    out = str(tmp_path)
    process = start(*command, f"--out={out}")
    wait_until(process, lambda: len(_parts(out)) >= 10)
    process.send_signal(signal.SIGTERM)
    status, output = finish(process)
    assert (status, output.splitlines()[-1]) == (
        1,
        "cxrpipe score: interrupted; the same command goes on from here",
    )
    (lock,) = tmp_path.glob("lock/*")
    assert json.loads(lock.read_text())["released"]
    status, output = finish(start(*command, f"--out={out}"))
    assert status == 0, output
    assert "done before" in output
    _assert_every_study_once(out, table)


@pytest.mark.s3
def test_a_driver_killed_while_it_writes_to_s3_loses_and_doubles_nothing(
    command: list[str], table: StudyTable, bucket: str, s3_env: None
) -> None:
    out = f"s3://{bucket}/scores"
    process = start(*command, f"--out={out}")
    kill_when(process, lambda: len(_parts(out)) >= 20)
    status, output = finish(start(*command, f"--out={out}"))
    assert status == 0, output
    _assert_every_study_once(out, table)


def test_a_kill_while_publishing_is_repaired_by_the_next_run(
    command: list[str], table: StudyTable, tmp_path: Path
) -> None:
    out = str(tmp_path)
    process = start(*command, f"--out={out}")
    kill_when(process, lambda: len(_parts(out)) >= STUDIES // 10)
    for path in tmp_path.glob("scores/*/*"):  # as if it had died half way through writing
        path.write_bytes(path.read_bytes()[:100])
    half = Path(_parts(out)[0])
    half.write_bytes(half.read_bytes()[:-10])
    status, output = finish(start(*command, f"--out={out}"))
    assert status == 0, output
    _assert_every_study_once(out, table)


@on_request
def test_kills_at_random_times_lose_and_double_nothing(command: list[str], table: StudyTable, tmp_path: Path) -> None:
    out, chance = str(tmp_path), random.Random(0)
    for _ in range(CRASHES):
        process = start(*command, f"--out={out}")
        end = time.monotonic() + chance.uniform(2, 40)
        while time.monotonic() < end and process.poll() is None:
            time.sleep(0.05)
        process.kill()
        process.communicate()
    status, output = finish(start(*command, f"--out={out}"))
    assert status == 0, output
    _assert_every_study_once(out, table)

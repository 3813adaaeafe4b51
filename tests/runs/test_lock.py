"""One run at a time in a score root, on disk and on S3."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cxrpipe import storage
from cxrpipe.errors import LockError
from cxrpipe.runs import lock
from cxrpipe.runs.lock import locked


@pytest.fixture(params=["disk", pytest.param("s3", marks=pytest.mark.s3)])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "disk":
        return str(tmp_path)
    request.getfixturevalue("s3_env")
    return f"s3://{request.getfixturevalue('bucket')}/scores"


def _hold(root: str, **state: object) -> None:
    """As another process would leave it."""
    held = {"host": "elsewhere", "pid": 1, "beat": time.time(), "released": False} | state
    assert storage.write_new(f"{root}/lock/00000001.json", json.dumps(held).encode())


def test_a_held_lock_refuses_a_second_run(root: str) -> None:
    _hold(root)
    with pytest.raises(LockError, match="held by another run"), locked(root):
        pass


def test_a_released_lock_can_be_taken_again(root: str) -> None:
    for _ in range(2):
        with locked(root):
            pass


def test_a_lock_is_released_by_a_run_that_breaks(root: str) -> None:
    with pytest.raises(ZeroDivisionError), locked(root):
        1 / 0  # noqa: B018
    with locked(root):
        pass


def test_a_heart_that_stopped_long_ago_is_taken_over(root: str) -> None:
    _hold(root, beat=time.time() - lock.STALE_S - 1)
    with locked(root) as held:
        held.check()


def test_a_process_of_this_machine_that_is_gone_is_taken_over_at_once(root: str) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    _hold(root, host=lock.socket.gethostname(), pid=gone.pid)
    with locked(root):
        pass


def test_a_living_process_of_this_machine_is_not_taken_over(root: str) -> None:
    _hold(root, host=lock.socket.gethostname(), pid=os.getppid())
    with pytest.raises(LockError), locked(root):
        pass


@pytest.fixture
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "LOOK_EVERY_S", 0.05)


@pytest.mark.usefixtures("looks_often")
def test_who_may_wait_says_so_once_and_takes_the_lock_when_it_is_released(
    root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _hold(root)
    free = json.dumps({"host": "elsewhere", "pid": 1, "beat": time.time(), "released": True}).encode()
    release = threading.Timer(0.4, storage.write, (f"{root}/lock/00000001.json", free))
    release.start()
    with locked(root, wait_s=30) as held:
        held.check()
    release.join()
    assert " ".join(capsys.readouterr().err.split()).count("process 1 on elsewhere") == 1


@pytest.mark.usefixtures("looks_often")
def test_who_may_wait_takes_over_a_run_that_was_killed(root: str) -> None:
    _hold(root, beat=time.time() - lock.STALE_S + 0.3)
    with pytest.raises(LockError), locked(root):
        pass
    with locked(root, wait_s=30) as held:
        held.check()


@pytest.mark.usefixtures("looks_often")
def test_who_has_waited_long_enough_is_refused(root: str) -> None:
    _hold(root)
    start = time.monotonic()
    with pytest.raises(LockError, match="held by another run") as refused, locked(root, wait_s=0.3):
        pass
    assert 0.3 <= time.monotonic() - start < 10
    assert refused.value.exit_status == 4


def test_who_was_taken_over_may_not_publish(root: str) -> None:
    with locked(root) as held:
        storage.write_new(f"{root}/lock/00000002.json", b"{}")
        with pytest.raises(LockError, match="taken over"):
            held.check()


def test_of_many_who_try_at_once_one_gets_the_lock(root: str) -> None:
    got, refused, barrier = [], [], threading.Barrier(8)

    def attempt() -> None:
        barrier.wait()
        try:
            got.append(lock._take(root))
        except LockError as error:
            refused.append(error)

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1
    assert len(refused) == 7


def test_the_heart_beats(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT_S", 0.05)
    with locked(root):
        first = json.loads(storage.read(f"{root}/lock/00000001.json"))["beat"]
        end = time.monotonic() + 5
        while json.loads(storage.read(f"{root}/lock/00000001.json"))["beat"] == first:
            assert time.monotonic() < end
            time.sleep(0.02)

"""What kills or hangs its process costs one answer, and neither the caller nor the next call."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import decoders
import psutil
import pytest
from processes import ROOT

from cxrpipe.errors import RunError, StudyError
from cxrpipe.images.isolation import Isolated
from cxrpipe.scoring.faults import ForeignError


@pytest.fixture(scope="module")
def isolated() -> Iterator[Isolated[int]]:
    with Isolated(decoders.obey, timeout_s=60) as made:
        yield made


def reason_of(isolated: Isolated[int], data: bytes) -> tuple[str, str]:
    with pytest.raises(StudyError) as caught:
        isolated(data, "a.png")
    return caught.value.reason, caught.value.detail


def test_a_call_runs_in_one_process_after_another_call_in_the_same(isolated):
    pids = {isolated(b"film", "a.png") for _ in range(3)}
    assert len(pids) == 1
    assert os.getpid() not in pids


@pytest.mark.parametrize(
    ("data", "how"),
    [
        (decoders.SEGFAULT, "was killed by SIGSEGV"),
        (decoders.KILL, "was killed by SIGKILL"),
        (decoders.EXIT, "exited with 3"),
        (decoders.ALLOCATE, "needs more memory"),
    ],
)
def test_what_kills_its_process_has_crashed_and_the_next_call_is_answered(isolated, data, how):
    reason, detail = reason_of(isolated, data)
    assert reason == "crashed"
    assert detail.startswith(f"a.png: its decoder {how}")
    assert isolated(b"film", "b.png") > 0


@pytest.mark.parametrize("data", [decoders.SLEEP, decoders.STUCK])
def test_what_takes_longer_than_the_limit_times_out_and_the_next_call_is_answered(data):
    with Isolated(decoders.obey, timeout_s=0.3) as hasty:
        assert reason_of(hasty, data) == ("timeout", "a.png: not decoded within 0.3 s")
        assert hasty(b"film", "b.png") > 0


def test_a_process_that_dies_once_is_no_fault_of_the_file(tmp_path):
    with Isolated(decoders.die_the_first_time, timeout_s=60) as unlucky:
        assert unlucky(str(tmp_path / "was_here").encode(), "a.png") > 0


def test_a_process_that_was_killed_between_two_calls_is_replaced(isolated):
    os.kill(isolated(b"film", "a.png"), signal.SIGKILL)
    assert isolated(b"film", "a.png") > 0


def test_a_bug_is_raised_here_with_its_kind_and_the_place_where_it_was(isolated):
    with pytest.raises(ForeignError) as caught:
        isolated(decoders.BUG, "a.png")
    fault = caught.value.fault
    assert fault.kind.startswith("ZeroDivisionError at decoders.py:")
    assert "in obey" in fault.traceback
    assert "a.png" in fault.traceback
    assert "a.png" not in fault.kind + fault.code


def test_an_interrupt_does_not_reach_the_processes():
    with Isolated(decoders.interrupt, timeout_s=60) as busy:
        assert busy(b"film", "a.png") == b"film"


def test_threads_share_as_many_processes_as_are_allowed():
    with Isolated(decoders.obey, timeout_s=60, children=2) as two, ThreadPoolExecutor(4) as threads:
        pids = set(threads.map(lambda number: two(b"film", str(number)), range(40)))
    assert len(pids) <= 2
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_a_process_that_cannot_start_is_no_fault_of_a_file(tmp_path, monkeypatch, capfd):
    (tmp_path / "only_here.py").write_text("def decode(data, name): return data")
    with monkeypatch.context() as patched:
        patched.syspath_prepend(tmp_path)
        from only_here import decode
    with Isolated(decode, timeout_s=60) as broken, pytest.raises(RunError, match="does not start"):
        broken(b"film", "a.png")
    assert "only_here" in capfd.readouterr().err


_PARENT = """
import decoders, sys, threading
from cxrpipe.images.isolation import Isolated
isolated = Isolated(decoders.obey, timeout_s=3)
print(isolated(b"film", "a.png"), flush=True)
isolated(sys.argv[1].encode(), "b.png") if sys.argv[1] else threading.Event().wait()
"""


@pytest.mark.parametrize("data", [b"", decoders.STUCK], ids=["idle", "stuck"])
def test_a_process_does_not_outlive_a_parent_that_was_killed(data):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    parent = subprocess.Popen([sys.executable, "-c", _PARENT, data], stdout=subprocess.PIPE, env=environment)
    child = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    end = time.monotonic() + 60
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end
        time.sleep(0.02)

"""What kills or hangs its process costs one answer, and neither the caller nor the next call."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import decoders
import numpy as np
import psutil
import pytest
from builders import jpeg, png, radiograph
from dicoms import dicom
from processes import ROOT

from cxrpipe.errors import RunError, StudyError
from cxrpipe.images import isolation
from cxrpipe.images.isolation import DecoderError, Isolated
from cxrpipe.images.letterbox import Preparation
from cxrpipe.images.squares import Decoded, decode_view

TWO = (Preparation("voi", 32), Preparation("mimic_v2", 50))


@pytest.fixture(scope="module")
def isolated() -> Iterator[Isolated]:
    with Isolated(decoders.obey, timeout_s=60) as made:
        yield made


@pytest.fixture(scope="module")
def real() -> Iterator[Isolated]:
    with Isolated(decode_view, timeout_s=60) as made:
        yield made


def reason_of(isolated: Isolated, data: bytes) -> tuple[str, str]:
    with pytest.raises(StudyError) as caught:
        isolated(data, "a.png", ())
    return caught.value.reason, caught.value.detail


def outcome(decode: Callable[..., Decoded], data: bytes) -> tuple:
    """What is decoded, or why nothing is."""
    try:
        decoded = decode(data, "a.png", TWO)
    except StudyError as error:
        return error.reason, error.detail
    return *decoded._replace(squares={}), {key: square.tolist() for key, square in decoded.squares.items()}


@pytest.mark.parametrize(
    "data",
    [png(radiograph()), jpeg(radiograph()), dicom(radiograph()), png(np.full((40, 40), 7, np.uint8)), b"", b"GIF89a"],
    ids=["png", "jpeg", "dicom", "blank", "empty", "gif"],
)
def test_the_answer_is_that_of_the_decoder_in_this_process(real, data):
    assert outcome(real, data) == outcome(decode_view, data)


@pytest.mark.parametrize("folder", ["dicom", "bad"])
def test_the_answer_for_real_files_is_that_of_the_decoder_in_this_process(real, real_data, folder):
    paths = [path for path in sorted((real_data / folder).iterdir()) if path.is_file()]
    assert len(paths) > 5
    for path in paths:
        assert outcome(real, path.read_bytes()) == outcome(decode_view, path.read_bytes()), path


def test_flags_come_with_the_pixels():
    with Isolated(decoders.flag, timeout_s=60) as flagging:
        assert flagging(png(radiograph()), "a.png", TWO).flags == decoders.FLAGS


def test_a_call_runs_in_one_process_after_another_call_in_the_same(isolated):
    pids = {isolated(b"film", "a.png", ()).rows_px for _ in range(3)}
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
    assert isolated(b"film", "b.png", ()).rows_px > 0


@pytest.mark.parametrize("data", [decoders.SLEEP, decoders.STUCK])
def test_what_takes_longer_than_the_limit_times_out_and_the_next_call_is_answered(data):
    with Isolated(decoders.obey, timeout_s=0.3) as hasty:
        assert reason_of(hasty, data) == ("timeout", "a.png: not decoded within 0.3 s")
        assert hasty(b"film", "b.png", ()).rows_px > 0


def test_a_decoder_that_turns_its_alarm_off_is_ended_by_its_parent(monkeypatch):
    monkeypatch.setattr(isolation, "GRACE_S", 0.2)
    before = psutil.Process().children()
    with Isolated(decoders.ignore_the_alarm, timeout_s=0.3) as stubborn:
        assert reason_of(stubborn, b"film") == ("timeout", "a.png: not decoded within 0.3 s")
        assert psutil.Process().children() == before


def test_a_decoder_that_closes_its_pipe_and_lives_on_has_crashed(monkeypatch):
    monkeypatch.setattr(isolation, "_LAST_WORDS_S", 0.2)
    before = psutil.Process().children()
    with Isolated(decoders.hang_up, timeout_s=60) as mute:
        assert reason_of(mute, b"film")[1].startswith("a.png: its decoder closed its pipe")
        assert psutil.Process().children() == before


def test_a_process_that_dies_once_is_no_fault_of_the_file():
    with Isolated(decoders.obey, timeout_s=60) as unlucky, ThreadPoolExecutor(1) as thread:
        first = unlucky(b"film", "a.png", ()).rows_px
        os.kill(first, signal.SIGSTOP)  # so that it takes the question, and does not answer
        answer = thread.submit(unlucky, b"film", "a.png", ())
        os.kill(first, signal.SIGKILL)
        assert answer.result().rows_px not in (first, 0)


def test_a_bug_is_raised_with_its_kind_and_the_place_where_it_was(isolated):
    with pytest.raises(DecoderError) as caught:
        isolated(decoders.BUG, "a.png", ())
    assert str(caught.value) == "ZeroDivisionError: a.png"
    assert caught.value.kind == "ZeroDivisionError"
    assert "in obey" in caught.value.__notes__[0]
    assert isolated(b"film", "b.png", ()).rows_px > 0


def test_an_interrupt_does_not_reach_the_processes():
    with Isolated(decoders.interrupt, timeout_s=60) as busy:
        assert busy(b"film", "a.png", ()).rows_px > 0


def test_what_a_decoder_prints_is_dropped(capfd):
    with Isolated(decoders.chatter, timeout_s=60) as loud:
        assert loud(b"film", "a.png", ()).rows_px > 0
    assert capfd.readouterr() == ("", "")


def test_threads_share_as_many_processes_as_are_allowed():
    with Isolated(decoders.obey, timeout_s=60, children=2) as two, ThreadPoolExecutor(4) as threads:
        pids = {decoded.rows_px for decoded in threads.map(lambda number: two(b"film", str(number), ()), range(40))}
    assert len(pids) <= 2
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_a_process_that_cannot_start_is_no_fault_of_a_file(tmp_path, monkeypatch, capfd):
    (tmp_path / "only_here.py").write_text("def decode(data, name, preparations): return data")
    with monkeypatch.context() as patched:
        patched.syspath_prepend(tmp_path)
        from only_here import decode
    with Isolated(decode, timeout_s=60) as broken, pytest.raises(RunError, match="does not start"):
        broken(b"film", "a.png", ())
    assert "only_here" in capfd.readouterr().err


_PARENT = """
import decoders, sys, threading
from cxrpipe.images.isolation import Isolated
isolated = Isolated(decoders.obey, timeout_s=3)
print(isolated(b"film", "a.png", ()).rows_px, flush=True)
isolated(sys.argv[1].encode(), "b.png", ()) if sys.argv[1] else threading.Event().wait()
"""


@pytest.mark.parametrize("data", [b"", decoders.STUCK], ids=["idle", "stuck"])
def test_a_process_does_not_outlive_a_parent_that_was_killed(data):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "helpers")])}
    parent = subprocess.Popen([sys.executable, "-c", _PARENT, data], stdout=subprocess.PIPE, env=environment)
    child = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    end = time.monotonic() + 60
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end
        time.sleep(0.02)

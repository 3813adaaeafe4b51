"""Programs as processes of their own, to be watched, killed and run again."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]


def start(*argv: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """`python jobs/NAME.py …` in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, *argv],
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], timeout: float = 240) -> tuple[int, str]:
    """Exit status and all output; a process that outlives the timeout is killed, and the test fails."""
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        raise AssertionError(f"still running after {timeout} s:\n{output[-3000:]}") from None
    return process.returncode, output


def wait_until(process: subprocess.Popen[str], ready: Callable[[], bool], timeout: float = 180) -> None:
    """Returns as soon as `ready()`; a process that ends before, or never gets there, is killed, and the test fails."""
    end = time.monotonic() + timeout
    while not ready():
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            raise AssertionError(f"never became ready:\n{process.communicate()[0][-3000:]}")
        time.sleep(0.02)


def kill_when(process: subprocess.Popen[str], ready: Callable[[], bool], timeout: float = 180) -> None:
    """SIGKILL as soon as `ready()`; fails where the process ends before."""
    wait_until(process, ready, timeout)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def actors_at_work(process: subprocess.Popen[str], stage: str) -> list[psutil.Process]:
    """Ray names a worker after what it does: `ray::MapWorker(MapBatches(_Preparer)).submit`."""
    return [child for child in psutil.Process(process.pid).children(recursive=True) if _does(child, stage)]


def _does(process: psutil.Process, stage: str) -> bool:
    try:
        return f"({stage})).submit" in " ".join(process.cmdline())
    except psutil.Error:
        return False

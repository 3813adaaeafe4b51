"""Programs as processes of their own, to be watched, killed and run again."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent


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


def kill_when(process: subprocess.Popen[str], ready: Callable[[], bool], timeout: float = 180) -> None:
    """SIGKILL as soon as `ready()`; fails where the process ends before."""
    end = time.monotonic() + timeout
    while not ready():
        assert process.poll() is None, f"ended too early:\n{process.communicate()[0][-3000:]}"
        assert time.monotonic() < end, "never became ready"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()

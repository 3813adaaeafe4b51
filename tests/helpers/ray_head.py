"""A Ray head of our own that takes jobs, in a process of its own."""

import contextlib
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

from processes import ROOT
from s3server import free_port

BIN = Path(sys.executable).parent


@contextlib.contextmanager
def head() -> Iterator[Mapping[str, str]]:
    """Start a head with four logical CPUs; the environment in which `ray job submit` finds it.

    Its working folder is the repository, as that of a container is the folder of the image.
    """
    port, dashboard = free_port(), free_port()
    env = {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
    }
    command = [f"{BIN}/ray", "start", "--head", "--block", "--num-cpus=4", f"--port={port}"]
    # Without a port of its own the agent, which takes the jobs, gives way to that of any other Ray on this machine.
    command += [f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={free_port()}"]
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(env["RAY_API_SERVER_ADDRESS"] + "/api/version", process)
        yield env
    finally:
        process.terminate()  # --block ends all that it started
        process.wait(60)


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 90
    while True:
        try:
            urllib.request.urlopen(url, timeout=2).read()
            return
        except OSError:
            assert process.poll() is None, "the head node ended"
            assert time.monotonic() < end, f"{url} does not answer"
            time.sleep(0.5)

"""`ray start --head`, then `ray job submit`: the road of the README on a cluster of one machine."""

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders import FINDINGS
from processes import ROOT
from s3server import free_port

from cxrpipe.archives import synthetic
from cxrpipe.records import read_scores

pytestmark = [pytest.mark.slow, pytest.mark.ray]

BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    """A head node of our own; the environment that `ray job submit` needs."""
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
    head = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(env["RAY_API_SERVER_ADDRESS"] + "/api/version", head)
        yield env
    finally:
        head.terminate()  # --block ends all that it started
        head.wait(60)


def _wait_for(url: str, head: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 90
    while True:
        try:
            urllib.request.urlopen(url, timeout=2).read()
            return
        except OSError:
            assert head.poll() is None, "the head node ended"
            assert time.monotonic() < end, f"{url} does not answer"
            time.sleep(0.5)


def _submit(cluster: dict[str, str], *job: str) -> str:
    command = [f"{BIN}/ray", "job", "submit", "--working-dir", ".", "--", "python", *job]
    end = time.monotonic() + 90
    while True:
        done = subprocess.run(command, cwd=ROOT, env=cluster, capture_output=True, text=True, timeout=400)
        if "No available agent" not in done.stdout + done.stderr or time.monotonic() > end:
            break
        time.sleep(2)  # the head answers before its agent is there
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout


def test_a_submitted_training_and_scoring_succeed(cluster: dict[str, str], tmp_path: Path) -> None:
    archive = synthetic.write_nih(tmp_path / "nih", studies=60, side_px=64)
    trained = _submit(
        cluster,
        "jobs/train.py",
        "--task=classify",
        f"--archive={archive}",
        f"--out={tmp_path / 'model'}",
        "--arch=resnet18",
        "--side-px=32",
        "--epochs=1",
        "--batch-size=8",
        "--workers=2",
        f"--findings={','.join(FINDINGS)}",
    )
    assert "succeeded" in trained
    assert "epoch   1 of 1" in trained
    scored = _submit(
        cluster, "jobs/score.py", f"--archive={archive}", f"--models={tmp_path / 'model'}", f"--out={tmp_path / 'out'}"
    )
    assert "succeeded" in scored
    assert read_scores(str(tmp_path / "out")).num_rows == 60

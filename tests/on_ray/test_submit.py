"""`ray start --head`, then `ray job submit`: the road of the README on a cluster of one machine."""

import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from builders import FINDINGS
from processes import ROOT
from ray_head import BIN, head

from cxrpipe.archives import synthetic
from cxrpipe.records import read_scores

pytestmark = [pytest.mark.slow, pytest.mark.ray]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Mapping[str, str]]:
    """The environment in which `ray job submit` finds a head of our own."""
    with head() as env:
        yield env


def _submit(cluster: Mapping[str, str], *job: str) -> str:
    command = [f"{BIN}/ray", "job", "submit", "--working-dir", ".", "--", "python", *job]
    end = time.monotonic() + 90
    while True:
        done = subprocess.run(command, cwd=ROOT, env=cluster, capture_output=True, text=True, timeout=400)
        if "No available agent" not in done.stdout + done.stderr or time.monotonic() > end:
            break
        time.sleep(2)  # the head answers before its agent is there
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout


def test_a_submitted_training_and_scoring_succeed(cluster: Mapping[str, str], tmp_path: Path) -> None:
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

"""The line of KubeRay's submitter on a real Ray: the job that it starts, and what Ray says of a job that fails."""

import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from kuberay import rayjobs, submitter_line
from ray.job_submission import JobInfo, JobStatus, JobSubmissionClient
from ray_head import head
from test_kuberay import FAILED

from cxrpipe.archives import synthetic
from cxrpipe.models.folder import ModelFolder
from cxrpipe.records import read_scores

pytestmark = [pytest.mark.slow, pytest.mark.ray]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Mapping[str, str]]:
    with head() as env:
        yield env


@pytest.fixture
def entrypoint(tmp_path: Path, small: ModelFolder) -> str:
    """That of the manifest, for an archive on this disk and without the pools of a cluster."""
    synthetic.write_nih(tmp_path / "cxr", studies=12, side_px=64)
    words = re.sub(r" --resources\.\S+ \S+", "", rayjobs()["score"]["spec"]["entrypoint"])
    return words.replace("s3://BUCKET/models/a", small.url).replace("s3://BUCKET", str(tmp_path))


def submit(cluster: Mapping[str, str], job_id: str, entrypoint: str) -> JobInfo:
    """Run the line; what Ray says of the job when it has ended."""
    rayjob = rayjobs()["score"]
    rayjob["spec"]["entrypoint"] = entrypoint
    address = cluster["RAY_API_SERVER_ADDRESS"]
    end = time.monotonic() + 120
    while True:
        line = submitter_line(rayjob, address, job_id)
        done = subprocess.run(
            ["/bin/bash", "-ce", "--", line], env=cluster, capture_output=True, text=True, timeout=400
        )
        if "No available agent" not in done.stdout + done.stderr or time.monotonic() > end:
            break
        time.sleep(2)  # the head answers before its agent is there
    client = JobSubmissionClient(address)
    while not (job := client.get_job_info(job_id)).status.is_terminal() and time.monotonic() < end:
        time.sleep(0.5)
    assert job.status.is_terminal(), done.stdout[-2000:] + done.stderr[-2000:]
    return job


def test_the_entrypoint_scores_an_archive_in_the_folder_of_the_image(
    cluster: Mapping[str, str], entrypoint: str, tmp_path: Path
) -> None:
    job = submit(cluster, "whole", entrypoint)
    assert job.status == JobStatus.SUCCEEDED, job.message
    assert read_scores(str(tmp_path / "scores")).num_rows == 12


def test_a_refused_job_fails_and_its_message_begins_with_the_exact_status(
    cluster: Mapping[str, str], entrypoint: str
) -> None:
    job = submit(cluster, "refused", f"{entrypoint} --limit -1")
    assert job.status == JobStatus.FAILED
    assert job.message.startswith(f"{FAILED} 2, last available logs")

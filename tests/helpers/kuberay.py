"""The RayJobs in deploy/kuberay/, and what KubeRay makes of an entrypoint."""

import json
import re
import subprocess
from typing import Any

import yaml
from pages import commands
from processes import ROOT

KUBERAY = ROOT / "deploy" / "kuberay"
HEADING = "Kubernetes: from nothing to a scored archive"
ADDRESS, JOB_ID = "http://head:8265", "cxrpipe-1"


def rayjobs() -> dict[str, dict[str, Any]]:
    """The scoring job, the training job, and the nightly one that the page makes of the first."""
    (sed,) = re.findall(
        r"^(sed -e .* deploy/kuberay/rayjob\.yaml) \|", "\n".join(commands("operate.md", HEADING)), re.M
    )
    nightly = subprocess.run(
        sed, shell=True, cwd=ROOT, env={"BUCKET": "BUCKET"}, capture_output=True, text=True, check=True
    )
    return {
        "score": yaml.safe_load((KUBERAY / "rayjob.yaml").read_text()),
        "train": yaml.safe_load((KUBERAY / "train.yaml").read_text()),
        "nightly": yaml.safe_load(nightly.stdout),
    }


def submitter_line(rayjob: dict[str, Any], address: str = ADDRESS, job_id: str = JOB_ID) -> str:
    """The shell line of the submitter's pod, which KubeRay runs with `/bin/bash -ce --`.

    As in KubeRay 1.7.0: `BuildJobSubmitCommand` (ray-operator/controllers/ray/common/job.go) for K8sJobMode, joined
    with blanks by `configureSubmitterContainer` (rayjob_controller.go). 1.6 has no wait loop.
    """
    spec = rayjob["spec"]
    health = (
        f"python -c \"import urllib.request; r=urllib.request.urlopen('{address}/api/gcs_healthz', timeout=10); "
        "exit(0 if b'success' in r.read() else 1)\""
    )
    waiting = json.dumps(f"Waiting for Ray Dashboard GCS to become healthy at {address} ...")
    words = ["until", health, ">/dev/null", "2>&1", ";", "do", "echo", waiting, ";", "sleep", "2", ";", "done", ";"]
    words += ["if", "!", "ray", "job", "status", "--address", address, job_id, ">/dev/null", "2>&1", ";", "then"]
    words += ["ray", "job", "submit", "--address", address, "--no-wait"]
    if "runtimeEnvYAML" in spec:
        runtime_env = json.dumps(yaml.safe_load(spec["runtimeEnvYAML"]), separators=(",", ":"))
        words += ["--runtime-env-json", json.dumps(runtime_env)]  # Go's strconv.Quote, for plain text
    words += ["--submission-id", job_id, "--", spec["entrypoint"].strip(), ";", "fi", ";"]
    words += ["ray", "job", "logs", "--address", address, "--follow", job_id]
    return " ".join(words)

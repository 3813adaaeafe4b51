"""The whole road on an S3-speaking server: the same archive, the same probabilities."""

from pathlib import Path

import numpy as np
import pytest
from builders import FINDINGS, classifier, segmenter
from processes import finish, start
from s3server import S3Server

from cxrpipe import storage
from cxrpipe.archives import synthetic
from cxrpipe.config import ScoreConfig
from cxrpipe.programs.score import score_archive
from cxrpipe.records import read_scores
from cxrpipe.runs.engine import loop

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.s3]


@pytest.fixture
def on_both(s3_env: None, bucket: str, tmp_path: Path) -> tuple[str, str]:
    """One archive and three models, in a local folder and in a bucket."""
    synthetic.write_nih(tmp_path / "nih", studies=60, side_px=64)
    classifier(tmp_path / "a", seed=1)
    classifier(tmp_path / "b", seed=2, side_px=64)
    segmenter(tmp_path / "lungs")
    storage.upload(tmp_path, f"s3://{bucket}/data")
    return str(tmp_path), f"s3://{bucket}/data"


def test_an_archive_on_s3_scores_under_ray_as_on_disk_in_the_loop(
    on_both: tuple[str, str], s3_server: S3Server, scored_here: None
) -> None:
    disk, place = on_both
    config = ScoreConfig(
        archive=f"{disk}/nih",
        models=(f"{disk}/a", f"{disk}/b"),
        segmenter=(f"{disk}/lungs",),
        out=f"{disk}/out",
        precision="fp32",
    )
    assert score_archive(config, loop) == 0
    job = ["jobs/score.py", f"--archive={place}/nih", f"--models={place}/a,{place}/b", f"--segmenter={place}/lungs"]
    job += [f"--out={place}/out", "--part-studies=20", "--precision=fp32"]
    status, output = finish(start(*job, env=s3_server.env()))
    assert status == 0, output
    on_disk, on_s3 = tables = [read_scores(f"{there}/out").sort_by("study_id") for there in on_both]
    assert on_disk["study_id"] == on_s3["study_id"]
    assert set(on_s3["status"].to_pylist()) == {"ok"}
    for finding in FINDINGS:
        probs = [rows[f"prob_{finding}"].to_numpy() for rows in tables]
        np.testing.assert_allclose(*probs, atol=1e-5)
    assert on_disk["masks"] == on_s3["masks"]


def test_a_model_is_trained_from_and_to_s3(on_both: tuple[str, str], s3_server: S3Server) -> None:
    _, place = on_both
    job = ["jobs/train.py", "--task=classify", f"--archive={place}/nih", f"--out={place}/trained", "--arch=smallcnn"]
    job += ["--side-px=32", "--epochs=2", "--batch-size=8", f"--findings={','.join(FINDINGS)}"]
    status, output = finish(start(*job, env=s3_server.env()))
    assert status == 0, output
    names = [found.url.removeprefix(f"{place}/trained/") for found in storage.listing(f"{place}/trained")]
    assert names == ["card.json", "confusion.png", "curves.png", "history.csv", "model.safetensors", "roc.png"]

"""A scoring job on Ray whose store goes away, or whose credentials expire, ends with status 1 and is resumed."""

from pathlib import Path

import pytest
from builders import nih_table, small_classifier
from faults import RESET, FaultyProxy, after_parts, refusal
from processes import finish, start
from s3server import S3Server

from cxrpipe import storage
from cxrpipe.records import read_scores

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.s3]

STUDIES = 120


@pytest.fixture
def place(s3_env: None, bucket: str, tmp_path: Path) -> str:
    nih_table(tmp_path, studies=STUDIES)
    storage.upload(tmp_path / "nih", f"s3://{bucket}/nih")
    return f"s3://{bucket}"


def test_a_job_whose_store_turns_away_ends_with_status_1_and_is_resumed_without_loss(
    place: str, s3_server: S3Server, tmp_path: Path
) -> None:
    model = small_classifier(tmp_path / "model").url
    job = ["jobs/score.py", f"--archive={place}/nih", f"--models={model}", f"--out={place}/out"]
    job += ["--batch-studies=5", "--part-studies=10"]
    with FaultyProxy(s3_server.endpoint) as proxy:
        env = s3_server.env() | {"AWS_ENDPOINT_URL": proxy.endpoint, "AWS_MAX_ATTEMPTS": "2"}
        for fault, parts in ((refusal(400, "ExpiredToken"), 3), (RESET, 2)):
            proxy.fail(fault, only=after_parts(parts))
            status, output = finish(start(*job, env=env))
            assert status == 1, output
            assert "cxrpipe score: s3://" in output
            assert "Traceback" not in output
            proxy.heal()
        status, output = finish(start(*job, env=env))
        assert status == 0, output
        assert "done before" in output
    ids = read_scores(f"{place}/out")["study_id"].to_pylist()
    assert len(ids) == len(set(ids)) == STUDIES

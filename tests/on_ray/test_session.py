"""Errors of our own come out of Ray as they went in."""

from pathlib import Path

import pytest
import ray
from builders import nih_table, small_classifier
from processes import finish, start
from s3server import free_port

from cxrpipe.errors import ConfigError, StoreError
from cxrpipe.on_ray import session

pytestmark = pytest.mark.ray


def test_our_own_error_comes_out_of_an_actor_as_it_was_raised(ray_local: None) -> None:
    def fail(batch: dict) -> dict:  # in here, so that it travels by value: workers cannot import this module
        raise StoreError("s3://b/k: no answer")

    with pytest.raises(StoreError, match=r"^s3://b/k: no answer$"), session.session():
        ray.data.range(3).map_batches(fail, batch_size=1).materialize()


def test_a_bug_in_an_actor_stays_a_bug(ray_local: None) -> None:
    with pytest.raises(ray.exceptions.RayTaskError, match="ZeroDivisionError"), session.session():
        ray.data.range(3).map_batches(lambda batch: 1 / 0, batch_size=1).materialize()


def test_what_does_not_fit_is_refused_and_does_not_wait(ray_local: None) -> None:
    with pytest.raises(ConfigError, match="needs 99 logical CPUs, and Ray has 4"):
        session.require_cpus(99, "this")


def test_a_cluster_that_does_not_answer_is_one_line_and_status_1(tmp_path: Path) -> None:
    job = ["jobs/score.py", f"--models={small_classifier(tmp_path / 'model').url}", f"--out={tmp_path / 'out'}"]
    table = nih_table(tmp_path, studies=4)
    nobody = {"RAY_ADDRESS": f"127.0.0.1:{free_port()}"}
    status, output = finish(start(*job, f"--studies={table.url}", env=nobody))
    assert status == 1, output
    assert "no Ray cluster answers" in output.splitlines()[-1]
    assert "Traceback" not in output

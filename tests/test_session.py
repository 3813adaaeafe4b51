"""Errors of our own come out of Ray as they went in."""

import pytest
import ray

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

"""Stages fit the machines: fixed on one, on several by label, elastic, and with room for the loss of one."""

from typing import Any

import pytest

from cxrpipe.config import Resources
from cxrpipe.errors import ConfigError
from cxrpipe.on_ray import sizing
from cxrpipe.on_ray.sizing import size


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch):
    """Pretend that Ray has these machines, each (CPUs, GPUs, role)."""

    def has(*machines: tuple[float, int, str | None]) -> None:
        nodes: list[dict[str, Any]] = [
            {"Alive": True, "Resources": {"CPU": cpus, "GPU": gpus}, "Labels": {"role": role} if role else {}}
            for cpus, gpus, role in machines
        ]
        monkeypatch.setattr(sizing.session.ray, "nodes", lambda: nodes)

    return has


def test_more_actors_than_cpus_are_refused_at_once(cluster):
    cluster((4, 0, None))
    with pytest.raises(ConfigError, match="logical CPUs"):
        size(Resources(preparers=50))


def test_the_stages_fit_into_the_smallest_session_together(cluster):
    cluster((4, 0, None))
    fixed = size(Resources())
    assert fixed.preparers.least_cpus + fixed.predictors.least_cpus <= 3.5
    assert not fixed.preparers.elastic
    assert "label_selector" not in fixed.preparers.options()


def test_a_machine_with_a_gpu_has_one_predictor_for_it_and_prepares_on_its_cpus(cluster):
    cluster((16, 1, None))
    sized = size(Resources())
    assert (sized.predictors.actors, sized.predictors.gpus, sized.predictors.cpus) == (1, 1.0, 0.0)
    assert sized.preparers.actors == 15


def test_labelled_machines_get_the_stage_of_their_label(cluster):
    cluster((0, 0, None), (16, 0, "preprocess"), (16, 0, "preprocess"), (8, 1, "predict"))
    sized = size(Resources())
    assert sized.preparers.options()["label_selector"] == {"role": "preprocess"}
    assert sized.predictors.options()["label_selector"] == {"role": "predict"}
    assert sized.preparers.actors == 15  # of 32 CPUs one machine's are left free


def test_labels_are_left_alone_where_any_machine_will_do(cluster):
    cluster((16, 0, "preprocess"), (8, 1, "predict"))
    assert "label_selector" not in size(Resources(placement="any")).preparers.options()


def test_a_label_that_no_machine_has_is_refused_unless_machines_will_come(cluster):
    cluster((8, 0, None))
    with pytest.raises(ConfigError, match="role=preprocess"):
        size(Resources(placement="labels"))
    sized = size(Resources(placement="labels", cpus=64, gpus=4))
    assert (sized.preparers.actors, sized.predictors.actors) == (63, 4)


def test_an_autoscaler_that_starts_from_a_head_without_cpus_is_given_pools_that_grow(cluster):
    cluster((0, 0, None))
    sized = size(Resources(cpus=256, gpus=4))
    assert sized.preparers.elastic
    assert sized.predictors.elastic
    assert (sized.predictors.actors, sized.predictors.gpus) == (4, 1.0)


def test_a_head_without_cpus_and_without_an_autoscaler_is_refused(cluster):
    cluster((0, 0, None))
    with pytest.raises(ConfigError, match="Ray has 0"):
        size(Resources())


def test_where_one_of_several_machines_dies_the_others_hold_all_actors(cluster):
    cluster((1, 0, None), (4, 0, None), (4, 0, None))
    sized = size(Resources())
    held = sum(pool.actors * pool.cpus for pool in (sized.preparers, sized.predictors))
    assert held <= 9 - 4 - 0.5
    assert sized.threads == 0  # each predictor all cores of its machine

"""Training on faked clusters: on GPUs where there are some or may be, refused where it can never fit."""

from typing import Any

import pytest

from cxrpipe.config import TrainConfig
from cxrpipe.config.train_sections import TrainResources
from cxrpipe.errors import ConfigError
from cxrpipe.on_ray import session
from cxrpipe.on_ray.placement import Placement, place

HEAD, CPU_NODE, GPU_NODE = (0, 0), (16, 0), (8, 1)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch):
    """Pretend that Ray has these machines, each (CPUs, GPUs)."""

    def has(*machines: tuple[float, int]) -> None:
        nodes: list[dict[str, Any]] = [
            {"Alive": True, "Resources": {"CPU": cpus, "GPU": gpus}, "Labels": {}} for cpus, gpus in machines
        ]
        monkeypatch.setattr(session.ray, "nodes", lambda: nodes)

    return has


def placed(workers: int = 1, cpus: int = 0, gpus: int = 0, **settings: Any) -> Placement:
    resources = TrainResources(cpus=cpus, gpus=gpus)
    return place(TrainConfig(task="classify", studies="t", out="o", workers=workers, resources=resources, **settings))


def test_a_cluster_at_rest_is_asked_for_the_gpus_that_may_come(cluster):
    cluster(HEAD)
    where = placed(workers=4, gpus=4)
    assert str(where) == "training with 4 workers on GPUs, as soon as the machines have come"
    scaling = where.scaling()
    assert (scaling.num_workers, scaling.use_gpu, scaling.total_resources) == (4, True, {"GPU": 4.0})


@pytest.mark.parametrize("there", [(CPU_NODE,), (CPU_NODE, GPU_NODE), (GPU_NODE,) * 4], ids=["none", "one", "all"])
def test_gpus_are_used_however_many_of_them_are_up(cluster, there):
    cluster(HEAD, *there)
    where = placed(workers=4, gpus=4)
    assert where.on_gpu
    assert where.wait_s == (600 if there == (GPU_NODE,) * 4 else 3600)
    assert where.missing_to_prepare() == []
    up = sum(gpus for _, gpus in there)
    assert where.missing_to_train() == ([f"{4 - up} GPUs more, to train"] if up < 4 else [])


def test_gpus_that_are_there_are_used_without_being_asked_for(cluster):
    cluster(HEAD, (0, 4), CPU_NODE)  # machines that offer GPUs alone
    assert str(placed(workers=4)) == "training with 4 workers on GPUs"


def test_cpus_are_never_chosen_in_silence(cluster):
    cluster(HEAD, CPU_NODE)
    said = str(placed(workers=2))
    assert said.startswith("training with 2 workers on CPUs")
    assert "no GPU is there; if some may come, say how many with --resources.gpus" in said
    assert str(placed(use_gpu="off")) == "training with one worker on a CPU"


@pytest.mark.parametrize(
    ("there", "asked", "said"),
    [
        ([HEAD], {"workers": 8, "gpus": 4}, "needs 8 GPUs, one each, and Ray has 0 GPUs of at most 4"),
        ([GPU_NODE], {"workers": 2}, "needs 2 GPUs, one each, and Ray has 1 GPUs; lower --workers"),
        ([CPU_NODE], {"use_gpu": "on"}, "needs 1 GPUs, one each, and Ray has 0 GPUs"),
        (
            [HEAD],
            {"workers": 4},
            "needs 5 logical CPUs, and Ray has 0 CPUs; lower --workers, or say with --resources.cpus",
        ),
        ([HEAD], {"workers": 16, "cpus": 16}, "needs 17 logical CPUs, and Ray has 0 CPUs of at most 16"),
        ([(0, 1)], {}, "needs 1 logical CPUs, and Ray has 0 CPUs"),
        ([GPU_NODE] * 2, {"workers": 16, "use_gpu": "off"}, "needs 17 logical CPUs, and Ray has 16 CPUs"),
    ],
)
def test_what_can_never_fit_is_refused_at_once(cluster, there, asked, said):
    cluster(*there)
    with pytest.raises(ConfigError, match=said):
        placed(**asked)


def test_cpus_that_may_come_are_counted_on(cluster):
    cluster(HEAD)
    where = placed(workers=4, cpus=32)
    assert (where.on_gpu, where.preparers, where.wait_s) == (False, 30, 3600)
    assert where.missing_to_prepare() == ["one with CPUs, to prepare images"]
    assert where.missing_to_train() == ["5 CPUs more, to train"]
    assert where.scaling().total_resources == {"CPU": 4.0}


def test_gpus_that_are_there_can_be_left_to_others(cluster):
    cluster(GPU_NODE, GPU_NODE)
    assert placed(workers=4, use_gpu="off").scaling().total_resources == {"CPU": 4.0}

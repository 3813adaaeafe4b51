"""Stages fit the machines: on one, on several by label, on those that will come, and with room for the loss of one."""

from typing import Any

import pytest

from cxrpipe.config import Resources
from cxrpipe.errors import ConfigError
from cxrpipe.on_ray import sizing
from cxrpipe.on_ray.sizing import Sizing, size

Declared = tuple[float, int, str | None]
"""Logical CPUs, GPUs and label `role` of a machine."""
HEAD: Declared = (0, 0, None)
CPU_MACHINE, PREPARING, PREDICTING = (16, 0, None), (16, 0, "preprocess"), (8, 1, "predict")
MANY = 1_000_000


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch):
    """Pretend that a Ray cluster has these machines."""

    def has(*machines: Declared) -> None:
        nodes: list[dict[str, Any]] = [
            {"Alive": True, "Resources": {"CPU": cpus, "GPU": gpus}, "Labels": {"role": role} if role else {}}
            for cpus, gpus, role in machines
        ]
        monkeypatch.setattr(sizing.session.ray, "nodes", lambda: nodes)

    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    return has


@pytest.fixture
def this_machine(cluster, monkeypatch: pytest.MonkeyPatch):
    """Pretend that Ray was started here, on so many cores."""

    def has(cores: int, gpus: int = 0) -> None:
        cluster((max(4, cores + 2), gpus, None))  # as the session declares them
        monkeypatch.setattr(sizing, "machine_cores", lambda: cores)
        monkeypatch.delenv("RAY_ADDRESS")

    return has


def decoding(sized: Sizing) -> int:
    """Processes that decode at the same time, on all machines."""
    return sized.preparers.actors * sized.decoders


def held_cpus(sized: Sizing) -> float:
    """Logical CPUs of all actors, and of one task of each kind."""
    return sum(pool.actors * pool.cpus for pool in sized[:2]) + sizing.TASKS_CPU


@pytest.mark.parametrize(("cores", "decoders"), [(1, 1), (2, 2), (4, 4), (16, 16), (96, 96)])
def test_on_cpus_there_are_as_many_decoders_as_cores_and_predictors_that_share_them(this_machine, cores, decoders):
    this_machine(cores)
    sized = size(Resources(), MANY)
    predictors = min(cores, 2)
    assert decoding(sized) == decoders
    assert (sized.predictors.actors, sized.threads, sized.sharing) == (predictors, 0, predictors)
    assert held_cpus(sized) <= max(4, cores + 2)
    assert not sized.preparers.elastic
    assert "label_selector" not in sized.preparers.options()


def test_a_short_run_does_not_wait_for_a_second_predictor(this_machine):
    this_machine(2)
    assert size(Resources(), 999).predictors.actors == 1
    sized = size(Resources(predictors=2), 999)
    assert (sized.predictors.actors, sized.threads, sized.sharing) == (2, 0, 2)
    assert held_cpus(sized) <= 4


@pytest.mark.parametrize("gpus", range(1, 9))
@pytest.mark.parametrize("cpus_for_each", [4, 16, 24])
@pytest.mark.parametrize("number", [1, 3])
def test_on_gpu_machines_each_gpu_has_a_predictor_and_cores_beside_it(cluster, gpus, cpus_for_each, number):
    cpus = gpus * cpus_for_each
    cluster(*[(cpus, gpus, None)] * number)
    sized = size(Resources(), MANY)
    assert sized.predictors == (gpus * number, 0.0, 1.0, gpus * number, (), 2)
    assert (sized.threads, sized.block_studies) == (2, 128)
    kept = max(sizing.TASKS_CPU, number * min(3 * gpus, cpus / 4))
    assert kept <= number * cpus - decoding(sized) < kept + 2  # so many stay free, and no core idles
    assert sized.preparers.cpus == sized.decoders
    assert not any(pool.elastic for pool in sized[:2])


def test_gpu_machines_that_are_labelled_prepare_where_that_makes_more_decoders(cluster):
    cluster(HEAD, PREPARING, (192, 8, "predict"))
    sized = size(Resources(), MANY)
    assert sized.preparers.options()["label_selector"] == {"role": "in(preprocess,predict)"}
    assert sized.predictors.options()["label_selector"] == {"role": "predict"}
    assert 180 <= decoding(sized) <= 16 + 192 - 3 * 8


def test_small_gpu_machines_beside_a_labelled_pool_only_predict(cluster):
    cluster(HEAD, PREPARING, PREPARING, PREDICTING)
    sized = size(Resources(), MANY)
    assert sized.preparers.options()["label_selector"] == {"role": "preprocess"}
    assert sized.preparers.actors * sized.preparers.cpus <= 16  # of 32 CPUs one machine's are left free
    assert decoding(sized) == 30


def test_networks_on_cpus_keep_the_cores_of_their_machines(cluster):
    cluster(HEAD, (8, 0, "preprocess"), (64, 0, "predict"))
    assert size(Resources(), MANY).preparers.roles == ("preprocess",)


def test_labels_are_left_alone_where_any_machine_will_do(cluster):
    cluster(PREPARING, PREDICTING)
    assert "label_selector" not in size(Resources(placement="any"), MANY).preparers.options()


@pytest.mark.parametrize("gpus", range(1, 9))
@pytest.mark.parametrize("placement", ["labels", "any"])
def test_pools_for_machines_that_will_come_start_with_one_actor(cluster, gpus, placement):
    cluster(HEAD)
    sized = size(Resources(placement=placement, cpus=64, gpus=gpus), MANY)
    assert (sized.preparers.at_start, sized.preparers.actors, sized.decoders) == (1, 31, 2)
    assert (sized.predictors.at_start, sized.predictors.actors, sized.predictors.gpus) == (1, gpus, 1.0)
    assert sized.wait_s == 3600
    strategy = sized.preparers.options()["compute"]
    assert (strategy.min_size, strategy.initial_size, strategy.max_size) == (1, 1, 31)


def test_pools_start_with_the_machines_that_are_up_and_may_grow_to_the_others(cluster):
    cluster(HEAD, PREPARING, PREDICTING, PREDICTING)
    sized = size(Resources(cpus=64, gpus=4), MANY)
    assert (sized.preparers.at_start, sized.preparers.actors) == (7, 31)
    assert (sized.predictors.at_start, sized.predictors.actors) == (2, 4)


def test_pools_have_their_full_size_where_all_machines_are_up(cluster):
    cluster(HEAD, *[PREPARING] * 4, *[PREDICTING] * 4)
    sized = size(Resources(cpus=64, gpus=4), MANY)
    assert not any(pool.elastic for pool in sized[:2])
    assert sized.wait_s == 600


def test_a_pool_that_may_grow_can_reach_the_use_at_which_ray_enlarges_it(cluster):
    cluster(HEAD)
    for pool in size(Resources(cpus=64, gpus=4), MANY)[:2]:
        strategy = pool.options()["compute"]
        assert strategy.max_tasks_in_flight_per_actor / strategy.max_concurrent_calls_per_actor >= 1.75


@pytest.mark.parametrize(
    ("gpus", "predictors", "share"), [(2, 3, 1 / 2), (2, 4, 1 / 2), (2, 5, 1 / 3), (8, 3, 1), (1, 3, 1 / 3)]
)
def test_predictors_share_gpus_so_that_all_can_start(cluster, gpus, predictors, share):
    cluster((16, gpus, None))
    pool = size(Resources(predictors=predictors), MANY).predictors
    assert pool.gpus == share
    assert gpus * int(1 / share) >= predictors


@pytest.mark.parametrize(
    "machines",
    [[3, 3], [1, 4, 4], [4, 4], [16, 16], [16] * 16, [8, 32, 32]],
    ids=lambda cpus: f"{cpus[-1]}x{len(cpus)}",
)
def test_where_one_of_several_cpu_machines_dies_the_others_hold_all_actors(cluster, machines):
    cluster(HEAD, *[(cpus, 0, None) for cpus in machines])
    sized = size(Resources(), MANY)
    assert held_cpus(sized) <= sum(machines) - max(machines)
    assert sized.predictors.actors == len(machines)
    assert decoding(sized) > sum(machines) / 2  # they hold fewer logical CPUs, and use the cores all the same
    assert not sized.preparers.elastic


def test_actors_fit_on_machines_of_one_cpu(cluster):
    cluster(*[(1, 0, None)] * 8)
    assert size(Resources(), MANY).preparers.cpus <= 1


@pytest.mark.parametrize(
    ("machines", "asked", "message"),
    [
        ([HEAD], Resources(), "needs 2 logical CPUs, and Ray has 0"),
        ([(4, 0, None)], Resources(preparers=50), "50 preparers .* logical CPUs"),
        ([(8, 0, None)], Resources(placement="labels"), "no machine is labelled role=preprocess"),
        ([PREPARING], Resources(placement="labels"), "no machine is labelled role=predict"),
        (
            [(1, 0, "preprocess"), (8, 0, "predict")],
            Resources(preparers=4),
            "labelled role=preprocess needs 4 logical CPUs",
        ),
    ],
)
def test_what_can_never_fit_is_refused_at_once(cluster, machines, asked, message):
    cluster(*machines)
    with pytest.raises(ConfigError, match=message):
        size(asked, MANY)


@pytest.mark.parametrize(
    ("machine", "studies", "asked", "expected"),
    [
        ((4, 0, None), MANY, 0, 64),
        ((16, 1, None), MANY, 0, 128),
        ((16, 1, None), MANY, 48, 48),
        ((4, 0, None), 40, 0, 20),
        ((4, 0, None), 3, 0, 8),
        ((16, 1, None), 600, 0, 50),  # six preparers get two blocks each
    ],
)
def test_blocks_suit_the_device_and_are_smaller_in_a_short_run(cluster, machine, studies, asked, expected):
    cluster(machine)
    assert size(Resources(), studies, asked).block_studies == expected


def test_what_is_missing_is_named_until_it_comes(cluster):
    cluster(HEAD)
    sized = size(Resources(placement="labels", cpus=64, gpus=4, wait_s=90), MANY)
    assert sized.wait_s == 90
    assert sized.missing() == [
        "one with 2 CPUs and the label role=preprocess, to prepare",
        "one with 1 GPU and the label role=predict, to predict",
    ]
    cluster(HEAD, PREPARING, (8, 0, "predict"), (8, 1, None))
    assert sized.missing() == ["one with 1 GPU and the label role=predict, to predict"]
    cluster(HEAD, PREPARING, PREDICTING)
    assert sized.missing() == []

"""cluster.yaml passes Ray's own checks and holds what we rely on. Offline: nothing here asks AWS."""

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import botocore.session
import pytest
import yaml
from botocore.validate import ParamValidator
from pages import commands
from ray.autoscaler._private.util import prepare_config, validate_config

from cxrpipe.cli import parse

CLUSTER_YAML = Path(__file__).resolve().parents[2] / "cluster.yaml"
COMMAND_LISTS = [
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
]
WORKERS = ["preprocess", "predict"]


@pytest.fixture
def written() -> dict[str, Any]:
    """The file as it stands."""
    return yaml.safe_load(CLUSTER_YAML.read_text())


@pytest.fixture
def cluster(written: dict[str, Any]) -> dict[str, Any]:
    """The file as `ray up` sees it: merged with Ray's defaults for AWS."""
    return prepare_config(written)


def test_ray_accepts_the_file(cluster: dict[str, Any]) -> None:
    validate_config(cluster)


def test_ec2_knows_every_setting_of_every_machine(cluster: dict[str, Any]) -> None:
    request = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    for node_type in cluster["available_node_types"].values():
        settings = node_type["node_config"] | {"MinCount": 1, "MaxCount": 1}
        settings.pop("SubnetIds", None)  # Ray's own: it picks one of them
        assert ParamValidator().validate(settings, request).generate_report() == ""


def test_the_head_runs_no_work_and_cannot_be_reclaimed(cluster: dict[str, Any]) -> None:
    head = cluster["available_node_types"][cluster["head_node_type"]]
    assert head["resources"] == {"CPU": 0}
    assert head["max_workers"] == 0
    assert "InstanceMarketOptions" not in head["node_config"]


def test_the_head_and_the_two_pools_are_all_there_is(cluster: dict[str, Any]) -> None:
    assert set(cluster["available_node_types"]) == {cluster["head_node_type"], *WORKERS}


@pytest.mark.parametrize("role", WORKERS)
def test_a_pool_is_spot_labelled_by_its_role_and_shrinks_to_nothing(cluster: dict[str, Any], role: str) -> None:
    pool = cluster["available_node_types"][role]
    assert pool["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert pool["labels"] == {"role": role}
    assert pool["min_workers"] == 0


def test_only_the_predict_pool_has_gpus(cluster: dict[str, Any]) -> None:
    with_gpus = [name for name, pool in cluster["available_node_types"].items() if pool["resources"].get("GPU")]
    assert with_gpus == ["predict"]


def test_machines_are_terminated_not_stopped(cluster: dict[str, Any]) -> None:
    assert cluster["provider"]["cache_stopped_nodes"] is False


def test_every_machine_names_its_image_and_its_rights(cluster: dict[str, Any]) -> None:
    for node_type in cluster["available_node_types"].values():
        assert node_type["node_config"]["ImageId"].startswith("ami-")
        assert node_type["node_config"]["IamInstanceProfile"]["Name"]


@pytest.mark.parametrize("name", COMMAND_LISTS)
def test_no_command_comes_from_rays_defaults(written: dict[str, Any], name: str) -> None:
    assert name in written


def test_ray_is_not_installed_from_a_nightly_wheel(cluster: dict[str, Any]) -> None:
    for name in COMMAND_LISTS:
        assert not [command for command in cluster[name] if "ray-wheels" in command or ".dev0" in command]


def setup(cluster: dict[str, Any], name: str) -> list[str]:
    """The setup commands of a node type: Ray takes its own list, where it has one, instead of the common ones."""
    common = "head_setup_commands" if name == cluster["head_node_type"] else "worker_setup_commands"
    return cluster["available_node_types"][name].get("worker_setup_commands", cluster[common])


@pytest.mark.parametrize("name", ["head", *WORKERS])
def test_every_machine_installs_the_project_within_its_constraints(cluster: dict[str, Any], name: str) -> None:
    installs = [command for command in setup(cluster, name) if command.startswith("pip install")]
    assert all("--constraint ~/cxrpipe-dist/constraints.txt" in install for install in installs)
    assert installs[-1].endswith("~/cxrpipe-dist/*.whl")
    assert cluster["file_mounts"]["~/cxrpipe-dist"] == "dist"


@pytest.mark.parametrize("name", ["head", *WORKERS])
def test_machines_without_a_gpu_take_a_torch_without_cuda(cluster: dict[str, Any], name: str) -> None:
    first = setup(cluster, name)[0]
    has_gpu = cluster["available_node_types"][name]["resources"].get("GPU", 0) > 0
    assert ("--no-deps" in first and "download.pytorch.org/whl/cpu torch torchvision" in first) != has_gpu


def test_a_gpu_machine_checks_its_driver_before_it_joins(cluster: dict[str, Any]) -> None:
    assert setup(cluster, "predict")[-1] == "python -m cxrpipe.models.gpu_check"
    assert find_spec("cxrpipe.models.gpu_check")


def test_every_container_holds_the_ray_that_we_pin(cluster: dict[str, Any]) -> None:
    node_types = cluster["available_node_types"].values()
    own = [node_type["docker"]["worker_image"] for node_type in node_types if "docker" in node_type]
    for image in [cluster["docker"]["image"], *own]:
        assert image.startswith(f"rayproject/ray:{version('ray')}-py311-")


def test_every_machine_asks_for_the_token_and_has_it(cluster: dict[str, Any]) -> None:
    assert "--env RAY_AUTH_MODE=token" in cluster["docker"]["run_options"]
    assert cluster["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


@pytest.mark.parametrize("name", ["head_start_ray_commands", "worker_start_ray_commands"])
def test_no_usage_is_reported_and_threads_follow_the_cpus_of_a_task(cluster: dict[str, Any], name: str) -> None:
    before_start, _ = cluster[name][-1].split("ray start")
    assert "export RAY_USAGE_STATS_ENABLED=0;" in before_start
    assert "unset OMP_NUM_THREADS;" in before_start


def test_the_zones_lie_in_the_region(cluster: dict[str, Any]) -> None:
    for zone in cluster["provider"]["availability_zone"].split(","):
        assert zone.startswith(cluster["provider"]["region"])


def test_clients_look_for_buckets_in_the_region_of_the_machines(cluster: dict[str, Any]) -> None:
    region = cluster["provider"]["region"]
    for variable in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        assert f"--env {variable}={region}" in cluster["docker"]["run_options"]


def jobs() -> dict[str, Any]:
    """The settings of every program that the page submits to the cluster."""
    lines = commands("operate.md", "AWS: from nothing to a scored archive")
    words = [line.partition("python jobs/")[2].split() for line in lines if "jobs/" in line]
    return {name.removesuffix(".py"): parse(name.removesuffix(".py"), rest) for name, *rest in words}


def test_the_submitted_commands_ask_for_what_the_pools_may_grow_to(cluster: dict[str, Any]) -> None:
    pools = cluster["available_node_types"]
    gpus = pools["predict"]["max_workers"] * pools["predict"]["resources"]["GPU"]
    score, train = jobs()["score"].resources, jobs()["train"]
    assert score.placement == "labels"
    assert score.cpus == pools["preprocess"]["max_workers"] * pools["preprocess"]["resources"]["CPU"]
    assert score.gpus == train.resources.gpus == train.workers == gpus

"""Training on a cluster whose GPUs are named and not there: where its workers go, and what a person is told."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders import nih_table
from processes import finish, start
from ray.cluster_utils import Cluster

pytestmark = [pytest.mark.slow, pytest.mark.ray]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head that does no work, a machine with CPUs, and two with a GPU and no CPU each."""
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes.add_node(num_cpus=3)
    for _ in range(2):
        nodes.add_node(num_cpus=0, num_gpus=1)
    yield nodes
    nodes.shutdown()


TRIES = """
import dataclasses, json, sys
import ray
from ray.util import placement_group_table

from cxrpipe.config import TrainConfig
from cxrpipe.config.train_sections import TrainResources
from cxrpipe.errors import CxrError
from cxrpipe.programs import train

told, studies, out = sys.argv[1:]
config = TrainConfig(task="classify", studies=studies, out=out, arch="smallcnn", findings=("Pneumonia",), side_px=32,
                     epochs=1, batch_size=4)
tries = {
    "never fits": {"workers": 8, "resources": TrainResources(gpus=4)},
    "on GPUs": {"workers": 2},
    "on CPUs": {"use_gpu": "off"},
}
ray.init(logging_level="ERROR", log_to_driver=False)
gpu_nodes = sorted(node["NodeID"] for node in ray.nodes() if node["Resources"].get("GPU"))
outcomes = {}
for name, settings in tries.items():
    before = set(placement_group_table())
    try:
        outcome = str(train.run(dataclasses.replace(config, **settings)))
    except CxrError as error:
        outcome = f"{type(error).__name__}: {error}"
    groups = [group for key, group in placement_group_table().items() if key not in before]
    outcomes[name] = {
        "outcome": outcome,
        "bundles": [list(group["bundles"].values()) for group in groups],
        "nodes": [sorted(group["bundles_to_node_id"].values()) for group in groups],
    }
json.dump({"gpu_nodes": gpu_nodes, **outcomes}, open(told, "w"))
"""


def test_workers_get_the_machines_with_gpus_and_never_train_on_cpus_instead(cluster: Cluster, tmp_path: Path) -> None:
    table, told = nih_table(tmp_path, studies=40), tmp_path / "told.json"
    words = ["-c", TRIES, str(told), table.url, str(tmp_path / "model")]
    status, output = finish(start(*words, env={"RAY_ADDRESS": cluster.address}), timeout=400)
    assert status == 0, output
    tries = json.loads(told.read_text())
    refused, on_gpus, on_cpus = (tries[name] for name in ("never fits", "on GPUs", "on CPUs"))
    assert (
        "ConfigError: training with 8 workers needs 8 GPUs, one each, and Ray has 2 GPUs of at most 4"
        in (refused["outcome"])
    )
    assert refused["bundles"] == []
    assert on_gpus["outcome"].startswith("RunError: the workers cannot use their GPUs (")
    assert "look with nvidia-smi" in on_gpus["outcome"]
    assert on_gpus["bundles"] == [[{"GPU": 1.0}] * 2]  # one attempt: the next would end likewise
    assert on_gpus["nodes"] == [tries["gpu_nodes"]]
    assert on_cpus["outcome"] == "0"
    assert on_cpus["bundles"] == [[{"CPU": 1.0}]]

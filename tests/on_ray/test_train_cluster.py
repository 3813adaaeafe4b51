"""Training on a cluster whose GPUs are named and not there: where its workers go, and what a person is told."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from builders import FINDINGS, nih_table
from ray.cluster_utils import Cluster
from ray.util import placement_group_table

from cxrpipe.config import TrainConfig
from cxrpipe.config.train_sections import TrainResources
from cxrpipe.errors import ConfigError, RunError
from cxrpipe.programs import train

pytestmark = [pytest.mark.slow, pytest.mark.ray]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head that does no work, a machine with CPUs, and two with a GPU and no CPU each."""
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes.add_node(num_cpus=3)
    for _ in range(2):
        nodes.add_node(num_cpus=0, num_gpus=1)
    monkeypatch.setenv("RAY_ADDRESS", nodes.address)
    ray.init(logging_level="ERROR", log_to_driver=False)
    yield nodes
    ray.shutdown()
    nodes.shutdown()


def test_workers_get_the_machines_with_gpus_and_never_train_on_cpus_instead(cluster: Cluster, tmp_path: Path) -> None:
    def config(**settings: Any) -> TrainConfig:
        return TrainConfig(
            task="classify",
            studies=table.url,
            out=str(tmp_path / "model"),
            arch="smallcnn",
            findings=FINDINGS[:1],
            side_px=32,
            epochs=1,
            batch_size=4,
            **settings,
        )

    table = nih_table(tmp_path, studies=40)
    with pytest.raises(ConfigError, match="needs 8 GPUs, one each, and Ray has 2 GPUs of at most 4"):
        train.run(config(workers=8, resources=TrainResources(gpus=4)))
    assert not placement_group_table()
    with pytest.raises(RunError, match=r"the workers cannot use their GPUs \(.*CUDA.*\); look with nvidia-smi"):
        train.run(config(workers=2))
    (group,) = placement_group_table().values()  # one attempt: the next would end likewise
    assert list(group["bundles"].values()) == [{"GPU": 1.0}] * 2
    with_gpu = {node["NodeID"] for node in ray.nodes() if node["Resources"].get("GPU")}
    assert set(group["bundles_to_node_id"].values()) == with_gpu
    assert train.run(config(use_gpu="off")) == 0

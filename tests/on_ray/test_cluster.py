"""Several machines: stages run where labels say, a machine that dies costs time and no row. All on this one machine."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders import nih_table, small_classifier
from processes import finish, start, wait_until
from ray.cluster_utils import Cluster

from cxrpipe.records import complete_runs, read_scores

pytestmark = [pytest.mark.slow, pytest.mark.ray]

STUDIES = 240


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head that does no work."""
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    yield nodes
    nodes.shutdown()


@pytest.fixture
def job(tmp_path: Path) -> list[str]:
    """240 studies in parts of ten."""
    table = nih_table(tmp_path, studies=STUDIES, side_px=64)
    model = small_classifier(tmp_path / "model")
    words = ["jobs/score.py", f"--studies={table.url}", f"--models={model.url}", f"--out={tmp_path / 'out'}"]
    return [*words, "--batch-studies=5", "--part-studies=10"]


def _assert_every_study_once(out: Path) -> None:
    ids = read_scores(str(out))["study_id"].to_pylist()
    assert len(ids) == len(set(ids)) == STUDIES
    (account,) = complete_runs(str(out))
    assert sum(account.counts.values()) == STUDIES


def test_a_node_that_dies_costs_time_and_no_row(job: list[str], tmp_path: Path, cluster: Cluster) -> None:
    cluster.add_node(num_cpus=3)
    doomed = cluster.add_node(num_cpus=3)
    process = start(*job, env={"RAY_ADDRESS": cluster.address})
    wait_until(process, lambda: len(list(tmp_path.glob("out/runs/*/parts/*"))) >= 3)
    cluster.remove_node(doomed, allow_graceful=False)
    status, output = finish(process, timeout=400)
    assert status == 0, output
    _assert_every_study_once(tmp_path / "out")


WHERE = """
import json, sys, threading, time
import ray, ray._private.state

from cxrpipe.cli import main

def watch():
    seen = {}
    while True:
        time.sleep(0.3)
        if ray.is_initialized():
            role = {node["NodeID"]: node["Labels"].get("role", "none") for node in ray.nodes()}
            for actor in ray._private.state.actors().values():
                if actor["State"] == "ALIVE":
                    seen.setdefault(actor["ActorClassName"], set()).add(role[actor["Address"]["NodeID"]])
            json.dump({name: sorted(roles) for name, roles in seen.items()}, open(sys.argv[1], "w"))

threading.Thread(target=watch, daemon=True).start()
main("score", sys.argv[2:])
"""


def test_actors_land_on_the_machines_that_are_labelled_for_them(
    job: list[str], tmp_path: Path, cluster: Cluster
) -> None:
    cluster.add_node(num_cpus=2, labels={"role": "preprocess"})
    cluster.add_node(num_cpus=2, labels={"role": "predict"})
    process = start("-c", WHERE, str(tmp_path / "seen.json"), *job[1:], env={"RAY_ADDRESS": cluster.address})
    status, output = finish(process, timeout=400)
    assert status == 0, output
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert {tuple(roles) for name, roles in seen.items() if "_Preparer" in name} == {("preprocess",)}, seen
    assert {tuple(roles) for name, roles in seen.items() if "_Predictor" in name} == {("predict",)}, seen
    _assert_every_study_once(tmp_path / "out")

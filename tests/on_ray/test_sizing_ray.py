"""What sizing rests on: calls in hand survive the death of their actor, and a run says which machines it waits for."""

import os
from pathlib import Path

import pytest
import ray
from builders import nih_table, small_classifier
from processes import finish, start, wait_until
from ray.cluster_utils import Cluster

from cxrpipe.on_ray import session
from cxrpipe.on_ray.sizing import Pool
from cxrpipe.records import read_scores

pytestmark = pytest.mark.ray


class DiesOnce:
    """Ends its process in the third call, with another block already in hand. Never computes two blocks at a time."""

    def __init__(self, flag: str) -> None:
        self.flag, self.calls, self.inside = Path(flag), 0, 0

    def __call__(self, batch: dict) -> dict:
        self.inside += 1
        assert self.inside == 1
        self.calls += 1
        if self.calls == 3 and not self.flag.exists():
            self.flag.touch()
            os._exit(1)
        self.inside -= 1
        return {"id": batch["id"], "process": [os.getpid()] * len(batch["id"])}


def test_two_calls_in_hand_survive_the_death_of_their_actor(ray_local: None, tmp_path: Path) -> None:
    pool = Pool(actors=1, cpus=0.5, gpus=0.0, at_start=1, calls=2)
    with session.session():
        studies = ray.data.range(200, override_num_blocks=20)
        flag = str(tmp_path / "died")
        rows = studies.map_batches(DiesOnce, fn_constructor_args=[flag], batch_size=10, **pool.options()).take_all()
    assert sorted(row["id"] for row in rows) == list(range(200))
    assert len({row["process"] for row in rows}) == 2
    assert (tmp_path / "died").exists()


LOGGED = """
import os, sys
log = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY | os.O_APPEND)
os.dup2(log, 1)
os.dup2(log, 2)
from cxrpipe.cli import main
main("score", sys.argv[2:])
"""
"""`score` with its output in a file, which can be read while it runs."""


@pytest.mark.slow
def test_a_run_waits_for_its_machines_and_says_what_is_missing(tmp_path: Path) -> None:
    table, model = nih_table(tmp_path, studies=40, side_px=64), small_classifier(tmp_path / "model")
    job = [f"--studies={table.url}", f"--models={model.url}", f"--out={tmp_path / 'out'}", "--resources.cpus=4"]
    missing = "one with 2 CPUs, to prepare; one with 1 CPU, to predict"
    first, second = tmp_path / "first", tmp_path / "second"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        impatient = start("-c", LOGGED, str(first), *job, "--resources.wait-s=8", env={"RAY_ADDRESS": cluster.address})
        status, _ = finish(impatient)
        assert status == 1, first.read_text()
        assert f"no progress for 8 s (waited for machines: {missing}); run the same command again" in first.read_text()

        patient = start("-c", LOGGED, str(second), *job, env={"RAY_ADDRESS": cluster.address})
        line = f"waiting for machines, for 3600 s at most: {missing}"
        wait_until(patient, lambda: second.exists() and line in second.read_text())
        cluster.add_node(num_cpus=4)
        status, _ = finish(patient)
        assert status == 0, second.read_text()
        assert second.read_text().count("waiting for machines") == 1
        assert len(read_scores(str(tmp_path / "out"))) == 40
    finally:
        cluster.shutdown()

"""A training that is killed, its driver or a worker, goes on from its last checkpoint, in the phase where it was."""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest
from builders import nih_table
from processes import finish, start, wait_until

from cxrpipe.records.study_table import StudyTable

pytestmark = [pytest.mark.slow, pytest.mark.ray]
EPOCHS = 7


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> StudyTable:
    return nih_table(tmp_path_factory.mktemp("table"), studies=60)


@pytest.fixture(scope="module")
def undisturbed(table: StudyTable, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The facts of a training that nobody disturbs."""
    out = tmp_path_factory.mktemp("undisturbed") / "model"
    status, said = finish(start(*command(table, out)), timeout=420)
    assert status == 0, said
    return facts(out)


def command(table: StudyTable, out: Path) -> list[str]:
    return [
        "jobs/train.py",
        "--task=classify",
        f"--studies={table.url}",
        f"--out={out}",
        "--arch=shufflenet_v2_x0_5",
        "--findings=Pneumonia",
        "--side-px=32",
        f"--epochs={EPOCHS}",
        "--freeze.policy=progressive",
        "--freeze.epochs=1,1,5",
    ]


def facts(out: Path) -> dict[str, Any]:
    return json.loads((out / "card.json").read_text())["facts"]


def has_checkpoint(out: Path, epoch: int) -> bool:
    return bool(list(out.glob(f"training/**/epoch={epoch:04d}/state.pt")))


def assert_same_course(found: dict[str, Any], undisturbed: dict[str, Any]) -> None:
    """The same epochs, at the same learning rates (so many steps), to the same score."""
    for name in ("epoch", "learning_rate"):
        assert [epoch[name] for epoch in found["history"]] == [epoch[name] for epoch in undisturbed["history"]]
    last, other = found["history"][-1], undisturbed["history"][-1]
    assert last["score"] == pytest.approx(other["score"], abs=0.02, nan_ok=True)


def workers_of(driver: subprocess.Popen[str]) -> list[int]:
    """The process ids of the workers that train."""
    return [
        child.pid
        for child in psutil.Process(driver.pid).children(recursive=True)
        if child.status() != psutil.STATUS_ZOMBIE and "TrainWorker" in child.name() + "".join(child.cmdline())
    ]


def test_a_killed_worker_is_replaced_and_a_killed_driver_costs_the_epochs_since_its_last_checkpoint(
    table: StudyTable, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "model"
    process = start(*command(table, out))
    wait_until(process, lambda: has_checkpoint(out, 2), timeout=420)
    (worker,) = workers_of(process)
    os.kill(worker, signal.SIGKILL)
    wait_until(process, lambda: has_checkpoint(out, 5), timeout=420)
    process.kill()
    said, _ = process.communicate()
    assert "a worker failed" in said
    assert not (out / "card.json").exists()
    status, said = finish(start(*command(table, out)), timeout=420)
    assert status == 0, said
    assert "training continues after epoch" in said
    assert "epoch   1 of" not in said
    assert f"epoch   {EPOCHS} of {EPOCHS}" in said
    assert not (out / "training").exists()
    assert_same_course(facts(out), undisturbed)

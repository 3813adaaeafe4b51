"""A training that is killed goes on from its last checkpoint, in the phase where it was."""

import json
from pathlib import Path

import pytest
from builders import nih_table
from processes import finish, kill_when, start

pytestmark = [pytest.mark.slow, pytest.mark.ray]
EPOCHS = 8


def test_a_killed_driver_costs_no_more_than_the_epochs_since_its_last_checkpoint(tmp_path: Path) -> None:
    table, out = nih_table(tmp_path, studies=60), tmp_path / "model"
    command = [
        "jobs/train.py",
        "--task=classify",
        f"--studies={table.url}",
        f"--out={out}",
        "--arch=shufflenet_v2_x0_5",
        "--findings=Pneumonia",
        "--side-px=32",
        f"--epochs={EPOCHS}",
        "--freeze.policy=progressive",
        "--freeze.epochs=1,1,6",
    ]
    process = start(*command)
    kill_when(process, lambda: bool(list(out.glob("training/**/epoch=0004/state.pt"))), timeout=420)
    assert not (out / "card.json").exists()
    status, said = finish(start(*command), timeout=420)
    assert status == 0, said
    card = json.loads((out / "card.json").read_text())
    assert [epoch["epoch"] for epoch in card["facts"]["history"]] == [*range(1, EPOCHS + 1)]
    assert "epoch   1 of" not in said
    assert f"epoch   {EPOCHS} of {EPOCHS}" in said
    assert not (out / "training").exists()

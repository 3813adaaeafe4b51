"""Checkpoints are written while training goes on, and a worker that fails is replaced where that can help."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pyarrow.fs
import pytest
import ray.train
import torch

from cxrpipe.config import TrainConfig
from cxrpipe.errors import RunError
from cxrpipe.on_ray import checkpoints
from cxrpipe.on_ray import train as on_ray_train
from cxrpipe.on_ray.checkpoints import Checkpoints
from cxrpipe.on_ray.placement import Placement

WAIT_S = 20
HERE = Placement(workers=1, on_gpu=False, preparers=1, wait_s=60.0, why_cpu="")


class Reported(NamedTuple):
    metrics: dict[str, Any]
    write: Callable[[], ray.train.Checkpoint]


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Reported]:
    """What Ray Train is told. It writes nothing before a test calls `write`."""
    told: list[Reported] = []

    def report(metrics: dict[str, Any], checkpoint: Any, *, checkpoint_upload_fn: Any, **modes: Any) -> None:
        assert modes["checkpoint_upload_mode"] == ray.train.CheckpointUploadMode.ASYNC
        assert not modes["delete_local_checkpoint_after_upload"]
        told.append(Reported(metrics, lambda: checkpoint_upload_fn(checkpoint, "name")))

    store = SimpleNamespace(
        build_checkpoint_path_from_name=lambda name: str(tmp_path / name),
        storage_filesystem=pyarrow.fs.LocalFileSystem(),
    )
    monkeypatch.setattr(ray.train, "report", report)
    monkeypatch.setattr(ray.train, "get_context", lambda: SimpleNamespace(get_storage=lambda: store))
    return told


def state(value: float = 1.0) -> dict[str, Any]:
    """As a trainer's: a weights file, and nested tensors that training goes on to change."""
    momentum = torch.full((3,), value)
    return {"weights": b"abc", "optimizer": {"state": {0: {"step": momentum}}, "param_groups": [{"lr": 0.1}]}}


def test_a_checkpoint_holds_what_was_when_it_was_reported(reported: list[Reported], tmp_path: Path) -> None:
    own = state()
    Checkpoints(str(tmp_path)).report({"epoch": 1}, own, "epoch=0001")
    own["optimizer"]["state"][0]["step"].fill_(7)  # the next epoch
    assert not (tmp_path / "epoch=0001").exists()
    loaded = checkpoints.load(reported[0].write())
    assert loaded["weights"] == b"abc"
    assert torch.equal(loaded["optimizer"]["state"][0]["step"], torch.ones(3))
    assert loaded["optimizer"]["param_groups"] == [{"lr": 0.1}]


def test_the_next_checkpoint_waits_for_one_that_is_still_written(reported: list[Reported], tmp_path: Path) -> None:
    saved = Checkpoints(str(tmp_path))
    saved.report({"epoch": 1}, state(), "epoch=0001")
    second = threading.Thread(target=saved.report, args=({"epoch": 2}, state(), "epoch=0002"))
    second.start()
    second.join(0.3)
    assert second.is_alive()
    assert len(reported) == 1
    reported[0].write()
    second.join(WAIT_S)
    assert [one.metrics["epoch"] for one in reported] == [1, 2]


def test_a_checkpoint_that_cannot_be_written_does_not_block_the_worker(
    reported: list[Reported], tmp_path: Path
) -> None:
    saved = Checkpoints(str(tmp_path))
    saved.report({"epoch": 1}, state() | {"learning": "no bytes"}, "epoch=0001")
    with pytest.raises(TypeError):
        reported[0].write()
    assert not (tmp_path / "epoch=0001").exists()
    saved.report({"epoch": 2}, state(), "epoch=0002")
    assert len(reported) == 2


# ---- workers that fail ----------------------------------------------------------------------------------------


def worker(monkeypatch: pytest.MonkeyPatch, error: Exception, on_gpu: bool = True) -> None:
    """A worker whose training ends in this error."""

    def fail(**settings: Any) -> None:
        raise error

    monkeypatch.setattr(on_ray_train, "_train", fail)
    config = TrainConfig(task="classify", studies="t", out="o", side_px=512)
    on_ray_train._worker({"plan": SimpleNamespace(config=config), "batch_size": 64, "on_gpu": on_gpu})


def test_lack_of_memory_names_the_setting_to_lower(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunError, match="64 images of 512 px does not fit into the memory of the GPU") as raised:
        worker(monkeypatch, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nGPU 0 has …"))
    assert "Tried to allocate 20.00 GiB" in str(raised.value)
    assert "lower --batch-size, and raise --optim.accumulate" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_another_error_of_a_worker_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match=r"^shapes differ$"):
        worker(monkeypatch, RuntimeError("shapes differ"))


class Fails:
    """A trainer whose workers fail with these errors, one after the other, and then end well."""

    def __init__(self, *texts: str) -> None:
        self.errors: Iterator[str] = iter(texts)
        self.attempts = 0

    def __call__(self) -> "Fails":
        return self

    def fit(self) -> str:
        self.attempts += 1
        if text := next(self.errors, None):
            raise ray.train.WorkerGroupError(text, {0: RuntimeError(text)})
        return "the result"


def test_a_worker_that_dies_is_replaced_as_often_as_allowed(capsys: pytest.CaptureFixture[str]) -> None:
    twice = Fails("[Rank 0] The actor died unexpectedly", "[Rank 1] The actor died unexpectedly")
    assert on_ray_train._fitted(twice, HERE, 2) == "the result"  # type: ignore[arg-type, comparison-overlap]
    said = capsys.readouterr().err
    assert "a worker failed ([Rank 0] The actor died unexpectedly); restart 1 of 2" in said
    with pytest.raises(RunError, match="run the same command again"):
        on_ray_train._fitted(Fails(*["died"] * 3), HERE, 2)  # type: ignore[arg-type]


def test_lack_of_memory_is_not_tried_again() -> None:
    text = "[Rank 1 Error Snippet]:\n  File x\ncxrpipe.errors.RunError: a batch of 64 images; lower --batch-size\n"
    short = Fails(text)
    with pytest.raises(RunError, match=r"^a batch of 64 images; lower --batch-size$"):
        on_ray_train._fitted(short, HERE, 2)  # type: ignore[arg-type]
    assert short.attempts == 1


def test_machines_that_do_not_come_are_named_when_the_wait_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0}, "Labels": {}}])
    where = Placement(workers=4, on_gpu=True, preparers=1, wait_s=120.0, why_cpu="")

    class NeverStarts(Fails):
        def fit(self) -> str:
            raise ray.train.ControllerError(RuntimeError("the worker group did not start"))

    with pytest.raises(RunError, match="did not come in time: 3 GPUs more, to train"):
        on_ray_train._fitted(NeverStarts(), where, 2)  # type: ignore[arg-type]

"""Two workers, as processes that talk by gloo, take the step that one would take on all of their images."""

from datetime import timedelta
from pathlib import Path

import pytest
import torch
from test_training import CARD, LOSS, SEGMENTER, VALID, small_network, uneven
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from cxrpipe.config import TrainConfig
from cxrpipe.config.train_sections import FreezeConfig
from cxrpipe.models import architectures
from cxrpipe.models.card import Card
from cxrpipe.training import distributed
from cxrpipe.training.distributed import ALONE
from cxrpipe.training.fit import Batch, backward, validate
from cxrpipe.training.losses import dice_bce
from cxrpipe.training.trainer import Trainer

PARTS = (slice(0, 16), slice(16, 24)), (slice(24, 28), slice(28, 32))
"""Of the 32 images: two batches for each of two workers, and neither as many as the other."""
TOLERANCE = {"rtol": 1e-4, "atol": 1e-6}
"""Other batches, other order of additions, in float32."""


def test_alone_a_worker_is_all_there_is():
    assert distributed.connected() is ALONE
    assert ALONE.gather([1, 2]) == [1, 2]
    assert torch.equal(ALONE.add(torch.ones(2)), torch.ones(2))
    distributed.share_buffers(nn.BatchNorm1d(2))


@pytest.mark.slow
def test_two_workers_have_the_gradient_and_the_figures_of_one_on_the_joined_batch(tmp_path: Path):
    torch.multiprocessing.spawn(_worker, (str(tmp_path),), nprocs=2)
    network, pixels, targets = _network(), *uneven(VALID)
    total = backward(network, CARD, LOSS, [(pixels, targets)], "fp32", ALONE)
    alone = validate(network, CARD, LOSS, [(pixels, targets)])
    masks = validate(_segmenter(), SEGMENTER, dice_bce, [_masks()])
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    for own in found:
        torch.testing.assert_close(own["gradient"], _gradient(network), **TOLERANCE)
        assert own["validated"]["score"] == pytest.approx(alone.score, abs=1e-9)
        assert own["validated"]["valid_loss"] == pytest.approx(alone.valid_loss, rel=1e-6)
        assert own["masks"]["score"] == pytest.approx(masks.score, abs=1e-9)
        assert own["masks"]["valid_loss"] == pytest.approx(masks.valid_loss, rel=1e-6)
        assert torch.equal(own["buffer"], torch.zeros(3))
        assert int(own["counter"]) == 0
    torch.testing.assert_close(found[0]["total"] + found[1]["total"], total, **TOLERANCE)


def _worker(rank: int, folder: str) -> None:
    _meet(rank, folder)
    pixels, targets = uneven(VALID)
    own: list[Batch] = [(pixels[part], targets[part]) for part in PARTS[rank]]
    network, others = _network(), distributed.connected()
    buffers = nn.Module()
    buffers.register_buffer("own", torch.full((3,), float(rank)))
    buffers.register_buffer("counter", torch.tensor(rank))
    distributed.share_buffers(buffers)
    total = backward(DistributedDataParallel(network), CARD, LOSS, own, "fp32", others)
    found = {
        "gradient": _gradient(network),
        "total": total,
        "validated": validate(network, CARD, LOSS, own, others)._asdict(),
        # The second worker has no image: the valid split may be smaller than the group.
        "masks": validate(_segmenter(), SEGMENTER, dice_bce, [_masks()] if rank == 0 else [], others)._asdict(),
        "buffer": buffers.own,
        "counter": buffers.counter,
    }
    torch.save(found, Path(folder, f"{rank}.pt"))
    torch.distributed.destroy_process_group()


def _masks() -> Batch:
    return VALID[0], (VALID[0] > 100).float()


def _segmenter() -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv2d(1, 1, 1)


@pytest.mark.slow
def test_two_workers_train_an_encoder_that_leaves_layers_unused(tmp_path: Path):
    torch.multiprocessing.spawn(_trains_unused, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first["lines"] == ["layers that nothing is computed with stay as they are: encoder._conv_head, encoder._bn1"]
    assert first["losses"] == second["losses"]
    assert len(first["losses"]) == 2
    assert torch.equal(first["weights"], second["weights"])


def _trains_unused(rank: int, folder: str) -> None:
    """Two phases of two steps: without freezing, DDP stops at the second step of each."""
    _meet(rank, folder)
    config = TrainConfig(
        task="segment",
        studies="t",
        out="o",
        arch="unet-efficientnet-b0",
        side_px=32,
        epochs=2,
        precision="fp32",
        freeze=FreezeConfig(policy="adaptive", epochs=(1, 1), fraction=0.0),
    )
    card = Card(task="segment", architecture=config.architecture, side_px=32, mean=0.5, std=0.25, views="all")
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (8, 1, 32, 32), dtype=torch.uint8)[rank::2]
    batches = [(part, (part > 100).float()) for part in pixels.split(2)]
    lines: list[str] = []
    torch.manual_seed(0)
    own = Trainer(
        config,
        card,
        architectures.build_from_card(card),
        dice_bce,
        steps=2,
        workers=distributed.connected(),
        wrap=DistributedDataParallel,
        notify=lines.append,
    )
    losses = [epoch.train_loss for epoch in own.epochs(lambda _: batches, lambda: batches[:1])]
    weights = torch.cat([parameter.detach().flatten() for parameter in own.network.parameters()])
    unused = [line for line in lines if "nothing is computed" in line]
    torch.save({"lines": unused[:1], "losses": losses, "weights": weights}, Path(folder, f"{rank}.pt"))
    torch.distributed.destroy_process_group()


def _meet(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", f"file://{folder}/meeting", world_size=2, rank=rank, timeout=timedelta(seconds=60)
    )


def _network() -> nn.Module:
    """BatchNorm by its statistics, and no dropout: what a batch holds besides changes nothing."""
    torch.manual_seed(0)
    return small_network().eval()


def _gradient(network: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in network.parameters()])

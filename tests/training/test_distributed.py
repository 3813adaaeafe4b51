"""Two workers, as processes that talk by gloo, take the step that one would take on all of their images."""

from datetime import timedelta
from pathlib import Path

import pytest
import torch
from test_training import CARD, LOSS, VALID, small_network, uneven
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from cxrpipe.training import distributed
from cxrpipe.training.distributed import ALONE
from cxrpipe.training.fit import Batch, backward, validate

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
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    for own in found:
        torch.testing.assert_close(own["gradient"], _gradient(network), **TOLERANCE)
        assert own["validated"]["score"] == pytest.approx(alone.score, abs=1e-9)
        assert own["validated"]["valid_loss"] == pytest.approx(alone.valid_loss, rel=1e-6)
        assert torch.equal(own["buffer"], torch.zeros(3))
    torch.testing.assert_close(found[0]["total"] + found[1]["total"], total, **TOLERANCE)


def _worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", f"file://{folder}/meeting", world_size=2, rank=rank, timeout=timedelta(seconds=60)
    )
    pixels, targets = uneven(VALID)
    own: list[Batch] = [(pixels[part], targets[part]) for part in PARTS[rank]]
    network, others = _network(), distributed.connected()
    buffers = nn.Module()
    buffers.register_buffer("own", torch.full((3,), float(rank)))
    distributed.share_buffers(buffers)
    total = backward(DistributedDataParallel(network), CARD, LOSS, own, "fp32", others)
    found = {
        "gradient": _gradient(network),
        "total": total,
        "validated": validate(network, CARD, LOSS, own, others)._asdict(),
        "buffer": buffers.own,
    }
    torch.save(found, Path(folder, f"{rank}.pt"))
    torch.distributed.destroy_process_group()


def _network() -> nn.Module:
    """BatchNorm by its statistics, and no dropout: what a batch holds besides changes nothing."""
    torch.manual_seed(0)
    return small_network().eval()


def _gradient(network: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in network.parameters()])

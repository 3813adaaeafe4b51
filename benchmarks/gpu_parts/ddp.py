"""Two DDP workers on one device over gloo (NCCL refuses two ranks on one device), beside one worker with both batches.

The gradient of two workers with a batch each has to be that of one worker that accumulates both batches.
"""

import functools
import os
import tempfile
import time
from pathlib import Path

import torch
import torch.multiprocessing
from torch.nn.parallel import DistributedDataParallel

from cxrpipe.models.card import Card
from cxrpipe.training import distributed
from gpu_parts import models, ours, spawned
from gpu_parts.scales import scale_for
from gpu_parts.sheet import Sheet
from gpu_parts.timing import seconds_of, synchronise
from gpu_parts.training import batch_of

_WORKERS, _STEPS = 2, 3
_SAME = 1e-3
"""Greatest difference of a gradient, as a part of the largest: the order of sums differs."""


def run(sheet: Sheet, device: str) -> None:
    sheet.measure("two workers", functools.partial(_two, sheet, device))


def _two(sheet: Sheet, device: str) -> None:
    scale = scale_for(device)
    card = models.classifier_card(scale.classifier, scale.classifier_px)
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(spawned.call, (__name__, "work", (device, folder)), nprocs=_WORKERS)
        of_ranks = [torch.load(Path(folder, f"rank{rank}"), weights_only=True) for rank in range(_WORKERS)]
    alone, seconds = _alone(card, scale.train_batch, device, scale.timed_s)
    first, other = (of_rank["gradient"] for of_rank in of_ranks)
    off = float((first - alone).abs().max() / alone.abs().max())
    equal = bool(torch.equal(first, other)) and of_ranks[0]["buffers"] == of_ranks[1]["buffers"]
    together = max(of_rank["seconds"] for of_rank in of_ranks)
    images = _WORKERS * scale.train_batch
    sheet.row(
        "Two DDP workers on one device over gloo, float32",
        network=f"{card.architecture}, {card.side_px} px",
        images_of_a_step=images,
        images_s_of_two_workers=images / together,
        images_s_of_one=images / seconds,
        gradient_at_most=off,
        workers_agree="yes" if equal else "no",
        seconds_to_start=max(of_rank["ready_s"] for of_rank in of_ranks),
        within="yes" if equal and off <= _SAME else "no",
    )


def _network(card: Card, device: str) -> torch.nn.Module:
    torch.manual_seed(0)
    ours.tf32(False)
    return ours.for_training(card, device, channels_last=False)


def _alone(card: Card, images: int, device: str, timed_s: float) -> tuple[torch.Tensor, float]:
    """The gradient of both batches by one worker, and the seconds of its step."""
    network, loss = _network(card, device), ours.loss_of(card)
    batches = [batch_of(card, images, device, seed=rank) for rank in range(_WORKERS)]
    ours.gradient(network, card, loss, batches, "fp32")
    gradient = _gradient(network)
    optimizer = ours.optimizer_of(network)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        ours.gradient(network, card, loss, batches, "fp32")
        optimizer.step()

    return gradient, seconds_of(step, device, timed_s)


def work(rank: int, device: str, folder: str) -> None:
    """One worker: its first gradient, and the seconds of its steps, go into a file of the folder."""
    started = time.perf_counter()
    scale = scale_for(device)
    card, images = models.classifier_card(scale.classifier, scale.classifier_px), scale.train_batch
    if device == "cuda":
        torch.cuda.set_device(0)
    else:
        torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # a lent card may have no other network
    place = f"file://{folder}/rendezvous"
    torch.distributed.init_process_group("gloo", init_method=place, rank=rank, world_size=_WORKERS)
    network = DistributedDataParallel(_network(card, device))
    loss, workers = ours.loss_of(card), distributed.connected()
    optimizer = ours.optimizer_of(network)
    batches = [batch_of(card, images, device, seed=rank)]

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        ours.gradient(network, card, loss, batches, "fp32", workers)
        optimizer.step()

    ours.gradient(network, card, loss, batches, "fp32", workers)
    gradient = _gradient(network.module)
    step()
    synchronise(device)
    ready_s = time.perf_counter() - started
    torch.distributed.barrier()
    started = time.perf_counter()
    for _ in range(_STEPS):
        step()
    synchronise(device)
    seconds = (time.perf_counter() - started) / _STEPS
    distributed.share_buffers(network.module)
    buffers = [float(buffer.double().sum()) for buffer in network.module.buffers()]
    result = {"gradient": gradient, "seconds": seconds, "ready_s": ready_s, "buffers": buffers}
    torch.save(result, Path(folder, f"rank{rank}"))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def _gradient(network: torch.nn.Module) -> torch.Tensor:
    return torch.cat(
        [parameter.grad.flatten() for parameter in network.parameters() if parameter.grad is not None]
    ).cpu()

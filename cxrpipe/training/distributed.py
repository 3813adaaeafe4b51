"""The workers of one training, as one of them sees the group. Values that cross between workers add up."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class WorkerGroup(NamedTuple):
    """One worker and its group; by default a single worker."""

    rank: int = 0
    size: int = 1
    gather: Callable[[list[Any]], list[Any]] = lambda items: items
    """Join the lists of all workers, in the order of their ranks."""
    add: Callable[[Tensor], Tensor] = lambda value: value
    """Sum a value over all workers."""


ALONE = WorkerGroup()


def connected() -> WorkerGroup:
    """Give the group of this process; `ALONE` where torch.distributed is not initialised."""
    if not torch.distributed.is_initialized():
        return ALONE
    return WorkerGroup(torch.distributed.get_rank(), torch.distributed.get_world_size(), _gather, _add)


def share_buffers(network: nn.Module) -> None:
    """Copy the BatchNorm statistics of the first worker to all, so that all validate the network that is saved."""
    if not torch.distributed.is_initialized():
        return
    buffers = sorted(network.buffers(), key=lambda buffer: str(buffer.dtype))
    for _, alike in itertools.groupby(buffers, key=lambda buffer: buffer.dtype):
        together = list(alike)  # a ResNet-50 has 159 buffers, and two types of them
        values = torch.cat([buffer.flatten() for buffer in together])
        torch.distributed.broadcast(values, src=0)
        parts = torch.split_with_sizes(values, [buffer.numel() for buffer in together])
        for buffer, part in zip(together, parts, strict=True):
            buffer.copy_(part.view_as(buffer))


def _gather(items: list[Any]) -> list[Any]:
    joined: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(joined, items)
    return list(itertools.chain.from_iterable(joined))


def _add(value: Tensor) -> Tensor:
    total = value.clone()
    torch.distributed.all_reduce(total)
    return total

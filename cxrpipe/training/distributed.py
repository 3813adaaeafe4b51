"""The workers of one training, as each of them sees the others. What crosses between them adds up."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class WorkerGroup(NamedTuple):
    rank: int = 0
    size: int = 1
    gather: Callable[[list[Any]], list[Any]] = lambda own: own
    """Joins what every worker holds, in the order of their ranks."""
    add: Callable[[Tensor], Tensor] = lambda own: own
    """The sum over all workers."""


ALONE = WorkerGroup()


def connected() -> WorkerGroup:
    """Those of this process's group; alone where there is none."""
    if not torch.distributed.is_initialized():
        return ALONE
    return WorkerGroup(torch.distributed.get_rank(), torch.distributed.get_world_size(), _gather, _add)


def share_buffers(network: nn.Module) -> None:
    """Give all workers the BatchNorm statistics of the first: those that are saved are those that are judged."""
    if torch.distributed.is_initialized():
        for buffer in network.buffers():
            torch.distributed.broadcast(buffer, src=0)


def _gather(own: list[Any]) -> list[Any]:
    joined: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(joined, own)
    return list(itertools.chain.from_iterable(joined))


def _add(own: Tensor) -> Tensor:
    total = own.clone()
    torch.distributed.all_reduce(total)
    return total

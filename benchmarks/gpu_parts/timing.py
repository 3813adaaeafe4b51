"""Times work on a device, and counts what it computes and moves."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

_WARM_UP, _CHUNKS = 2, 5


def synchronise(device: str) -> None:
    """Wait until the device has done what is queued."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds_of(work: Callable[[], Any], device: str, timed_s: float) -> float:
    """Seconds of one call: the least of five chunks of calls, which take about `timed_s` together.

    Calls of a chunk are queued one behind the other, as a stream of batches would be.
    """
    for _ in range(_WARM_UP):
        work()
    synchronise(device)
    started = time.perf_counter()
    work()
    synchronise(device)
    calls = max(1, round(timed_s / _CHUNKS / max(time.perf_counter() - started, 1e-9)))
    least = float("inf")
    for _ in range(_CHUNKS):
        started = time.perf_counter()
        for _ in range(calls):
            work()
        synchronise(device)
        least = min(least, (time.perf_counter() - started) / calls)
    return least


class Work(NamedTuple):
    """What one call computes and moves."""

    flops: float
    bytes: float
    """Read and written by the operators, as if no two of them were fused; views are free."""


def count(work: Callable[[], Any]) -> Work:
    traffic = _Traffic()
    with traffic, FlopCounterMode(display=False) as flops:
        work()
    return Work(float(flops.get_total_flops()), traffic.bytes)


class _Traffic(TorchDispatchMode):
    """Counts the bytes of tensors that operators take and give."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return result

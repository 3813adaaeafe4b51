"""How networks are run: device, precision and kernels. The machine chooses them, and the run records them.

These choices change seconds, and hardly a probability by more than 0.01 (docs/performance.md). They are no part of the
fingerprint.
"""

import ctypes
import time
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import nn

from cxrpipe.config.score import TRIAL_FROM_VIEWS
from cxrpipe.models.architectures import build_from_card
from cxrpipe.models.card import Card
from cxrpipe.models.compiling import VIEWS_OF_A_CALL, FixedCalls, compiled
from cxrpipe.models.exact import keep_exact
from cxrpipe.models.folder import ONNX
from cxrpipe.models.fusing import fused, in_single_calls
from cxrpipe.models.precision import PRECISIONS, resolve, set_float32

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # malloc.h
_HEAP_BYTES = 64 << 20
"""Padding that keeps a heap. glibc gives every thread but the first heaps of this size, and takes empty ones back."""

_REPAID = 10
"""`auto` compiles for a trial where the run is long enough to repay ten times the trial."""
_COMPILE_S = {"cpu": 120.0, "cuda": 60.0}
"""What compiling a network is expected to take. Measured on a CPU: 91 and 132 s. On CUDA an estimate."""
_GAIN = 0.25
"""The part of the time that compiling may save at best. On CPUs no gain was measured."""
_TRIES = 3


class Execution(NamedTuple):
    """How the networks of a run are run. It can be pickled."""

    device: torch.device
    precision: str
    """`fp32`, `tf32`, `bf16` or `fp16`."""
    compiled: bool
    why: str = ""
    """Why networks are compiled or not, for people."""

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def dtype(self) -> torch.dtype:
        return PRECISIONS[self.precision]

    @property
    def arithmetic(self) -> str:
        """As the report of a run names it: `float32`, `tf32`, `bfloat16`, `float16`."""
        return "tf32" if self.precision == "tf32" else str(self.dtype).removeprefix("torch.")


class Trial(NamedTuple):
    """Seconds that a network takes, measured on this machine."""

    fused_s: float
    """Per view."""
    compiled_s: float
    """Per view."""
    compile_s: float
    """For compiling."""


def plan(device: str | None = None, precision: str = "fp32", compile: str = "off") -> Execution:
    """Choose what the settings leave to the machine, without measuring anything.

    device     `cuda`, `cpu`, or None: `cuda` where the machine has it
    precision  `fp32`, `bf16`, `tf32` and `fp16` (CUDA only), or `auto`: bf16 or fp16 where the device has units for it
    compile    `on`, `off`, or `auto`: off, because only `decide` measures
    """
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return Execution(where, resolve(precision, where), compile == "on", "as asked" if compile == "on" else "")


def decide(
    cards: Iterable[Card], views: int, device: str | None = None, precision: str = "auto", compile: str = "auto"
) -> Execution:
    """Decide once for a run how all its predictors compute, on a machine like those that predict.

    `auto` compares a compiled network with a fused one, where the run is long enough to repay the trial ten times.
    The trial's networks have fresh weights: speed does not depend on them.

    cards  of the members and the segmenter
    views  that one predictor will see
    """
    chosen = plan(device, precision, compile)
    if compile != "auto":
        return chosen
    if views < TRIAL_FROM_VIEWS:
        return chosen._replace(why=f"not compiled: {views} views do not repay a trial")
    cards = [card for card in cards if card.architecture != ONNX]  # ONNX Runtime is no network to compile
    how_many = Counter(map(_kind, cards))
    of_kind = {_kind(card): card for card in cards}
    fused_s = views * sum(_fused_seconds(of_kind[kind], chosen) * count for kind, count in how_many.items())
    if _GAIN * fused_s < _REPAID * len(of_kind) * _COMPILE_S[chosen.device.type]:
        return chosen._replace(why=f"not compiled: {fused_s:.0f} s of networks do not repay a trial")
    trials = {
        kind: trial(build_from_card(card).eval(), card.side_px, chosen, card.channels) for kind, card in of_kind.items()
    }
    saved_s = views * sum((trials[kind].fused_s - trials[kind].compiled_s) * how_many[kind] for kind in trials)
    compile_s = sum(tried.compile_s for tried in trials.values())
    pays = saved_s > compile_s
    why = f"compiling saves {saved_s:.0f} s of {fused_s:.0f} s and takes {compile_s:.0f} s, by a trial"
    return chosen._replace(compiled=pays, why=f"{'compiled' if pays else 'not compiled'}: {why}")


def _kind(card: Card) -> tuple[str, str, int, int]:
    """What the speed of a network depends on."""
    return card.architecture, card.head, card.side_px, card.channels


def _fused_seconds(card: Card, plan: Execution) -> float:
    network, _ = speed_up(build_from_card(card).eval(), card.side_px, plan, card.channels)
    return _seconds_per_view(network, card.side_px, plan, card.channels)


def trial(network: nn.Module, side_px: int, plan: Execution, channels: int = 1) -> Trial:
    """Measure a network in eval mode fused, being compiled, and compiled. This uses `network` up."""
    network = move(fused(network), plan)
    fused_s = _seconds_per_view(_in_fewer_calls(network, side_px, plan, channels), side_px, plan, channels)
    start = time.perf_counter()
    faster = compiled(network, side_px, plan.device, channels)
    compile_s = time.perf_counter() - start
    return Trial(fused_s, _seconds_per_view(faster, side_px, plan, channels) if faster else float("inf"), compile_s)


@torch.inference_mode()
def _seconds_per_view(network: nn.Module, side_px: int, plan: Execution, channels: int) -> float:
    """The least of a few full calls, after one that is not counted."""
    views = torch.zeros(VIEWS_OF_A_CALL[plan.device.type][-1], channels, side_px, side_px, device=plan.device)
    views = views.contiguous(memory_format=torch.channels_last)
    seconds = []
    for _ in range(1 + _TRIES):
        start = time.perf_counter()
        network(views)
        if plan.is_cuda:
            torch.cuda.synchronize(plan.device)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:]) / len(views)


def keep_memory() -> None:
    """Let this process keep the memory of a batch for the next, where the C library is glibc.

    By default glibc gives every large tensor back to the kernel. The kernel clears the pages anew for each layer, which
    takes 10% of the processor's time. Two ResNet-50 at 224 px and a U-Net at 256 px on two cores: 5.0 → 5.6 images/s
    with the same peak of memory. Ray Train trains in a thread, and the memory of a thread needs the padding: a step of
    ResNet-50 at 64 px takes 0.330 s instead of 0.365 s (bf16).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_M_TOP_PAD, _HEAP_BYTES)


def move(network: nn.Module, plan: Execution) -> nn.Module:
    """Move a network to the device and precision of the plan; the network still takes float32.

    Channels last is the order that convolutions want on a CPU and on a GPU.

    docs/decisions.md#in-bf16-the-first-five-convolutions-stay-exact
    """
    if plan.is_cuda:
        set_float32(plan.precision)
        torch.backends.cudnn.benchmark = True  # calls have one of two sizes
    network = network.requires_grad_(False).to(plan.device)
    if plan.dtype != torch.float32:
        network = keep_exact(network, plan.dtype)
    return network.to(memory_format=torch.channels_last)


def speed_up(network: nn.Module, side_px: int, plan: Execution, channels: int = 1) -> tuple[nn.Module, str]:
    """A network in eval mode → a faster one with the same answers, and how it was made: `fused` or `compiled`.

    channels  that the network takes
    """
    network = move(fused(network), plan)
    if plan.compiled and (faster := compiled(network, side_px, plan.device, channels)):
        return faster, "compiled"
    return _in_fewer_calls(network, side_px, plan, channels), "fused"


def _in_fewer_calls(network: nn.Module, side_px: int, plan: Execution, channels: int) -> nn.Module:
    if plan.is_cuda:
        return FixedCalls(network, VIEWS_OF_A_CALL["cuda"])
    return in_single_calls(network, side_px, channels)

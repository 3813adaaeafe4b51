"""How networks are run: device, precision and kernels. The machine chooses them, and the run records them.

These choices change seconds, and hardly a probability by more than 0.01 (docs/performance.md). They are no part of the
fingerprint.
"""

import ctypes
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.fx.experimental.optimization import fuse as fuse_traced

from cxrpipe import console
from cxrpipe.models.precision import has_bf16_units

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
COMPILED_VIEWS = 8
"""Views in one call of a network compiled for a CPU. Its kernels take one size, so the last batch is filled up."""
COMPILING_PAYS_FROM = {"cpu": 5_000, "cuda": 300_000}
"""Studies from which compiling pays. The figure for CUDA is an estimate: no card was at hand.

docs/decisions.md#compiling-pays-from-5000-studies-on-a-cpu
"""
EXACT_CONVOLUTIONS = 5
"""Convolutions of a network in bf16 that stay in float32: in a ResNet, those of the stem and of the first block."""
_UNTRACEABLE = (ValueError, TypeError, RuntimeError, AssertionError, AttributeError, NotImplementedError)
"""Errors of torch.fx for control flow, for arguments that it does not know, and for objects that it cannot copy."""

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # malloc.h
_HEAP_BYTES = 64 << 20
"""Padding that keeps a heap. glibc gives every thread but the first heaps of this size, and takes empty ones back."""


class Execution(NamedTuple):
    """How the networks of a process are run."""

    device: torch.device
    dtype: torch.dtype
    compiled: bool

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"


def plan(device: str | None = None, precision: str = "fp32", compile: str = "off", studies: int = 0) -> Execution:
    """Choose what the settings leave to the machine.

    device     `cuda`, `cpu`, or None: `cuda` where the machine has it
    precision  `fp32`, `bf16`, or `auto`: bf16 where the device has units for it
    compile    `on`, `off`, or `auto`: on where enough studies are left to pay for it
    studies    how many are left to score
    """
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if precision == "auto":
        precision = "bf16" if has_bf16_units(where) else "fp32"
    compiled = compile == "on" or (compile == "auto" and studies >= COMPILING_PAYS_FROM[where.type])
    return Execution(where, PRECISIONS[precision], compiled)


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

    Channels last is the order that convolutions want on a CPU and on a GPU. In bf16 the first convolutions stay in
    float32. Rounding their weights shifts all later layers alike, because an image is smooth. These convolutions make
    half of the error and more, and 7% of the work of a ResNet-50. The layer of a classifier's logits stays in float32
    too: with 8 bits many studies would have the same logit, and no ranking could tell them apart.

    docs/decisions.md#in-bf16-the-first-five-convolutions-stay-in-float32
    """
    network = network.requires_grad_(False).to(plan.device)
    if plan.dtype != torch.float32:
        exact = _exact_layers(network)
        for name in exact:
            network.set_submodule(name, nn.Identity())
        network = network.to(plan.dtype)
        for name, layer in exact.items():
            output_dtype = torch.float32 if isinstance(layer, nn.Linear) else plan.dtype
            network.set_submodule(name, _InFloat32(layer, output_dtype))
    return network.to(memory_format=torch.channels_last)


def _exact_layers(network: nn.Module) -> dict[str, nn.Module]:
    layers = [pair for pair in network.named_modules() if isinstance(pair[1], nn.Conv2d | nn.Linear)]
    first = [(name, layer) for name, layer in layers if isinstance(layer, nn.Conv2d)][:EXACT_CONVOLUTIONS]
    logits = [pair for pair in layers[-1:] if isinstance(pair[1], nn.Linear)]  # a U-Net ends in a convolution
    return dict(first + logits)


class _InFloat32(nn.Module):
    """A layer that computes in float32 among layers that do not; `dtype` is the type of its output."""

    def __init__(self, layer: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.layer, self.dtype = layer, dtype

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.layer(views.float())
        return output.to(self.dtype)


def speed_up(network: nn.Module, side_px: int, plan: Execution) -> tuple[nn.Module, str]:
    """A network in eval mode → a faster one with the same answers, and how it was made: `fused` or `compiled`."""
    network = move(fused(network), plan)
    if plan.compiled:
        views = torch.zeros(COMPILED_VIEWS, 1, side_px, side_px, device=plan.device)
        compiled = _compile(network, views.contiguous(memory_format=torch.channels_last))
        if compiled is not None:
            return compiled, "compiled"
    return network, "fused"


def fused(network: nn.Module) -> nn.Module:
    """Fold every batch normalisation into the convolution before it. This uses `network` up.

    A network that torch.fx cannot trace as a whole is fused child by child. A U-Net, for example, checks the shape of
    its input.
    """
    if not any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        return network
    try:
        return fuse_traced(network, inplace=True)
    except _UNTRACEABLE:
        for name, child in network.named_children():
            setattr(network, name, fused(child))
        return network


def _compile(network: nn.Module, views: torch.Tensor) -> Any:
    """Compile the network, on a CPU with the weights frozen into the kernels. None where the machine cannot compile."""
    settings: dict[str, Any] = {"dynamic": True} if views.is_cuda else {"options": {"freezing": True}}
    compiled = torch.compile(network, **settings)
    try:
        with torch.inference_mode():
            compiled(views)
    except (RuntimeError, OSError) as error:  # no C compiler, or one that inductor cannot use
        console.log(f"not compiled; the fused network is used instead ({str(error).strip().splitlines()[0]})")
        return None
    return compiled


def in_calls(network: Callable[[torch.Tensor], Any], views: torch.Tensor, compiled_for_cpu: bool) -> list[Any]:
    """The network's answers on (N, 1, S, S) views: in one call, or in calls of the size that it was compiled for."""
    if not compiled_for_cpu:
        return [network(views)]
    answers = []
    for part in torch.split(views, COMPILED_VIEWS):
        missing = COMPILED_VIEWS - len(part)
        filled = nn.functional.pad(part, (0, 0, 0, 0, 0, 0, 0, missing)) if missing else part
        answers.append(network(filled.contiguous(memory_format=torch.channels_last)))
    return answers

"""The arithmetic of a training: which number type its device multiplies in, and what keeps small gradients from it."""

import contextlib
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from cxrpipe.models.precision import has_bf16_units

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
_VOLTA = (7, 0)
"""The first compute capability with units for fp16."""


def resolve(precision: str, device: torch.device) -> str:
    """`auto` → `bf16` where the device has units for it, `fp16` on an older GPU, else `fp32`; others stay."""
    if precision != "auto":
        return precision
    if has_bf16_units(device):
        return "bf16"
    return "fp16" if device.type == "cuda" and torch.cuda.get_device_capability(device) >= _VOLTA else "fp32"


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """A context that multiplies in `bf16` or `fp16`; with another precision it changes nothing."""
    wanted = _AUTOCAST.get(precision)
    return torch.autocast(device.type, wanted) if wanted else contextlib.nullcontext()


def set_float32(precision: str) -> None:
    """Let a GPU multiply float32 as `fp32` or `tf32` says. By default torch rounds convolutions to TF32, 10 bits."""
    if precision in ("fp32", "tf32"):
        name = "ieee" if precision == "fp32" else "tf32"
        torch.backends.cudnn.conv.fp32_precision = name  # type: ignore[attr-defined]
        torch.backends.cuda.matmul.fp32_precision = name


def scaler(device: torch.device, precision: str) -> torch.amp.GradScaler:
    """Scale losses, so that small gradients do not become 0 in fp16. With another precision it changes nothing."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")


def keep_logits_exact(network: nn.Module) -> None:
    """Let the last linear layer answer in float32 where a network is validated under autocast.

    With 8 bits many images would have the same logit, and no ranking could tell them apart
    (docs/decisions.md#the-layer-of-the-logits-stays-in-float32). Training is not changed.
    """
    if linear := [layer for layer in network.modules() if isinstance(layer, nn.Linear)]:
        linear[-1].register_forward_hook(_in_float32)


def _in_float32(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
    """Compute the answer of a linear layer again where autocast has rounded it; 4,096 products an image at most."""
    if layer.training or output.dtype == torch.float32:
        return output
    assert isinstance(layer, nn.Linear)
    with torch.autocast(output.device.type, enabled=False):
        return functional.linear(inputs[0].float(), layer.weight, layer.bias)

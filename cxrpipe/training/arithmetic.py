"""What rounded arithmetic needs in a training: a scale for small gradients, and logits that a ranking can use."""

import torch
from torch import nn
from torch.nn import functional


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

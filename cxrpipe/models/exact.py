"""Layers that stay exact in a network of 16 bits. Which ones, and why: docs/decisions.md, "Models and arithmetic"."""

import torch
from torch import Tensor, nn

EXACT_CONVOLUTIONS = 5
"""Convolutions of a network in bf16 whose weights are not rounded: in a ResNet, those of the stem and of the first
block."""


def keep_exact(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A network in float32 → one in `dtype` (16 bits) that takes float32, with a few layers that stay exact.

    Rounding the weights of the first convolutions shifts all later layers alike, because an image is smooth. These
    weights make half of the error and more. The first convolution sees the image, and stays in float32; the next ones
    see what was rounded anyhow, and keep only their weights. The layer of a classifier's logits stays in float32 too:
    with 8 bits many studies would have the same logit, and no ranking could tell them apart.
    """
    layers = [pair for pair in network.named_modules() if isinstance(pair[1], nn.Conv2d | nn.Linear)]
    convolutions = [(name, layer) for name, layer in layers if isinstance(layer, nn.Conv2d)][:EXACT_CONVOLUTIONS]
    exact: dict[str, nn.Module] = {
        name: InTwoTerms(layer, dtype) if number and type(layer) is nn.Conv2d else InFloat32(layer, dtype)
        for number, (name, layer) in enumerate(convolutions)
    }
    # A U-Net ends in a convolution, and has no logits that anything ranks.
    exact |= {name: InFloat32(layer, torch.float32) for name, layer in layers[-1:] if isinstance(layer, nn.Linear)}
    for name in exact:
        network.set_submodule(name, nn.Identity())
    network = network.to(dtype)
    for name, layer in exact.items():
        network.set_submodule(name, layer)
    return network


class InFloat32(nn.Module):
    """A layer that computes in float32 among layers that do not; `dtype` is the type of its output."""

    def __init__(self, layer: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.layer, self.dtype = layer, dtype

    def forward(self, views: Tensor) -> Tensor:
        output: Tensor = self.layer(views.float())
        return output.to(self.dtype)


class InTwoTerms(nn.Module):
    """A convolution of 16 bits whose weights and biases are sums of two terms: rounded, and what rounding took away.

    Two convolutions in bf16 cost a quarter of one in float32 where a CPU has AMX.
    """

    def __init__(self, layer: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__()
        self.layer = layer
        self.rest: Tensor
        self.rest_of_bias: Tensor | None
        self.register_buffer("rest", _rest(layer.weight, dtype))
        self.register_buffer("rest_of_bias", None if layer.bias is None else _rest(layer.bias, dtype))
        layer.to(dtype)

    def forward(self, views: Tensor) -> Tensor:
        output: Tensor = self.layer(views) + self.layer._conv_forward(views, self.rest, self.rest_of_bias)
        return output


def _rest(values: Tensor, dtype: torch.dtype) -> Tensor:
    values = values.detach()
    return (values - values.to(dtype).float()).to(dtype)

"""Which layers learn. A frozen layer keeps its parameters, and the statistics of its BatchNorm."""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import nn

from cxrpipe.config.train_sections import FreezeConfig
from cxrpipe.models.architectures import head_of

_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)


class Layer(NamedTuple):
    """What has weights (a convolution, a dense layer, attention), and the normalisation behind it."""

    name: str
    parameters: tuple[nn.Parameter, ...]


def layers(network: nn.Module) -> list[Layer]:
    """All but the head, from the image on, in the order of their definition.

    Of a U-Net the head is all but the encoder: the decoder has no weights of anyone's to keep.
    """
    head = {id(parameter) for parameter in _head(network).parameters()}
    found: list[Layer] = []
    for name, module in network.named_modules():
        own = tuple(value for value in module.parameters(recurse=False) if id(value) not in head)
        if not own:
            continue
        if found and isinstance(module, _NORMS):
            found[-1] = Layer(found[-1].name, found[-1].parameters + own)
        else:
            found.append(Layer(name, own))
    return found


def _head(network: nn.Module) -> nn.Module:
    name, head = head_of(network)
    if name != "segmentation_head":
        return head
    parts = [module for name, module in network.named_children() if name != "encoder"]
    return nn.ModuleList(parts)


def freeze(network: nn.Module, frozen: Iterable[str]) -> None:
    """Let all learn but the layers named."""
    network.requires_grad_(True)
    names = set(frozen)
    for layer in layers(network):
        for parameter in layer.parameters:
            parameter.requires_grad_(layer.name not in names)


def frozen_in(network: nn.Module, config: FreezeConfig, phase: int) -> list[str]:
    """The layers that are frozen in a phase, but for the second of `adaptive`, which is measured."""
    names = [layer.name for layer in layers(network)]
    part = names[: round(config.fraction * len(names))]
    if config.last is not None:
        return names[: max(0, len(names) - config.last)]
    by_phase = {"all": [names], "partial": [part], "progressive": [names, part, []], "adaptive": [names]}
    return by_phase.get(config.policy, [[]])[phase]


def train_mode(network: nn.Module) -> None:
    """`network.train()`, but BatchNorm that does not learn judges by the statistics it has, and keeps them."""
    network.train()
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            own = list(module.parameters(recurse=False))
            if own and not any(parameter.requires_grad for parameter in own):
                module.eval()


def least_important(network: nn.Module, loss: Callable[[], float], fraction: float) -> list[str]:
    """The layers whose absence costs least: so many of them, in the order of the network.

    loss  validation loss of the network as it stands; called once for every layer
    """
    found = layers(network)
    whole = loss()
    rises = []
    for layer in found:
        with _zeroed(layer):
            rise = loss() - whole
            rises.append(rise if math.isfinite(rise) else math.inf)
    order = sorted(range(len(found)), key=lambda number: (rises[number], number))
    chosen = set(order[: round(fraction * len(found))])
    return [layer.name for number, layer in enumerate(found) if number in chosen]


@contextlib.contextmanager
def _zeroed(layer: Layer) -> Iterator[None]:
    """Without the layer's parameters, which are then again what they were, to the bit."""
    kept = [parameter.detach().clone() for parameter in layer.parameters]
    with torch.no_grad():
        try:
            for parameter in layer.parameters:
                parameter.zero_()
            yield
        finally:
            for parameter, value in zip(layer.parameters, kept, strict=True):
                parameter.copy_(value)

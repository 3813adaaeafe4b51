"""Layers that learn, and layers that are frozen. A frozen layer keeps its parameters and BatchNorm statistics."""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import nn

from cxrpipe.config.train_sections import FreezeConfig
from cxrpipe.errors import ConfigError
from cxrpipe.models.architectures import head_of

_ATTENTION = ("attn", "self_attention")
_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)


class Layer(NamedTuple):
    """A convolution or a dense layer with the normalisation behind it, or a block of a transformer."""

    name: str
    parameters: tuple[nn.Parameter, ...]


def layers(network: nn.Module) -> list[Layer]:
    """List all layers but those of the head, from the image on, in the order of their definition.

    The head of a U-Net is everything behind its encoder: the decoder has no start weights that are worth keeping.
    """
    head = {id(parameter) for parameter in _head(network).parameters()}
    layers: list[Layer] = []
    blocks: list[str] = []
    for name, module in network.named_modules():
        if any(name.startswith(f"{block}.") for block in blocks):
            continue
        if is_block := _is_transformer_block(module):
            blocks.append(name)
        parameters = tuple(value for value in module.parameters(recurse=is_block) if id(value) not in head)
        if not parameters:
            continue
        if layers and isinstance(module, _NORMS):
            layers[-1] = Layer(layers[-1].name, layers[-1].parameters + parameters)
        else:
            layers.append(Layer(name, parameters))
    return layers


def _is_transformer_block(module: nn.Module) -> bool:
    """Whether attention and a dense part stand side by side, as in the blocks of timm and torchvision.

    Such a block normalises before its layers and adds their output to its input. Its layers learn together.
    """
    names = [name for name, _ in module.named_children()]
    return "mlp" in names and any(name in names for name in _ATTENTION)


def _head(network: nn.Module) -> nn.Module:
    name, head = head_of(network)
    if name != "segmentation_head":
        return head
    parts = [module for name, module in network.named_children() if name != "encoder"]
    return nn.ModuleList(parts)


def freeze(network: nn.Module, frozen: Iterable[str]) -> None:
    """Freeze the named layers, and let all others learn."""
    network.requires_grad_(True)
    names = set(frozen)
    for layer in layers(network):
        for parameter in layer.parameters:
            parameter.requires_grad_(layer.name not in names)


def frozen_in(network: nn.Module, config: FreezeConfig, phase: int) -> list[str]:
    """Name the layers that a policy freezes in a phase. The second phase of `adaptive` measures them instead."""
    names = [layer.name for layer in layers(network)]
    part = names[: _first_learning(names, config)]
    if config.last is not None:
        before_last = names[: max(0, len(names) - config.last)]
        return [names, before_last][phase] if config.phases == 2 else before_last
    by_phase = {"all": [names], "partial": [part], "progressive": [names, part, []], "adaptive": [names]}
    return by_phase.get(config.policy, [[]])[phase]


def check(network: nn.Module, config: FreezeConfig, architecture: str) -> None:
    """ConfigError where the network has no part `--freeze.until`, or fewer layers than `--freeze.count`."""
    names = [layer.name for layer in layers(network)]
    if config.until and _place_of(config.until, names) is None:
        parts = ", ".join(dict.fromkeys(name.partition(".")[0] for name in names))
        raise ConfigError(f"--freeze.until {config.until}: {architecture} has no such part; it has {parts}")
    if config.count > len(names):
        raise ConfigError(f"--freeze.count {config.count}: {architecture} has {len(names)} layers before its head")


def _first_learning(names: list[str], config: FreezeConfig) -> int:
    """The place of the first layer that learns, where the first part of the layers is frozen."""
    place = _place_of(config.until, names) if config.until else None
    return round(config.fraction * len(names)) if place is None else place


def _place_of(part: str, names: list[str]) -> int | None:
    """The place of the first layer of a part of the network; None where the network has no such part."""
    return next((place for place, name in enumerate(names) if f"{name}.".startswith(f"{part}.")), None)


def train_mode(network: nn.Module) -> None:
    """Call `network.train()`, but let frozen BatchNorm use its statistics and keep them."""
    network.train()
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            parameters = list(module.parameters(recurse=False))
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                module.eval()


def least_important(network: nn.Module, loss: Callable[[], float], fraction: float, count: int = 0) -> list[str]:
    """Name the layers without which the loss rises least, in the order of the network.

    loss      computes the validation loss of the network as it is now; called once for every layer
    fraction  of all layers, 0..1
    count     number of layers; 0: `fraction` of them
    """
    candidates = layers(network)
    whole = loss()
    rises = []
    for layer in candidates:
        with _zeroed(layer):
            rise = loss() - whole
            rises.append(rise if math.isfinite(rise) else math.inf)
    order = sorted(range(len(candidates)), key=lambda number: (rises[number], number))
    chosen = set(order[: count or round(fraction * len(candidates))])
    return [layer.name for number, layer in enumerate(candidates) if number in chosen]


@contextlib.contextmanager
def _zeroed(layer: Layer) -> Iterator[None]:
    """Set the parameters of a layer to 0 for a block, and restore them to the bit."""
    kept = [parameter.detach().clone() for parameter in layer.parameters]
    with torch.no_grad():
        try:
            for parameter in layer.parameters:
                parameter.zero_()
            yield
        finally:
            for parameter, value in zip(layer.parameters, kept, strict=True):
                parameter.copy_(value)


def freeze_unused(network: nn.Module, views: torch.Tensor) -> list[str]:
    """Freeze the parameters that get no gradient, and name them. DDP waits for the gradient of all that learn.

    Some encoders keep layers of the classifier that they were: EfficientNet's last convolution stands in a U-Net, and
    no path leads through it. One backward pass finds them. It leaves no gradient, statistics or random numbers behind.

    views  (N, 1, S, S) float, as the network takes them; their values do not matter
    """
    network.eval()
    with torch.enable_grad(), torch.compiler.set_stance("force_eager"):  # another size would be compiled for nothing
        network(views).sum().backward()
    unused = [
        (name, parameter)
        for name, parameter in network.named_parameters()
        if parameter.requires_grad and parameter.grad is None
    ]
    for _, parameter in unused:
        parameter.requires_grad_(False)
    network.zero_grad(set_to_none=True)
    return [name for name, _ in unused]

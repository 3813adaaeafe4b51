"""Architectures and heads by name. A network takes one or three channels: (N, C, S, S) float."""

import re
import textwrap
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.modules.utils import _pair
from torch.overrides import TorchFunctionMode

from cxrpipe.errors import ConfigError
from cxrpipe.models import timm_networks, xrv_networks
from cxrpipe.models.card import Card
from cxrpipe.models.folder import ONNX
from cxrpipe.models.libraries import smp, torchvision
from cxrpipe.models.networks import CLASSIC_UNET, SMALL_CNN, ClassicUnet, small_cnn
from cxrpipe.models.timm_networks import TIMM

UNET, XRV = "unet-", "xrv:"
MESSAGE_CHARACTERS = 200
"""Characters of torch's message that an error repeats: torch may name hundreds of tensors."""
_NO_LOGITS = ("squeezenet1_0", "squeezenet1_1")
"""These networks end in a ReLU, so none of their logits is below zero."""
_HIDDEN = re.compile(r"(dense|mlp)-([1-9]\d{0,4})")


class Dropouts(NamedTuple):
    """The fractions that a head drops in training."""

    dropout: float = 0.5
    """Of smallcnn, and of a dense or an MLP head."""
    last: float | None = None
    """Right before the logits of an MLP head; None: `dropout`."""


_HALF = Dropouts()


class DenseHead(nn.Sequential):
    """A dense layer, ReLU, Dropout, and a logit for each output."""

    def __init__(self, features: int, units: int, outputs: int, dropouts: Dropouts) -> None:
        dense, logits = nn.Linear(features, units), nn.Linear(units, outputs)
        super().__init__(dense, nn.ReLU(), nn.Dropout(dropouts.dropout), logits)


class MlpHead(nn.Sequential):
    """Dropout, a dense layer, ReLU, BatchNorm, Dropout, and a logit for each output."""

    def __init__(self, features: int, units: int, outputs: int, dropouts: Dropouts) -> None:
        first, last = dropouts.dropout, dropouts.dropout if dropouts.last is None else dropouts.last
        dense, logits = nn.Linear(features, units), nn.Linear(units, outputs)
        super().__init__(nn.Dropout(first), dense, nn.ReLU(), nn.BatchNorm1d(units), nn.Dropout(last), logits)


class NoHead(nn.Identity):
    """Stands where a bare backbone has no head: its output, (N, D), is the feature vector."""


def check_architecture(architecture: str, task: str, side_px: int, head: str = "linear", channels: int = 1) -> None:
    """Raise ConfigError where the architecture cannot be trained for the task, or does not take images of this side."""
    check_name(architecture, task)
    if architecture == ONNX:
        raise ConfigError("arch onnx: an ONNX file computes and does not learn; expected a network of torch")
    if architecture.startswith(XRV):
        raise ConfigError(f"arch {architecture}: scored and not trained here; expected {UNET}<encoder>")
    if head != "linear" and (task == "segment" or not _HIDDEN.fullmatch(head)):
        expected = "linear" if task == "segment" else "linear, dense-<units> or mlp-<units>, such as mlp-512"
        raise ConfigError(f"head {head!r}; to {task}, expected {expected}")
    try:
        with torch.inference_mode():
            network = build(architecture, 1, side_px, head, channels=channels)
            network.eval()(torch.zeros(1, channels, side_px, side_px))
    except (RuntimeError, ValueError, AssertionError) as error:
        why = textwrap.shorten(str(error), MESSAGE_CHARACTERS)
        raise ConfigError(f"arch {architecture} does not take images of side_px {side_px} ({why})") from None


def check_name(architecture: str, task: str) -> None:
    """Raise ConfigError where no architecture of this name does the task."""
    if task == "segment":
        if architecture == CLASSIC_UNET:  # needs no smp, whose import takes half a second
            return
        if architecture.startswith(XRV):
            xrv_networks.check_name(architecture)
            return
        known = (*smp().encoders.get_encoder_names(), CLASSIC_UNET.removeprefix(UNET))
        if architecture.removeprefix(UNET) not in known or not architecture.startswith(UNET):
            raise ConfigError(
                f"arch {architecture!r}; to segment, expected {UNET}<encoder>, such as unet-resnet34, or {CLASSIC_UNET}"
            )
        return
    if architecture.startswith(TIMM):
        timm_networks.parse(architecture)
        return
    known = (SMALL_CNN, ONNX, *torchvision.models.list_models(module=torchvision.models))
    if architecture in _NO_LOGITS or architecture not in known:
        raise ConfigError(
            f"arch {architecture!r}; to {task}, expected a torchvision classifier, such as resnet50, {SMALL_CNN}, or "
            f"{TIMM}NAME"
        )


def build(
    architecture: str,
    outputs: int,
    side_px: int = 224,
    head: str = "linear",
    dropouts: Dropouts = _HALF,
    channels: int = 1,
) -> nn.Module:
    """A network with fresh weights: (N, C, S, S) float → (N, F) logits, or (N, F, S, S) logits of a U-Net.

    outputs   F; 0: a bare backbone, which gives its feature vector, (N, D)
    head      `linear`, `dense-<units>` or `mlp-<units>`
    dropouts  what heads with a hidden layer, and smallcnn, drop in training
    channels  C, 1 or 3; smallcnn and unet-classic have one
    """
    if architecture in (SMALL_CNN, CLASSIC_UNET) and channels != 1:
        raise ConfigError(f"{architecture} takes one channel, and not {channels}")
    if architecture == CLASSIC_UNET:
        return ClassicUnet(outputs)
    if architecture.startswith(XRV):
        return xrv_networks.build(architecture, outputs, channels)
    if architecture.startswith(UNET):
        encoder = architecture.removeprefix(UNET)
        unet: nn.Module = smp().Unet(encoder, encoder_weights=None, in_channels=channels, classes=outputs)
        return unet
    if architecture == SMALL_CNN:
        network: nn.Module = small_cnn(outputs or 1, side_px, dropouts.dropout)
    elif architecture.startswith(TIMM):
        network = timm_networks.build(architecture, outputs or 1, side_px, channels)
    else:
        network = torchvision.models.get_model(architecture, weights=None, **_options(architecture, side_px))
        if channels == 1:
            _take_one_channel(network)
    name, last = _last_linear(network)
    if architecture.startswith(TIMM) and outputs and head == "linear":
        return network  # with timm's initial values
    network.set_submodule(name, _head(head, last.in_features, outputs, dropouts))
    return network


def build_from_card(card: Card, more_outputs: int = 0, dropouts: Dropouts = _HALF) -> nn.Module:
    """The network of a card, with fresh weights; a backbone's ends before the head, in feature vectors (N, D).

    more_outputs  outputs that only training has, behind those of the card
    """
    return build(card.architecture, outputs_of(card) + more_outputs, card.side_px, card.head, dropouts, card.channels)


def outputs_of(card: Card) -> int:
    """How many outputs the network of a card has; 0 of a bare backbone."""
    if card.task == "segment":
        return len(card.structures) or 1
    return len(card.outputs or card.findings)


def build_without_values(card: Card) -> nn.Module:
    """The network of a card, on torch's device `meta` where the architecture allows it: its values are loaded later.

    Drawing initial values takes 0.2 s of a ResNet-50's 0.26, and loading overwrites them at once. Drawing them on
    `meta` would import torch's compiler, 1.1 s.
    """
    try:
        with torch.device("meta"), _NothingDrawn():
            return build_from_card(card)
    except (RuntimeError, NotImplementedError):  # RegNets, for example, compute with values while they are built
        return build_from_card(card)


class _NothingDrawn(TorchFunctionMode):
    """Tensors keep their values where torch would draw random numbers for them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func in _DRAWN else func(*args, **(kwargs or {}))


_DRAWN = (torch.Tensor.normal_, torch.Tensor.uniform_)


def head_of(network: nn.Module) -> tuple[str, nn.Module]:
    """The head and its name: one with a hidden layer, the last linear layer, or the last convolution of a U-Net.

    The head of a bare backbone does nothing. The input of a classifier's head is the feature vector of a view.
    """
    heads = [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, DenseHead | MlpHead | NoHead) or name in ("segmentation_head", xrv_networks.HEAD)
    ]
    return heads[0] if heads else _last_linear(network)


def keep_outputs(network: nn.Module, outputs: int) -> None:
    """Keep the first `outputs` outputs of a classifier, and drop the others, which only training needed."""
    name, last = _last_linear(network)
    kept = nn.Linear(last.in_features, outputs, device=last.weight.device)
    with torch.no_grad():
        kept.weight.copy_(last.weight[:outputs])
        kept.bias.copy_(last.bias[:outputs])
    network.set_submodule(name, kept)


def _options(architecture: str, side_px: int) -> dict[str, Any]:
    """Arguments of torchvision beside the name: a fixed side, and no auxiliary logits, in training either."""
    if architecture.startswith("vit_"):
        return {"image_size": side_px}
    if architecture == "maxvit_t":
        return {"input_size": (side_px, side_px)}
    if architecture in ("googlenet", "inception_v3"):
        return {"aux_logits": False, "init_weights": False}
    return {}


def _take_one_channel(network: nn.Module) -> None:
    """Replace the first convolution by one with a single input channel."""
    name, first = next((name, module) for name, module in network.named_modules() if isinstance(module, nn.Conv2d))
    kernel, stride, padding = (_pair(size) for size in (first.kernel_size, first.stride, first.padding))
    grey = nn.Conv2d(1, first.out_channels, kernel, stride, padding, bias=first.bias is not None)
    nn.init.kaiming_normal_(grey.weight, mode="fan_out", nonlinearity="relu")
    network.set_submodule(name, grey)


def _head(head: str, features: int, outputs: int, dropouts: Dropouts) -> nn.Module:
    if not outputs:
        return NoHead()
    hidden = _HIDDEN.fullmatch(head)
    if not hidden:
        return nn.Linear(features, outputs)
    return _HEADS[hidden[1]](features, int(hidden[2]), outputs, dropouts)


_HEADS: dict[str, type[DenseHead] | type[MlpHead]] = {"dense": DenseHead, "mlp": MlpHead}


def _last_linear(network: nn.Module) -> tuple[str, nn.Linear]:
    if hasattr(network, "get_classifier"):  # a network of timm: not all of them define their classifier last
        name = timm_networks.classifier_of(network)
        layer = network.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        return name, layer
    return [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Linear)][-1]

"""Architectures by name, and weights without pickle. Every network takes one channel: (N, 1, S, S) float."""

import urllib.error
from typing import Any

import safetensors
import safetensors.torch
import torch
import torchvision
from torch import nn
from torch.nn.modules.utils import _pair

from cxrpipe import storage
from cxrpipe.cards import WEIGHTS, Card, ModelFolder
from cxrpipe.errors import ConfigError

UNET = "unet-"
# Grey levels repeated over ImageNet's three channels have these moments on average.
IMAGENET_MEAN, IMAGENET_STD = 0.449, 0.226
SCRATCH_MEAN, SCRATCH_STD = 0.5, 0.25


def check_architecture(architecture: str, task: str) -> None:
    """ConfigError where the name is not an architecture for the task."""
    if task == "segment":
        encoders = _smp().encoders.get_encoder_names()
        if architecture.removeprefix(UNET) not in encoders or not architecture.startswith(UNET):
            raise ConfigError(f"arch {architecture!r}; to segment, expected {UNET}<encoder>, such as unet-resnet34")
    elif architecture not in torchvision.models.list_models(module=torchvision.models):
        raise ConfigError(f"arch {architecture!r} is no torchvision classifier; expected one such as resnet50")


def build(architecture: str, outputs: int) -> nn.Module:
    """A network with fresh weights: (N, 1, S, S) float → (N, F) logits, or (N, 1, S, S) logits of a U-Net."""
    if architecture.startswith(UNET):
        encoder = architecture.removeprefix(UNET)
        return _smp().Unet(encoder, encoder_weights=None, in_channels=1, classes=outputs)
    network = torchvision.models.get_model(architecture, weights=None)
    _take_one_channel(network)
    _replace_head(network, outputs)
    return network


def build_from_card(card: Card) -> nn.Module:
    return build(card.architecture, len(card.findings) or 1)


def start_weights(network: nn.Module, architecture: str, weights: str) -> None:
    """Fill the network before training: `none` keeps it, `imagenet` fetches, a URL reads a file or a model folder.

    What does not fit (a head for other findings) keeps its fresh weights; nothing that fits is a ConfigError.
    """
    if weights == "none":
        return
    state = _imagenet(architecture) if weights == "imagenet" else _read_state(storage.normalise(weights))
    own = network.state_dict()
    state = {key: _as_one_channel(value, own.get(key)) for key, value in state.items()}
    fits = {key: value for key, value in state.items() if key in own and value.shape == own[key].shape}
    if not fits:
        raise ConfigError(f"{weights}: no tensor in it fits {architecture}")
    network.load_state_dict(fits, strict=False)


def load(model: ModelFolder) -> nn.Module:
    """The network of a model folder, in eval mode, on the CPU."""
    network = build_from_card(model.card)
    try:
        network.load_state_dict(safetensors.torch.load(model.read_weights()))
    except (RuntimeError, safetensors.SafetensorError) as error:
        raise ConfigError(f"{model.url}: its weights do not fit {model.card.architecture} ({error})") from None
    return network.eval()


def weights_bytes(network: nn.Module) -> bytes:
    """The network's parameters and buffers as a safetensors file."""
    return safetensors.torch.save({key: value.contiguous() for key, value in network.state_dict().items()})


def _smp() -> Any:
    """segmentation_models_pytorch, which takes a second to import: only who segments waits for it."""
    import segmentation_models_pytorch

    return segmentation_models_pytorch


def _take_one_channel(network: nn.Module) -> None:
    """Replace the first convolution by one of a single input channel."""
    name, first = next((name, module) for name, module in network.named_modules() if isinstance(module, nn.Conv2d))
    kernel, stride, padding = (_pair(size) for size in (first.kernel_size, first.stride, first.padding))
    grey = nn.Conv2d(1, first.out_channels, kernel, stride, padding, bias=first.bias is not None)
    nn.init.kaiming_normal_(grey.weight, mode="fan_out", nonlinearity="relu")
    network.set_submodule(name, grey)


def _replace_head(network: nn.Module, outputs: int) -> None:
    """Replace the last linear layer by one of `outputs`."""
    name, head = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Linear)][-1]
    network.set_submodule(name, nn.Linear(head.in_features, outputs))


def _as_one_channel(value: torch.Tensor, own: torch.Tensor | None) -> torch.Tensor:
    """A first convolution for colour, summed: a grey image shown to it on three channels gives the same."""
    colour = own is not None and value.ndim == 4 and value.shape[1] == 3 and own.shape[1] == 1
    return value.sum(dim=1, keepdim=True) if colour else value


def _imagenet(architecture: str) -> dict[str, torch.Tensor]:
    try:
        if architecture.startswith(UNET):
            encoder = architecture.removeprefix(UNET)
            return _smp().Unet(encoder, encoder_weights="imagenet", in_channels=3).state_dict()
        return torchvision.models.get_model(architecture, weights="DEFAULT").state_dict()
    except (urllib.error.URLError, OSError) as error:
        raise ConfigError(
            f"weights imagenet: cannot be downloaded here ({error}); "
            "name a file with --weights, or train from scratch with --weights none"
        ) from None


def _read_state(url: str) -> dict[str, torch.Tensor]:
    """A state from a model folder or a .safetensors file. Pickled files are refused: loading one runs its code."""
    place = url if url.endswith(".safetensors") else storage.join(url, WEIGHTS)
    try:
        return safetensors.torch.load(storage.read(place))
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(f"{url}: no weights there; expected a model folder or a .safetensors file") from None
    except safetensors.SafetensorError as error:
        raise ConfigError(f"{place}: not a safetensors file ({error})") from None

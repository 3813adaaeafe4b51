"""Architectures by name, and weights without pickle. Every network takes one channel: (N, 1, S, S) float."""

import textwrap
import urllib.request
from collections import OrderedDict
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
_CONNECT_S = 10
_SAID = 200
"""Characters of torch's own words in a message: it may name hundreds of tensors."""
# Mean of ImageNet's three channels. Every network is trained under them, so that weights pass from one to another.
IMAGENET_MEAN, IMAGENET_STD = 0.449, 0.226
_NO_LOGITS = ("squeezenet1_0", "squeezenet1_1")
"""They end in a ReLU: no logit below zero."""


def check_architecture(architecture: str, task: str, side_px: int) -> None:
    """ConfigError where the name is not an architecture for the task, or not one for images of this side."""
    _check_name(architecture, task)
    try:
        with torch.inference_mode():
            build(architecture, 1, side_px).eval()(torch.zeros(1, 1, side_px, side_px))
    except (RuntimeError, ValueError, AssertionError) as error:
        why = textwrap.shorten(str(error), _SAID)
        raise ConfigError(f"arch {architecture} does not take images of side_px {side_px} ({why})") from None


def _check_name(architecture: str, task: str) -> None:
    if task == "segment":
        encoders = _smp().encoders.get_encoder_names()
        if architecture.removeprefix(UNET) not in encoders or not architecture.startswith(UNET):
            raise ConfigError(f"arch {architecture!r}; to segment, expected {UNET}<encoder>, such as unet-resnet34")
    elif architecture in _NO_LOGITS or architecture not in torchvision.models.list_models(module=torchvision.models):
        raise ConfigError(f"arch {architecture!r}; to classify, expected a torchvision classifier, such as resnet50")


def build(architecture: str, outputs: int, side_px: int = 224) -> nn.Module:
    """A network with fresh weights: (N, 1, S, S) float → (N, F) logits, or (N, 1, S, S) logits of a U-Net."""
    if architecture.startswith(UNET):
        encoder = architecture.removeprefix(UNET)
        return _smp().Unet(encoder, encoder_weights=None, in_channels=1, classes=outputs)
    network = torchvision.models.get_model(architecture, weights=None, **_options(architecture, side_px))
    _take_one_channel(network)
    name, head = _head(network)
    network.set_submodule(name, nn.Linear(head.in_features, outputs))
    return network


def build_from_card(card: Card) -> nn.Module:
    return build(card.architecture, len(card.findings) or 1, card.side_px)


def start_weights(network: nn.Module, architecture: str, weights: str) -> None:
    """Fill the network before training: `none` keeps it, `imagenet` fetches, a URL reads a file or a model folder.

    A head of another shape (for other findings) keeps its fresh weights. Any other parameter without its like in the
    weights is a ConfigError: a network that is silently half fresh would pass for a fine-tuned one.
    """
    if weights == "none":
        return
    state = _imagenet(architecture) if weights == "imagenet" else _read_state(storage.normalise(weights))
    own = network.state_dict()
    state = {key: _as_one_channel(value, own.get(key)) for key, value in state.items()}
    fits = {key: value for key, value in state.items() if key in own and value.shape == own[key].shape}
    head = "segmentation_head" if architecture.startswith(UNET) else _head(network)[0]
    missing = [key for key, _ in network.named_parameters() if key not in fits and not key.startswith(f"{head}.")]
    if missing:
        raise ConfigError(
            f"{weights}: {len(missing)} tensors of {architecture} are not in it or have another shape, such as "
            f"{missing[0]}; expected weights of the same architecture (a transformer's: of the same side_px)"
        )
    network.load_state_dict(fits, strict=False)


def load(model: ModelFolder) -> nn.Module:
    """The network of a model folder, in eval mode, on the CPU."""
    _check_name(model.card.architecture, model.card.task)
    network = build_from_card(model.card)
    try:
        restore(network, model.read_weights())
    except (RuntimeError, safetensors.SafetensorError) as error:
        why = textwrap.shorten(str(error), _SAID)
        raise ConfigError(f"{model.url}: its weights do not fit {model.card.architecture} ({why})") from None
    return network.eval()


def weights_bytes(network: nn.Module) -> bytes:
    """The network's parameters and buffers as a safetensors file."""
    return safetensors.torch.save({key: value.contiguous() for key, value in network.state_dict().items()})


def restore(network: nn.Module, weights: bytes) -> None:
    """The inverse of `weights_bytes`, into a network of the same architecture."""
    versions = network.state_dict()._metadata  # type: ignore[attr-defined]  # a file has none, and MNASNet insists on its own
    loaded = OrderedDict(safetensors.torch.load(weights))
    loaded._metadata = versions  # type: ignore[attr-defined]
    network.load_state_dict(loaded)


def _smp() -> Any:
    """segmentation_models_pytorch, which takes a second to import: only who segments waits for it."""
    import segmentation_models_pytorch

    return segmentation_models_pytorch


def _options(architecture: str, side_px: int) -> dict[str, Any]:
    """What torchvision must be told beyond the name: a fixed side, and to answer with logits alone in training too."""
    if architecture.startswith("vit_"):
        return {"image_size": side_px}
    if architecture == "maxvit_t":
        return {"input_size": (side_px, side_px)}
    if architecture in ("googlenet", "inception_v3"):
        return {"aux_logits": False, "init_weights": False}
    return {}


def _take_one_channel(network: nn.Module) -> None:
    """Replace the first convolution by one of a single input channel."""
    name, first = next((name, module) for name, module in network.named_modules() if isinstance(module, nn.Conv2d))
    kernel, stride, padding = (_pair(size) for size in (first.kernel_size, first.stride, first.padding))
    grey = nn.Conv2d(1, first.out_channels, kernel, stride, padding, bias=first.bias is not None)
    nn.init.kaiming_normal_(grey.weight, mode="fan_out", nonlinearity="relu")
    network.set_submodule(name, grey)


def _head(network: nn.Module) -> tuple[str, nn.Linear]:
    """The last linear layer, and its name."""
    return [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Linear)][-1]


def _as_one_channel(value: torch.Tensor, own: torch.Tensor | None) -> torch.Tensor:
    """A first convolution for colour, summed over its channels.

    Exact where the colour network was shown a grey image on three channels under one mean and std. ImageNet's had a
    mean and std for each channel: under our one pair a channel is moved by up to 0.2 of its std (a constant for each
    output, but at the border) and scaled by up to 1.3%. Fine-tuning takes that up.
    """
    colour = own is not None and value.ndim == 4 and value.shape[1] == 3 and own.shape[1] == 1
    return value.sum(dim=1, keepdim=True) if colour else value


def _imagenet(architecture: str) -> dict[str, torch.Tensor]:
    try:
        if architecture.startswith(UNET):
            return _imagenet_unet(architecture.removeprefix(UNET))
        return torchvision.models.get_model(architecture, weights="DEFAULT").state_dict()
    except OSError as error:  # URLError of torchvision, the errors of the hub: all of them are
        raise ConfigError(
            f"weights imagenet: cannot be downloaded here ({error}); "
            "name a file with --weights, or train from scratch with --weights none"
        ) from None


def _imagenet_unet(encoder: str) -> dict[str, torch.Tensor]:
    """The state of a U-Net with a pretrained encoder and a fresh decoder."""
    import huggingface_hub  # comes with smp, and takes as long to import

    known = _smp().encoders.encoders[encoder]["pretrained_settings"]
    if "imagenet" not in known:
        raise ConfigError(f"weights imagenet: there are none of {UNET}{encoder}; it has {', '.join(known) or 'none'}")
    place = {key: known["imagenet"][key] for key in ("repo_id", "revision")} | {"filename": "model.safetensors"}
    if not huggingface_hub.try_to_load_from_cache(**place):
        # The hub itself asks six times, in 24 s and ten lines of log, before it says that there is no network.
        request = urllib.request.Request(huggingface_hub.hf_hub_url(**place), method="HEAD")
        urllib.request.urlopen(request, timeout=_CONNECT_S).close()
    return _smp().Unet(encoder, encoder_weights="imagenet", in_channels=3).state_dict()


def _read_state(url: str) -> dict[str, torch.Tensor]:
    """A state from a model folder or a .safetensors file. Pickled files are refused: loading one runs its code."""
    place = url if url.endswith(".safetensors") else storage.join(url, WEIGHTS)
    try:
        return safetensors.torch.load(storage.read(place))
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(f"{url}: no weights there; expected a model folder or a .safetensors file") from None
    except safetensors.SafetensorError as error:
        raise ConfigError(f"{place}: not a safetensors file ({error})") from None

"""Reads the weights that a training starts from, and saves and loads weights. Every file is safetensors, no pickle."""

import textwrap
import urllib.request
from collections import OrderedDict
from collections.abc import Callable

import safetensors
import safetensors.torch
import torch
from torch import nn

from cxrpipe import storage
from cxrpipe.errors import ConfigError
from cxrpipe.models.architectures import (
    MESSAGE_CHARACTERS,
    UNET,
    build_from_card,
    build_without_values,
    check_name,
    head_of,
)
from cxrpipe.models.folder import ONNX, WEIGHTS, ModelFolder
from cxrpipe.models.libraries import smp, torchvision
from cxrpipe.models.networks import CLASSIC_UNET, SMALL_CNN
from cxrpipe.models.onnx_network import OnnxNetwork
from cxrpipe.models.timm_networks import TIMM

_CONNECT_S = 10
IMAGENET_MEANS, IMAGENET_STDS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Means over ImageNet's three channels. Every network is trained with this mean and std, so that one network can start
# from the weights of another.
IMAGENET_MEAN, IMAGENET_STD = 0.449, 0.226


def start_weights(network: nn.Module, architecture: str, weights: str) -> None:
    """Fill the network before training: `imagenet` downloads weights, a URL names a file or a model folder.

    `none` keeps the fresh weights. A head of another shape (for other findings) keeps its fresh weights too.
    ConfigError where any other parameter finds no weights of its shape: a network that is silently half fresh would
    pass for a fine-tuned one.
    """
    if weights == "none":
        return
    state = _imagenet(architecture) if weights == "imagenet" else _read_state(storage.normalise(weights))
    fresh = network.state_dict()
    state = {key: _as_one_channel(value, fresh.get(key)) for key, value in state.items()}
    fits = {key: value for key, value in state.items() if key in fresh and value.shape == fresh[key].shape}
    head = head_of(network)[0]
    missing = [key for key, _ in network.named_parameters() if key not in fits and not key.startswith(f"{head}.")]
    if missing:
        raise ConfigError(
            f"{weights}: {len(missing)} tensors of {architecture} are not in it or have another shape, such as "
            f"{missing[0]}; expected weights of the same architecture (a transformer's: of the same side_px)"
        )
    network.load_state_dict(fits, strict=False)


def load(model: ModelFolder, read: Callable[[ModelFolder], bytes] = ModelFolder.read_weights) -> nn.Module:
    """The network of a model folder, in eval mode, on the CPU.

    read  reads the weights file and checks it against the card
    """
    check_name(model.card.architecture, model.card.task)
    weights = read(model)
    if model.card.architecture == ONNX:
        return OnnxNetwork(weights, model.url).eval()
    try:
        network = build_without_values(model.card)
        network.load_state_dict(_state(network, weights), assign=True)  # the file's tensors themselves, no copies
        if any(tensor.is_meta for tensor in (*network.parameters(), *network.buffers())):
            # No file holds the tensors that a network computes when it is built, such as timm's positions.
            network = build_from_card(model.card)
            restore(network, weights)
    except (RuntimeError, safetensors.SafetensorError) as error:
        why = textwrap.shorten(str(error), MESSAGE_CHARACTERS)
        raise ConfigError(f"{model.url}: its weights do not fit {model.card.architecture} ({why})") from None
    return network.eval()


def weights_bytes(network: nn.Module) -> bytes:
    """The network's parameters and buffers as a safetensors file."""
    return safetensors.torch.save({key: value.contiguous() for key, value in network.state_dict().items()})


def restore(network: nn.Module, weights: bytes) -> None:
    """The inverse of `weights_bytes`, into a network of the same architecture."""
    network.load_state_dict(_state(network, weights))


def _state(network: nn.Module, weights: bytes) -> OrderedDict[str, torch.Tensor]:
    state = OrderedDict(safetensors.torch.load(weights))
    # A safetensors file holds no versions of modules, and MNASNet insists on its version.
    state._metadata = network.state_dict()._metadata  # type: ignore[attr-defined]
    return state


def _as_one_channel(value: torch.Tensor, fresh: torch.Tensor | None) -> torch.Tensor:
    """Sum a first convolution for colour over its channels; return any other tensor as it is.

    The sum is exact where the colour network saw a grey image on three channels under one mean and std. ImageNet's
    networks had a mean and std for each channel. Under our single pair a channel is moved by up to 0.2 of its std (a
    constant for each output, except at the border) and scaled by up to 1.3%. Fine-tuning makes up for both.
    """
    colour = fresh is not None and value.ndim == 4 and value.shape[1] == 3 and fresh.shape[1] == 1
    return value.sum(dim=1, keepdim=True) if colour else value


def _imagenet(architecture: str) -> dict[str, torch.Tensor]:
    if architecture.startswith(TIMM):
        raise ConfigError(
            f"weights imagenet: {architecture} has weights of its own; cxrpipe adopt {architecture} --out MODEL, then "
            "--weights MODEL"
        )
    if architecture in (SMALL_CNN, CLASSIC_UNET):
        raise ConfigError(f"weights imagenet: there are none of {architecture}; train it with --weights none")
    try:
        if architecture.startswith(UNET):
            return _imagenet_unet(architecture.removeprefix(UNET))
        state: dict[str, torch.Tensor] = torchvision.models.get_model(architecture, weights="DEFAULT").state_dict()
        return state
    except OSError as error:  # torchvision's URLError and the errors of the hub are OSErrors
        raise ConfigError(
            f"weights imagenet: cannot be downloaded here ({error}); "
            "name a file with --weights, or train from scratch with --weights none"
        ) from None


def _imagenet_unet(encoder: str) -> dict[str, torch.Tensor]:
    """The state of a U-Net with a pretrained encoder and a fresh decoder."""
    import huggingface_hub  # a dependency of smp, which takes as long to import as smp

    known = smp().encoders.encoders[encoder]["pretrained_settings"]
    if "imagenet" not in known:
        raise ConfigError(f"weights imagenet: there are none of {UNET}{encoder}; it has {', '.join(known) or 'none'}")
    place = {key: known["imagenet"][key] for key in ("repo_id", "revision")} | {"filename": "model.safetensors"}
    if not huggingface_hub.try_to_load_from_cache(**place):
        # The hub's client tries six times, in 24 s and ten lines of log, before it reports that there is no network.
        request = urllib.request.Request(huggingface_hub.hf_hub_url(**place), method="HEAD")
        urllib.request.urlopen(request, timeout=_CONNECT_S).close()
    state: dict[str, torch.Tensor] = smp().Unet(encoder, encoder_weights="imagenet", in_channels=3).state_dict()
    return state


def _read_state(url: str) -> dict[str, torch.Tensor]:
    """A state from a model folder or a .safetensors file. Pickled files are refused: loading a pickle runs its code."""
    place = url if url.endswith(".safetensors") else storage.join(url, WEIGHTS)
    try:
        return safetensors.torch.load(storage.read(place))
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(f"{url}: no weights there; expected a model folder or a .safetensors file") from None
    except safetensors.SafetensorError as error:
        raise ConfigError(f"{place}: not a safetensors file ({error})") from None

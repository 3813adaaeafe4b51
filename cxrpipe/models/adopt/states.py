"""Reads the tensors of a weights file, safetensors or torch's own, and fits them to a network."""

import hashlib
import io
import pickle
import struct
import textwrap
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from cxrpipe import storage
from cxrpipe.errors import ConfigError
from cxrpipe.models.adopt.unpickle import unpickle
from cxrpipe.models.architectures import MESSAGE_CHARACTERS

_NESTED = ("state_dict", "model_state_dict", "model", "net", "network")
"""Where the checkpoints of colleagues and of Lightning keep the state, the first that is there."""
NOT_NEEDED = ("num_batches_tracked",)
"""Ends of names of tensors that a network can do without: BatchNorm counts batches, and does not use the count."""
_NOT_SCORED = ("op_threshs", "aux", "AuxLogits", "convbnrelu4_aux")
"""Beginnings of names of tensors that scoring does not use: operating points, and branches that only training has."""
_UNREADABLE = (RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, OverflowError, struct.error)
"""What torch raises for a file that is broken or not its own."""


class State(NamedTuple):
    """The tensors of a weights file."""

    url: str
    sha256: str
    """Of the file."""
    tensors: dict[str, Tensor]
    outputs: tuple[str, ...] = ()
    """Names of the network's outputs, where the file has them."""


def read(url: str, trust_pickle: bool = False) -> State:
    """Read a `.safetensors` file or one that `torch.save` has written. ConfigError where the file is neither.

    trust_pickle  open a pickled module, too, in a process of its own (`unpickle`); otherwise it is refused unopened
    """
    url = storage.normalise(url)
    try:
        data = storage.read(url)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise ConfigError(f"{url}: no such file; expected a weights file") from None
    sha256 = hashlib.sha256(data).hexdigest()
    if url.endswith(".safetensors"):
        try:
            return State(url, sha256, safetensors.torch.load(data))
        except safetensors.SafetensorError as error:
            raise ConfigError(f"{url}: not a safetensors file ({error})") from None
    _refuse_code(data, url)
    try:
        return State(url, sha256, _nested(torch.load(io.BytesIO(data), "cpu", weights_only=True), url))
    except pickle.UnpicklingError:
        if not _may_be_pickled(data):
            raise ConfigError(f"{url}: not a weights file; expected .safetensors or a file of torch.save") from None
    except _UNREADABLE as error:
        why = textwrap.shorten(str(error), MESSAGE_CHARACTERS)
        raise ConfigError(f"{url}: not a weights file ({why}); expected .safetensors or a file of torch.save") from None
    if not trust_pickle:
        raise ConfigError(
            f"{url}: holds pickled Python objects, which run their author's code when they are opened; it was not "
            "opened; if you trust the file, add --trust-pickle"
        )
    return State(url, sha256, *unpickle(data, url))


def fill(network: nn.Module, state: State, what: str) -> None:
    """Load the tensors of a state into a network. `what` names the network in an error.

    ConfigError where a tensor is missing, has another shape, or has no place: a ResNet-101 holds all tensors of a
    ResNet-50.
    """
    wanted = network.state_dict()
    needed = [key for key in wanted if not key.endswith(NOT_NEEDED)]
    tensors = without_prefix(state.tensors, needed, state.url, what)
    if other := [key for key in needed if tensors[key].shape != wanted[key].shape]:
        shapes = tuple(tensors[other[0]].shape), tuple(wanted[other[0]].shape)
        raise ConfigError(f"{state.url}: no weights of {what} ({other[0]} is {shapes[0]}; expected {shapes[1]})")
    if surplus := [key for key in tensors if key not in wanted and not key.startswith(_NOT_SCORED)]:
        raise ConfigError(
            f"{state.url}: no weights of {what} ({len(surplus):,} tensors have no place in it, such as {surplus[0]})"
        )
    network.load_state_dict({key: value for key, value in tensors.items() if key in wanted}, strict=False)


def without_prefix(tensors: Mapping[str, Tensor], wanted: Sequence[str], url: str, what: str) -> dict[str, Tensor]:
    """The tensors under the names that a network gives them.

    A file may have a prefix before all these names, such as `module.`; its tensors without the prefix belong to
    something else, such as a loss. ConfigError where one of the `wanted` names is missing, whatever the prefix.
    """
    prefixes = {key.removesuffix(wanted[0]) for key in tensors if key.endswith(wanted[0])} | {""}
    missing = {prefix: [key for key in wanted if prefix + key not in tensors] for prefix in sorted(prefixes)}
    prefix = min(missing, key=lambda prefix: len(missing[prefix]))
    if missing[prefix]:
        count, first = len(missing[prefix]), missing[prefix][0]
        raise ConfigError(f"{url}: no weights of {what} ({count:,} of its tensors are missing, such as {first})")
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def normalisation(mean: Sequence[float], std: Sequence[float], channels: int) -> dict[str, Any]:
    """The card's `channels`, `mean` and `std` of a network whose first layer takes so many channels.

    All channels hold the same film. Under one mean and std they are equal, and one channel does: see `in_channels`.
    """
    equal = {name: len(set(values)) == 1 for name, values in (("mean", mean), ("std", std))}
    return {
        "channels": 1 if all(equal.values()) else channels,
        "mean": mean[0] if equal["mean"] else tuple(mean),
        "std": std[0] if equal["std"] else tuple(std),
    }


def in_channels(tensors: dict[str, Tensor], first: str, channels: int) -> dict[str, Tensor]:
    """The tensors for so many channels: a first layer (O, C, h, w) of equal channels is summed, which is exact."""
    weight = tensors[first]
    return tensors | {first: weight.sum(1, keepdim=True)} if channels < weight.shape[1] else tensors


def keep_rows(tensors: dict[str, Tensor], head: str, kept: Sequence[int]) -> dict[str, Tensor]:
    """The tensors with only some outputs of the head, in their order: the others are never computed."""
    rows = list(kept)
    return tensors | {key: tensors[key][rows] for key in (f"{head}.weight", f"{head}.bias")}


def _nested(content: object, url: str) -> dict[str, Tensor]:
    """The state in a checkpoint of any of the usual shapes."""
    while isinstance(content, dict):
        if content and all(isinstance(value, Tensor) for value in content.values()):
            return {str(key): value for key, value in content.items()}
        inner = next((content[key] for key in _NESTED if isinstance(content.get(key), dict)), None)
        if inner is None:
            tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
            if tensors:
                return tensors
            keys = ", ".join(map(str, list(content)[:5])) or "nothing"
            raise ConfigError(
                f"{url}: no state dict in it (it holds {keys}); expected one, or one under state_dict or model"
            )
        content = inner
    raise ConfigError(f"{url}: holds a {type(content).__name__}; expected a state dict")


def _refuse_code(data: bytes, url: str) -> None:
    """Refuse TorchScript and torch.export by what their zip files hold."""
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return
    try:
        names = [name.partition("/")[2] for name in zipfile.ZipFile(io.BytesIO(data)).namelist()]
    except zipfile.BadZipFile:
        return
    kind = "TorchScript" if any(name.startswith("code/") for name in names) else None
    if any(name == "archive_format" or name.startswith("models/") for name in names):
        kind = "a torch.export file"
    if kind:
        raise ConfigError(
            f"{url}: {kind}, which is code that runs when it is loaded; expected a state dict, as "
            "torch.save(model.state_dict(), FILE) writes it, or an ONNX file (onnx:FILE)"
        )


def _may_be_pickled(data: bytes) -> bool:
    """Whether a file begins as one of torch.save: a zip, or a pickle of protocol 2 or later."""
    return data.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"))

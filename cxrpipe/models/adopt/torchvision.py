"""Adopts a state dict of a torchvision classifier: torchvision:ARCH --weights FILE.

A state dict says nothing of how films were prepared. Flags do; what they leave open is assumed, and printed.
"""

from collections.abc import Iterable

from torch import Tensor

from cxrpipe.config import AdoptConfig
from cxrpipe.errors import ConfigError
from cxrpipe.models.adopt import states
from cxrpipe.models.adopt.adopted import Adopted, assumptions, fields, provenance
from cxrpipe.models.adopt.findings import named_outputs, rows_to_keep
from cxrpipe.models.architectures import build, build_from_card, check_name, head_of
from cxrpipe.models.card import Card
from cxrpipe.models.weights import IMAGENET_MEAN, IMAGENET_MEANS, IMAGENET_STD, IMAGENET_STDS

_SIDE_PX = 224
_ASSUMED = {"side_px": _SIDE_PX, "fit": "squash", "resize": "bilinear", "intensity": "voi", "output": "sigmoid"}
"""What `Resize((224, 224))` of torchvision does, as most write it who train on chest films."""
_NORMALISE_AGAIN = ("googlenet", "inception_v3")
_TRANSFORM_INPUT = (
    "torchvision's pretrained networks of this kind normalise their input once more (transform_input); if yours did, "
    "its films were prepared with mean 0.5 and std 0.5"
)


def adopt(name: str, config: AdoptConfig) -> Adopted:
    """A network of torchvision, such as `resnet50`, with the weights of a file."""
    check_name(name, "classify")
    if not config.weights:
        raise ConfigError(f"{config.source}: a name and no weights; add --weights FILE, .safetensors or .pth")
    state = states.read(config.weights, config.trust_pickle)
    plain = build(name, 1, config.side_px or _SIDE_PX)
    head = head_of(plain)[0]
    body = [key for key in plain.state_dict() if not key.startswith(f"{head}.") and not key.endswith(states.NOT_NEEDED)]
    tensors = _with_head(states.without_prefix(state.tensors, body, state.url, name), head, body)
    if f"{head}.weight" not in tensors or f"{head}.bias" not in tensors:
        raise ConfigError(f"{state.url}: no linear layer {head} in it; expected one layer as the head of {name}")
    names = named_outputs(config.source, (), config.findings, len(tensors[f"{head}.weight"]))
    first = next(key for key, value in plain.state_dict().items() if value.ndim == 4)
    colour = tensors[first].shape[1] == 3
    mean = config.mean or (IMAGENET_MEANS if colour else (IMAGENET_MEAN,))
    std = config.std or (IMAGENET_STDS if colour else (IMAGENET_STD,))
    normalisation = states.normalisation(mean, std, tensors[first].shape[1])
    preparation = fields(config, **_ASSUMED) | normalisation
    tensors = states.in_channels(tensors, first, preparation["channels"])
    rows = rows_to_keep(names, preparation["output"])
    card = Card(
        task="classify",
        architecture=name,
        findings=tuple(filter(None, names)),
        outputs=names if "" in names and len(rows) == len(names) else (),
        **preparation,
    )
    network = build_from_card(card)
    states.fill(network, state._replace(tensors=states.keep_rows(tensors, head, rows)), name)
    warnings = (_TRANSFORM_INPUT,) if name in _NORMALISE_AGAIN else ()
    facts = provenance(f"{config.source} {config.weights}", warnings=warnings, file_sha256=state.sha256)
    return Adopted(card, network, facts, assumptions(config, _ASSUMED | normalisation))


def _with_head(tensors: dict[str, Tensor], head: str, body: Iterable[str]) -> dict[str, Tensor]:
    """The tensors with the last layer under torchvision's name for it, where somebody has put another one there.

    CheXNet, for one, has `classifier = Sequential(Linear(1024, 14), Sigmoid())`, so that its layer is `classifier.0`.
    """
    if f"{head}.weight" in tensors:
        return tensors
    place = head.partition(".")[0]
    layers = [
        key.removesuffix(".weight")
        for key, value in tensors.items()
        if key.startswith(f"{place}.") and key.endswith(".weight") and value.ndim == 2 and key not in body
    ]
    if len(layers) != 1:
        return tensors
    return {
        f"{head}.{key.removeprefix(f'{layers[0]}.')}" if key.startswith(f"{layers[0]}.") else key: value
        for key, value in tensors.items()
    }

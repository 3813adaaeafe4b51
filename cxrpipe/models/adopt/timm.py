"""Adopts classifiers and bare backbones of timm: timm:NAME, with the weights that the hub has of it, or a file."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from cxrpipe.config import AdoptConfig
from cxrpipe.errors import ConfigError
from cxrpipe.models import spelling, timm_networks
from cxrpipe.models.adopt import hub_files, states
from cxrpipe.models.adopt.adopted import Adopted, assumptions, fields, provenance
from cxrpipe.models.adopt.findings import named_outputs, rows_to_keep
from cxrpipe.models.adopt.states import State
from cxrpipe.models.architectures import build, build_from_card, head_of
from cxrpipe.models.card import Card
from cxrpipe.models.libraries import timm

_RESIZERS = ("bilinear", "bicubic", "lanczos")
_SPDX = {"apache-2.0": "Apache-2.0", "bsd-3-clause": "BSD-3-Clause"}
"""Licences that SPDX does not write in capitals."""


class Source(NamedTuple):
    """A network of timm, as its source describes it."""

    architecture: str
    state: State
    outputs: Sequence[str]
    """Names of the network's outputs; () where the source has none."""
    preparation: Mapping[str, Any]
    """Fields of the card: `side_px`, `mean`, `std`, `fit`, `crop_fraction`, `resize`, `output`."""
    assumed: Mapping[str, Any]
    """Of these fields, those that the source does not say."""
    facts: Mapping[str, Any]
    """Arguments of `provenance`."""


def adopt(name: str, config: AdoptConfig) -> Adopted:
    """A network of timm with pretrained weights, such as `vit_small_patch14_dinov2.lvd142m`.

    Without `--findings` it becomes a bare backbone: the outputs of timm's networks are photographs' classes.
    """
    architecture = timm_networks.parse(name)
    published = _published(name.partition(",")[0])
    if published is None or not (published.hf_hub_id or config.weights):
        tags = ", ".join(timm().list_pretrained(f"{architecture.model}.*")) or "none"
        raise ConfigError(f"{config.source}: timm knows no weights of this name; it knows {tags}")
    file = published.hf_hub_filename or hub_files.WEIGHTS
    state = states.read(config.weights or hub_files.local(published.hf_hub_id, file, "--weights FILE"))
    preparation, assumed = from_config(vars(published), ())
    source = f"{config.source} {config.weights or f'https://huggingface.co/{published.hf_hub_id}'}"
    facts = {"source": source, "licence": spdx(published.license), "citation": _paper(published)}
    return taken_in(Source(str(architecture), state, (), preparation, assumed, facts), config, bare=not config.findings)


def _published(name: str) -> Any:
    """timm's description of pretrained weights; None where it has none of this name."""
    try:
        return timm().get_pretrained_cfg(name)
    except RuntimeError:  # a known architecture and an unknown tag
        return None


def from_config(published: Mapping[str, Any], outputs: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """timm's `pretrained_cfg` → fields of the card, and those among them that it does not say.

    timm resizes the shorter edge to ⌊side / crop_pct⌋ and cuts the square out (crop_mode `center`), or squashes.
    """
    side_px = published["input_size"][-1]
    resize = published.get("interpolation", "bicubic")
    mode = published.get("crop_mode") or "center"
    crop_fraction = side_px / math.floor(side_px / (published.get("crop_pct") or 1.0))
    fits = {"center": "center-crop", "squash": "squash", "border": "letterbox"}
    if resize not in _RESIZERS or mode not in fits:
        raise ConfigError(
            f"interpolation {resize}, crop_mode {mode}: expected {', '.join(_RESIZERS)}; {', '.join(fits)}"
        )
    assumed = {"intensity": "voi", "output": output_for(outputs)}
    preparation = {
        "side_px": side_px,
        "mean": tuple(published["mean"]),
        "std": tuple(published["std"]),
        "fit": fits[mode],
        "crop_fraction": crop_fraction if mode == "center" else 1.0,
        "resize": resize,
    }
    return preparation | assumed, assumed


def output_for(outputs: Sequence[str]) -> str:
    """The activation where nobody says it: with an output that names no finding the outputs exclude each other."""
    return "softmax" if any(not spelling.of_output(output) for output in outputs) else "sigmoid"


def taken_in(source: Source, config: AdoptConfig, *, bare: bool = False) -> Adopted:
    """The network and card of a source.

    bare  leave the head out, where there is one
    """
    preparation = fields(config, **source.preparation)
    plain = build(source.architecture, 1, preparation["side_px"], channels=3)
    names, tensors = _with_outputs(source, config, head_of(plain)[0], preparation["output"], bare=bare)
    if not names:
        preparation["output"] = "sigmoid"
    first = next(key for key, value in plain.state_dict().items() if value.ndim == 4)
    if first in tensors:
        channels = tensors[first].shape[1]
        mean, std = (_of_channels(preparation[name], channels) for name in ("mean", "std"))
        preparation |= states.normalisation(mean, std, channels)
        tensors = states.in_channels(tensors, first, preparation["channels"])
    card = Card(
        task="classify" if names else "embed",
        architecture=source.architecture,
        findings=tuple(filter(None, names)),
        outputs=names if "" in names else (),
        **preparation,
    )
    network = build_from_card(card)
    states.fill(network, source.state._replace(tensors=tensors), source.architecture)
    assumed = {name: value for name, value in source.assumed.items() if names or name != "output"}
    facts = provenance(**source.facts, file_sha256=source.state.sha256)
    return Adopted(card, network, facts, assumptions(config, assumed))


def _with_outputs(
    source: Source, config: AdoptConfig, head: str, output: str, *, bare: bool
) -> tuple[tuple[str, ...], dict[str, Tensor]]:
    """The names of the outputs that are kept, and the tensors with their rows of the head; () without a head."""
    tensors = dict(source.state.tensors)
    if f"{head}.weight" not in tensors and config.findings:
        raise ConfigError(f"{config.source}: a backbone without a head; --findings names the outputs of a head")
    if f"{head}.weight" not in tensors or bare:
        return (), {key: value for key, value in tensors.items() if not key.startswith(f"{head}.")}
    names = named_outputs(config.source, source.outputs, config.findings, len(tensors[f"{head}.weight"]))
    rows = rows_to_keep(names, output)
    return tuple(names[row] for row in rows), states.keep_rows(tensors, head, rows)


def _of_channels(values: float | tuple[float, ...], channels: int) -> tuple[float, ...]:
    """A value for each channel as one or several; of a network of one channel their average, for timm names three."""
    values = values if isinstance(values, tuple) else (values,)
    return (sum(values) / len(values),) if channels == 1 else values


def spdx(licence: str | None) -> str | None:
    """A licence as hubs write it → its SPDX identifier: `mit` → `MIT`."""
    return _SPDX.get(licence, licence.upper()) if licence else None


def _paper(published: Any) -> str | None:
    ids = published.paper_ids if isinstance(published.paper_ids, str) else ", ".join(published.paper_ids or ())
    return ", ".join(filter(None, (published.paper_name, ids))) or None

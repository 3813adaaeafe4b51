"""Adopts models of torchxrayvision: `xrv:NAME`, or an XRV weights file.

The classifiers are a DenseNet-121 and a ResNet-50 of torchvision with one input channel, and are scored as such. Their
logits are taken: `op_norm`, torchxrayvision's piecewise line through the operating point, makes no probability of them
(its issue 49). The operating points become the card's thresholds.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from cxrpipe.config import AdoptConfig
from cxrpipe.errors import ConfigError
from cxrpipe.models.adopt import states, xrv_published
from cxrpipe.models.adopt.adopted import Adopted, fields, provenance
from cxrpipe.models.adopt.findings import named_outputs, rows_to_keep
from cxrpipe.models.adopt.states import State
from cxrpipe.models.adopt.xrv_published import Published
from cxrpipe.models.architectures import build_from_card
from cxrpipe.models.card import Card
from cxrpipe.models.libraries import torchxrayvision
from cxrpipe.models.weights import IMAGENET_MEANS, IMAGENET_STDS
from cxrpipe.models.xrv_networks import PSPNET, STRUCTURES

MEAN, STD = 0.5, 1 / 2048
"""torchxrayvision scales 0..1 to -1024..1024."""
_FILES = (".pt", ".pth", ".safetensors")
_KINDS = {
    "densenet121": ("features.denseblock4.denselayer16.conv2.weight", "classifier"),
    "resnet50": ("layer4.2.conv3.weight", "fc"),
    PSPNET: ("cbr_final.cbr_unit.0.weight", ""),
}
"""Architecture → the end of a tensor's name that tells it, and its head."""
_SIDES_PX = {"densenet121": 224, "resnet50": 512, PSPNET: 512}
_DOUBLED = (
    "its operating points lie between 0.502 and 0.538, as if found on a sigmoid of a sigmoid: its votes mean little "
    "before cxrpipe calibrate has fitted thresholds on your labels"
)


class _Output(NamedTuple):
    """One output of a classifier, as torchxrayvision describes it."""

    name: str
    threshold: float
    """The operating point; nan: there is none."""


def adopt(name: str, config: AdoptConfig) -> Adopted:
    """The model of a name such as `densenet121-res224-all` or `PSPNet`, or of a weights file of torchxrayvision."""
    model = xrv_published.find(name.rpartition("/")[2])
    is_file = name.endswith(_FILES)
    if not (model or is_file):
        names = ", ".join(model.name for model in xrv_published.published())
        raise ConfigError(
            f"{config.source}: torchxrayvision has no model of this name; expected a weights file or {names}"
        )
    state = states.read(name if is_file or model is None else model.place, config.trust_pickle)
    architecture = next(
        (kind for kind, (tell, _) in _KINDS.items() if any(key.endswith(tell) for key in state.tensors)), None
    )
    if architecture is None:
        raise ConfigError(
            f"{state.url}: no weights of torchxrayvision; expected its DenseNet-121, ResNet-50 or PSPNet; those of "
            "another network may fit torchvision:ARCH --weights FILE"
        )
    take = _segmenter if architecture == PSPNET else _classifier
    return take(architecture, state, model, config)


def _classifier(architecture: str, state: State, model: Published | None, config: AdoptConfig) -> Adopted:
    head = _KINDS[architecture][1]
    tensors = states.without_prefix(state.tensors, (f"{head}.weight", f"{head}.bias"), state.url, architecture)
    outputs, assumed = _outputs(state, model, tensors, len(tensors[f"{head}.weight"]))
    unusable = () if config.findings else _without_operating_point(outputs)
    of_source = tuple("" if output.name in unusable else output.name for output in outputs)
    names = named_outputs(config.source, of_source, config.findings, len(outputs))
    preparation = _preparation(architecture, config, mean=MEAN, std=STD)
    rows = rows_to_keep(names, preparation.get("output", "sigmoid"))
    card = Card(
        task="classify",
        architecture=architecture,
        findings=tuple(filter(None, names)),
        outputs=names if len(rows) == len(names) and "" in names else (),
        thresholds={
            name: output.threshold
            for name, output in zip(names, outputs, strict=True)
            if name and not math.isnan(output.threshold)
        },
        **preparation,
    )
    network = build_from_card(card)
    states.fill(network, state._replace(tensors=states.keep_rows(tensors, head, rows)), architecture)
    warnings = [f"left out, for torchxrayvision has no operating point of it: {name}" for name in unusable]
    if architecture == "resnet50" and min(card.thresholds.values(), default=0) > 0.5:
        warnings.append(_DOUBLED)
    return Adopted(card, network, _facts(state, model, config, warnings), assumed)


def _segmenter(architecture: str, state: State, model: Published | None, config: AdoptConfig) -> Adopted:
    if config.findings:
        raise ConfigError(f"{config.source}: a segmenter, whose outputs are structures; leave --findings out")
    card = Card(
        task="segment",
        architecture=architecture,
        structures=STRUCTURES,
        channels=3,
        **_preparation(architecture, config, mean=IMAGENET_MEANS, std=IMAGENET_STDS),
    )
    network = build_from_card(card)
    states.fill(network, state, architecture)
    return Adopted(card, network, _facts(state, model, config, []))


def _outputs(
    state: State, model: Published | None, tensors: Mapping[str, Tensor], count: int
) -> tuple[list[_Output], tuple[str, ...]]:
    """The outputs as published, or as the file itself describes them; and what was assumed of them."""
    if model and len(model.outputs) == count:
        return [_Output(*output) for output in zip(model.outputs, model.thresholds, strict=True)], ()
    points = tensors["op_threshs"].tolist() if "op_threshs" in tensors else [math.nan] * count
    names: tuple[str, ...] = state.outputs
    assumed: tuple[str, ...] = ()
    of_all = tuple(torchxrayvision().models.DenseNet.targets)
    if len(names) != count and len(of_all) == count:
        names, assumed = of_all, (f"its outputs are torchxrayvision's: {', '.join(of_all)}",)
    if len(names) != count:
        names = ("",) * count  # --findings must name them
    return [_Output(*output) for output in zip(names, points, strict=True)], assumed


def _without_operating_point(outputs: Sequence[_Output]) -> tuple[str, ...]:
    """Findings that torchxrayvision always answers with 0.5, as of `resnet50-res512-all`: nobody could test them."""
    unknown = tuple(output.name for output in outputs if output.name and math.isnan(output.threshold))
    return unknown if any(not math.isnan(output.threshold) for output in outputs) else ()


def _preparation(architecture: str, config: AdoptConfig, **normalisation: Any) -> dict[str, Any]:
    """As torchxrayvision's data sets prepare a film: XRayCenterCrop, then XRayResizer with its default, skimage."""
    return fields(
        config,
        side_px=_SIDES_PX[architecture],
        intensity="xrv",
        fit="center-crop",
        crop_fraction=1.0,
        resize="skimage",
        **normalisation,
    )


def _facts(state: State, model: Published | None, config: AdoptConfig, warnings: list[str]) -> dict[str, Any]:
    rights = model.rights if model else {"licence": None, "citation": None}
    return provenance(config.source, warnings=tuple(warnings), file_sha256=state.sha256, **rights)

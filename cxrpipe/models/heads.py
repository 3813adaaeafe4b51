"""Puts new heads on the networks of models."""

import textwrap
from dataclasses import replace

import numpy as np
import safetensors.torch
import torch

from cxrpipe.errors import ConfigError
from cxrpipe.models import architectures, weights
from cxrpipe.models.card import Backbone, Card
from cxrpipe.models.folder import ModelFolder


def with_heads(
    source: ModelFolder, findings: tuple[str, ...], weight: np.ndarray, bias: np.ndarray
) -> tuple[Card, bytes]:
    """The card and the weights of a classifier: the network of a model with another, linear head.

    An MLP head is replaced as a whole, because feature vectors are its input. Views are aggregated by the rules of the
    source, findings that are new to it by `max`. The card has no thresholds, calibration and embedding yet.

    source        a classifier, or a backbone without head
    weight, bias  (F, D) and (F,) float32. ConfigError where D is not the length of the source's feature vectors
    """
    card = replace(
        source.card,
        task="classify",
        head="linear",
        findings=findings,
        output="sigmoid",
        outputs=(),
        aggregation={finding: source.card.aggregation.get(finding, "max") for finding in findings},
        thresholds={},
        calibration={},
        embedding=None,
    )
    network = architectures.build_from_card(card)
    name, _ = architectures.head_of(network)
    of_source = safetensors.torch.load(source.read_weights())
    state = {key: value for key, value in of_source.items() if not key.startswith(f"{name}.")}
    state |= {f"{name}.weight": torch.from_numpy(weight), f"{name}.bias": torch.from_numpy(bias)}
    new = safetensors.torch.save(state)
    try:
        weights.restore(network, new)
    except RuntimeError as error:
        why = textwrap.shorten(str(error), architectures.MESSAGE_CHARACTERS)
        raise ConfigError(f"{source.url}: its network takes no head on these feature vectors ({why})") from None
    return replace(card, backbone=Backbone(source.card.vectors_sha256, name)), new

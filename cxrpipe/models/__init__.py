"""Networks by name, and their weights. Every network takes one channel: (N, 1, S, S) float."""

from cxrpipe.models.architectures import build, build_from_card, check_architecture, head_of, keep_outputs
from cxrpipe.models.pixels import normalise, scaled
from cxrpipe.models.weights import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    load,
    restore,
    start_weights,
    weights_bytes,
)

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "build",
    "build_from_card",
    "check_architecture",
    "head_of",
    "keep_outputs",
    "load",
    "normalise",
    "restore",
    "scaled",
    "start_weights",
    "weights_bytes",
]

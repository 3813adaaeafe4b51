"""Feature vectors: what the head of a classifier sees of a view."""

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cxrpipe.models.architectures import head_of


class Featured(NamedTuple):
    """The logits of a batch, and the vectors that the head made them of."""

    logits: Tensor  # (N, F)
    features: Tensor  # (N, D)


class WithFeatures(nn.Module):
    """A classifier that gives the input of its head beside its logits. `network` stays whole."""

    def __init__(self, network: nn.Module, head: str) -> None:
        super().__init__()
        self.trunk = _replaced(network, head, nn.Identity())
        self.head = network.get_submodule(head)  # behind the trunk, where `exact.keep_exact` looks for the last layer

    def forward(self, views: Tensor) -> Featured:
        features = self.trunk(views)
        return Featured(self.head(features), features)


@torch.no_grad()
def with_features(network: nn.Module, side_px: int, channels: int = 1) -> nn.Module:
    """A classifier in eval mode → one that gives its feature vectors, too: see `Featured`.

    The network itself where a trial shows that other layers follow the head, or that no vector enters it. Such a
    network has no feature vector.
    """
    views = torch.rand(2, channels, side_px, side_px, generator=torch.Generator().manual_seed(0))
    name, head = head_of(network)
    apart = WithFeatures(network, name).eval()
    features = apart.trunk(views)
    first = next((layer for layer in head.modules() if isinstance(layer, nn.Linear)), None)
    if first is None or features.shape != (len(views), first.in_features):
        return network
    return apart if torch.allclose(head(features), network(views), rtol=1e-4, atol=1e-6) else network


def _replaced(network: nn.Module, name: str, layer: nn.Module) -> nn.Module:
    """A copy of the network that shares all layers with it but one."""
    child, _, rest = name.partition(".")
    changed = copy.copy(network)
    changed._modules = dict(network._modules)
    changed._modules[child] = _replaced(network.get_submodule(child), rest, layer) if rest else layer
    return changed

"""Shows where a classifier looks: Grad-CAM from the same forward pass, in closed form where the head allows it.

The map of a finding is the last feature map, weighted by the gradient of the finding's logit (summed over places), and
rectified. Where the head is a global average and one linear layer, the weights of that layer weight the map, and
nothing is differentiated. The embedding of a view is the same feature map, averaged over its places.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, fx, nn

from cxrpipe.models.card import Embedding
from cxrpipe.models.features import Featured, with_features
from cxrpipe.models.libraries import feature_extraction

_SAME = 1e-3  # difference of two averages, as a fraction of the largest channel
_FAR = 0.99  # quantile of the distances of the training views


class Explained(NamedTuple):
    """The logits of a batch, with their explanation."""

    logits: Tensor  # (N, F)
    maps: Tensor  # (N, F, h, w), 0 or more; before they are rectified, their sums over places are the logits
    embedding: Tensor  # (N, C)
    features: Tensor | None = None  # (N, D), what entered the head; None: the network has no such vector


class ClosedForm(nn.Module):
    """A network whose head is a global average and a linear layer."""

    def __init__(self, network: nn.Module, layers: "_Found", rectified: bool) -> None:
        super().__init__()
        nodes = {layers.map_name: "map", layers.head_name: "logits"}
        extractor = feature_extraction.create_feature_extractor(network, nodes, suppress_diff_warning=True)
        _add_output(extractor.graph, "features", of=layers.head_name)
        self.trunk = fx.GraphModule(extractor, extractor.graph)  # a copy of torchvision's class is in training mode
        self.register_buffer("weight", layers.head.weight.detach().float())  # (F, C)
        self.rectified = rectified

    def forward(self, views: Tensor) -> Explained:
        out = self.trunk(views)
        features = out["map"].relu() if self.rectified else out["map"]
        places = features.shape[2] * features.shape[3]
        maps = torch.einsum("nchw,fc->nfhw", features, self.weight).relu() / places
        return Explained(out["logits"], maps, features.mean((2, 3)), out["features"])


def _add_output(graph: fx.Graph, name: str, of: str) -> None:
    """Add the input of a layer to the outputs of a graph."""
    layer = next(node for node in graph.nodes if node.op == "call_module" and node.target == of)
    output = next(node for node in graph.nodes if node.op == "output")
    output.args = ({**output.args[0], name: layer.args[0]},)


class ByGradient(nn.Module):
    """Any other network. Only the layers behind the feature map are differentiated, once per finding."""

    def __init__(self, network: nn.Module, map_name: str, side_px: int) -> None:
        super().__init__()
        self._map: Tensor | None = None
        network.get_submodule(map_name).register_forward_hook(self._begin_graph)
        self.network = with_features(network.requires_grad_(False), side_px)

    def _begin_graph(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        self._map = output.detach().requires_grad_()
        return self._map.clone()  # the next layer may work in place, which torch forbids on a leaf

    def forward(self, views: Tensor) -> Explained:
        with torch.inference_mode(False), torch.enable_grad():
            answer = self.network(views.clone())
            logits, vectors = answer if isinstance(answer, Featured) else (answer, None)
            features, self._map = self._map, None
            assert features is not None
            maps = [
                torch.einsum("nchw,nc->nhw", features, grad.sum((2, 3))) / (features.shape[2] * features.shape[3])
                for (grad,) in (torch.autograd.grad(logit.sum(), features, retain_graph=True) for logit in logits.T)
            ]
        embedding = features.detach().mean((2, 3))
        vectors = None if vectors is None else vectors.detach()
        return Explained(logits.detach(), torch.stack(maps, 1).detach().relu(), embedding, vectors)


def explained(network: nn.Module, side_px: int) -> ClosedForm | ByGradient:
    """A classifier in eval mode → one that explains its logits. A trial shows the form of the head, not its name."""
    layers = _find(network, side_px)
    for rectified in (True, False):
        if _is_average_and_linear(layers, rectified):
            return ClosedForm(network, layers, rectified).eval()
    return ByGradient(network, layers.map_name, side_px).eval()


class _Found(NamedTuple):
    """The last feature map and the last linear layer of one forward pass."""

    map_name: str
    map: Tensor  # (1, C, h, w)
    head_name: str
    head: nn.Linear
    head_input: Tensor  # (1, C)
    is_last: bool
    """Whether the output of the head is the output of the network."""


@torch.no_grad()
def _find(network: nn.Module, side_px: int) -> _Found:
    maps: list[tuple[str, Tensor]] = []
    heads: list[tuple[str, nn.Linear, Tensor, Tensor]] = []

    def watch(name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(module, nn.Linear):
            heads.append((name, module, inputs[0], output))
        elif isinstance(output, Tensor) and output.ndim == 4 and output.shape[-1] > 1:
            maps.append((name, output))

    hooks = [
        module.register_forward_hook(lambda module, inputs, output, name=name: watch(name, module, inputs, output))
        for name, module in network.named_modules()
        if name
    ]
    logits = network(torch.rand(1, 1, side_px, side_px, generator=torch.Generator().manual_seed(0)))
    for hook in hooks:
        hook.remove()
    head_name, head, head_input, output = heads[-1]
    return _Found(*maps[-1], head_name, head, head_input, torch.equal(output, logits))


def _is_average_and_linear(layers: _Found, rectified: bool) -> bool:
    """Whether the head takes the average of the map. Its logits would not tell: small weights leave only the bias."""
    features = layers.map.relu() if rectified else layers.map
    average = features.mean((2, 3))
    if not layers.is_last or average.shape != layers.head_input.shape:
        return False
    return bool((average - layers.head_input).abs().max() <= _SAME * layers.head_input.abs().max())


def distance(embedding: np.ndarray, known: Embedding) -> np.ndarray:
    """(N, C) → (N,): root mean square of the channels' distances from the training's mean, in standard deviations."""
    off = (embedding - np.array(known.mean)) / np.maximum(np.array(known.std), 1e-6)
    return np.asarray(np.sqrt((off**2).mean(axis=1)))


def embedding_of(views: np.ndarray) -> Embedding:
    """The embedding that a card keeps of its training views, (N, C). A view beyond the limit is unlike these views."""
    mean, std = views.mean(axis=0), views.std(axis=0)
    unlimited = Embedding(tuple(mean.tolist()), tuple(std.tolist()), np.inf)
    return unlimited._replace(limit=float(np.quantile(distance(views, unlimited), _FAR)))

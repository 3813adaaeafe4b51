"""Shows where a classifier looks: Grad-CAM from the same forward pass, in closed form where the head allows it.

The map of a finding is the last feature map, weighted by the gradient of the finding's logit (summed over places), and
rectified. Where the head is a global average and one linear layer, the weights of that layer weight the map, and
nothing is differentiated. The embedding of a view is the same feature map, averaged over its places.

A vision transformer of timm has tokens instead of a map. Its map are the tokens of the patches where the last block
takes them in, normalised, on the grid of the patches. The class token and registers have no place, and are left out.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from cxrpipe.models.features import Featured, with_features
from cxrpipe.models.libraries import feature_extraction

_SAME = 1e-3  # difference of two averages, as a fraction of the largest channel
_COARSE = 8  # pixels of a view that the side of a place has at least


class Explained(NamedTuple):
    """The logits of a batch, with their explanation."""

    logits: Tensor  # (N, outputs)
    maps: Tensor  # (N, F, h, w), 0 or more; before they are rectified, their sums over places are F of the logits
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
        self.weight: Tensor
        self.register_buffer("weight", layers.head.weight.detach().float())  # (F, C)
        self.rectified = rectified

    def keep(self, outputs: Sequence[int]) -> None:
        """Explain some outputs alone, in this order."""
        self.weight = self.weight[list(outputs)]

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
    """Any other network. Only the layers behind the feature map are differentiated, once per finding.

    map_name  the layer whose output is the feature map
    as_map    brings that output into the shape (N, C, h, w)
    """

    def __init__(
        self,
        network: nn.Module,
        map_name: str,
        side_px: int,
        channels: int = 1,
        as_map: Callable[[Tensor], Tensor] = lambda output: output,
    ) -> None:
        super().__init__()
        self._as_map = as_map
        self._map: Tensor | None = None
        self._kept: list[int] | slice = slice(None)
        network.get_submodule(map_name).register_forward_hook(self._begin_graph)
        self.network = with_features(network.requires_grad_(False), side_px, channels)

    def keep(self, outputs: Sequence[int]) -> None:
        """Explain some outputs alone, in this order."""
        self._kept = list(outputs)

    def _begin_graph(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        self._map = output.detach().requires_grad_()
        return self._map.clone()  # the next layer may work in place, which torch forbids on a leaf

    def forward(self, views: Tensor) -> Explained:
        with torch.inference_mode(False), torch.enable_grad():
            answer = self.network(views.clone())
            logits, vectors = answer if isinstance(answer, Featured) else (answer, None)
            output, self._map = self._map, None
            assert output is not None
            grads = [torch.autograd.grad(logit.sum(), output, retain_graph=True)[0] for logit in logits.T[self._kept]]
            features = self._as_map(output)
            places = features.shape[2] * features.shape[3]
            maps = [torch.einsum("nchw,nc->nhw", features, self._as_map(grad).sum((2, 3))) / places for grad in grads]
        embedding = features.detach().mean((2, 3))
        vectors = None if vectors is None else vectors.detach()
        return Explained(logits.detach(), torch.stack(maps, 1).detach().relu(), embedding, vectors)


def explained(network: nn.Module, side_px: int, channels: int = 1) -> ClosedForm | ByGradient | None:
    """A classifier in eval mode → one that explains its logits; None where no layer has a map of places.

    A trial shows the form of the head, not its name.
    """
    if getattr(network, "output_fmt", None) == "NHWC":  # as timm's Swin has it
        map_name = _find(network, side_px, channels).map_name
        return ByGradient(network, map_name, side_px, channels, _channels_first).eval()
    if grid := getattr(getattr(network, "patch_embed", None), "grid_size", None):
        return _by_tokens(network, grid, side_px, channels)
    layers = _find(network, side_px, channels)
    for rectified in (True, False):
        if _is_average_and_linear(layers, rectified):
            return ClosedForm(network, layers, rectified).eval()
    if not _has_places(network, layers, side_px):
        return None
    return ByGradient(network, layers.map_name, side_px, channels).eval()


def _has_places(network: nn.Module, layers: "_Found", side_px: int) -> bool:
    """Whether the map of a network of timm lies on the image. Some of its networks have other tensors of this shape.

    These are the matrices of their attention, and the embedding of patches, of which tokens are made.
    """
    if not hasattr(network, "get_classifier"):
        return True
    first = next((name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)), None)
    rows, columns = layers.map.shape[2:]
    return rows == columns and rows * _COARSE <= side_px and layers.map_name != first


@torch.no_grad()
def _by_tokens(network: nn.Module, grid: tuple[int, int], side_px: int, channels: int) -> ByGradient | None:
    """A transformer of timm, explained at the entrance of its last block (as pytorch-grad-cam advises for ViTs)."""
    blocks = getattr(network, "blocks", None)
    if not isinstance(blocks, nn.Sequential | nn.ModuleList):
        return None
    norm = getattr(blocks[-1], "norm1", None)
    if not isinstance(norm, nn.Module):
        return None
    seen: list[Tensor] = []
    hook = norm.register_forward_hook(lambda module, inputs, output: seen.append(output))
    network(_example(side_px, channels))
    hook.remove()
    if len(seen) != 1 or seen[0].ndim != 3 or (prefix := seen[0].shape[1] - grid[0] * grid[1]) < 0:
        return None
    as_map = functools.partial(_on_grid, prefix=prefix, grid=grid)
    return ByGradient(network, f"blocks.{len(blocks) - 1}.norm1", side_px, channels, as_map).eval()


def _example(side_px: int, channels: int) -> Tensor:
    return torch.rand(1, channels, side_px, side_px, generator=torch.Generator().manual_seed(0))


def _on_grid(tokens: Tensor, prefix: int, grid: tuple[int, int]) -> Tensor:
    """(N, prefix + h · w, C) → (N, C, h, w)"""
    return tokens[:, prefix:].transpose(1, 2).reshape(len(tokens), -1, *grid)


def _channels_first(features: Tensor) -> Tensor:
    """(N, h, w, C) → (N, C, h, w)"""
    return features.permute(0, 3, 1, 2)


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
def _find(network: nn.Module, side_px: int, channels: int) -> _Found:
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
    logits = network(_example(side_px, channels))
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

"""The segmenter of torchxrayvision by name: `xrv:PSPNet`. Its classifiers are networks of torchvision."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from cxrpipe.errors import ConfigError
from cxrpipe.models.libraries import torchxrayvision

PSPNET = "xrv:PSPNet"
STRUCTURES = (
    "left_clavicle",
    "right_clavicle",
    "left_scapula",
    "right_scapula",
    "left_lung",
    "right_lung",
    "left_hilum",
    "right_hilum",
    "heart",
    "aorta",
    "diaphragm",
    "mediastinum",
    "esophagus",
    "spine",
)
"""Outputs of PSPNet in their order. torchxrayvision writes Left Hilus Pulmonis, Facies Diaphragmatica, Weasand."""
_CHANNELS = 3
_STEM = ("convbnrelu1_1", "convbnrelu1_2", "convbnrelu1_3")
_BLOCKS = ("res_block2", "res_block3", "res_block4", "res_block5")
HEAD = "classification"


class PspNet(nn.Module):
    """torchxrayvision's PSPNet (Zhao et al., CVPR 2017) without its preparation and the branch that only training uses.

    (N, 3, S, S) float → (N, F, S, S) logits. torchxrayvision's own forward calls `upsample`, which torch deprecates.
    """

    def __init__(self, outputs: int) -> None:
        super().__init__()
        theirs = torchxrayvision().baseline_models.chestx_det.ptsemseg.pspnet.pspnet(outputs)
        for name in (*_STEM, *_BLOCKS, "pyramid_pooling", "cbr_final", HEAD):
            self.add_module(name, theirs.get_submodule(name))

    def forward(self, views: Tensor) -> Tensor:
        maps = views
        for name in _STEM:
            maps = self.get_submodule(name)(maps)
        maps = functional.max_pool2d(maps, 3, 2, 1)
        for name in _BLOCKS:
            maps = self.get_submodule(name)(maps)
        maps = self.get_submodule("cbr_final")(self._pooled(maps))
        return _grown(self.get_submodule(HEAD)(maps), views)

    def _pooled(self, maps: Tensor) -> Tensor:
        """Append what four coarse grids of means say."""
        pooling = self.get_submodule("pyramid_pooling")
        grids = [maps]
        for path, cells in zip(pooling.get_submodule("path_module_list").children(), _cells(pooling), strict=True):
            size = [side // cells for side in maps.shape[2:]]
            grids.append(_grown(path(functional.avg_pool2d(maps, size, size)), maps))
        return torch.cat(grids, 1)


def _cells(pooling: nn.Module) -> list[int]:
    return list(pooling.pool_sizes)  # type: ignore[arg-type]


def _grown(maps: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(maps, size=like.shape[2:], mode="bilinear")


def check_name(architecture: str) -> None:
    if architecture != PSPNET:
        raise ConfigError(f"arch {architecture!r}; of torchxrayvision, expected {PSPNET}")


def build(architecture: str, outputs: int, channels: int) -> nn.Module:
    """The network of a name with fresh weights."""
    check_name(architecture)
    if channels != _CHANNELS:
        raise ConfigError(f"{architecture} takes {_CHANNELS} channels, and not {channels}")
    return PspNet(outputs)

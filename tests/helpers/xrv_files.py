"""Weights files as torchxrayvision publishes them, with random weights: a pickled DenseNet, a state of a ResNet-50."""

from pathlib import Path

import torch
from torch import Tensor, nn

from cxrpipe.models.architectures import build
from cxrpipe.models.libraries import torchxrayvision
from cxrpipe.models.xrv_networks import STRUCTURES

PSPNET_FILE = "pspnet_chestxray_best_model_4.pth"


def file_of(name: str) -> str:
    """The name of the weights file that torchxrayvision publishes for a model."""
    return Path(torchxrayvision().models.model_urls[name]["weights_url"]).name


def densenet(folder: Path, name: str, views: Tensor) -> nn.Module:
    """Write a random DenseNet as the weights file of `name`, and open it as torchxrayvision does; it gives logits.

    views  (N, 1, 224, 224) float, over which every logit gets a mean of 0 and a standard deviation of 1.2
    """
    models = torchxrayvision().models
    torch.manual_seed(0)
    network = models.DenseNet(num_classes=len(models.model_urls[name]["labels"])).eval()
    _spread(network, network.classifier, views)
    torch.save(network, folder / file_of(name))
    return _giving_logits(models.DenseNet(weights=name, cache_dir=str(folder)))


def resnet(folder: Path, name: str, views: Tensor) -> nn.Module:
    """As `densenet`: a random ResNet-50, whose weights file is a state dict. Views of 512 px."""
    models = torchxrayvision().models
    torch.manual_seed(0)
    network = build("resnet50", len(models.model_urls[name]["labels"])).eval()
    _spread(network, network.fc, views)
    torch.save(network.state_dict(), folder / file_of(name))
    return _giving_logits(models.ResNet(weights=name, cache_dir=str(folder)))


def pspnet(folder: Path) -> nn.Module:
    """Write a random PSPNet, with the names of a DataParallel, and open it as torchxrayvision does."""
    chestx_det = torchxrayvision().baseline_models.chestx_det
    torch.manual_seed(0)
    network = chestx_det.ptsemseg.pspnet.pspnet(len(STRUCTURES))
    nn.init.normal_(network.classification.weight, std=1e3)  # a random network says almost the same of all pixels
    torch.save({f"module.{key}": value for key, value in network.state_dict().items()}, folder / PSPNET_FILE)
    opened: nn.Module = chestx_det.PSPNet(cache_dir=str(folder))
    return opened


@torch.inference_mode()
def _spread(network: nn.Module, head: nn.Linear, views: Tensor) -> None:
    """Scale and shift a head. A random network says almost the same of all films, and would forgive a wrong crop."""
    nn.init.normal_(head.weight)
    nn.init.zeros_(head.bias)
    logits = network(views)
    scale = 1.2 / logits.std(0)
    head.weight.mul_(scale[:, None])
    head.bias.copy_(-logits.mean(0) * scale)


def _giving_logits(network: nn.Module) -> nn.Module:
    network.op_threshs = None  # otherwise the answers go through a sigmoid and a piecewise line
    return network.eval()

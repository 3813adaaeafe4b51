"""Synthetic films, and models that behave like trained ones: their probabilities spread, and their masks are lungs.

A classifier's weights are random. Its BatchNorm has the statistics of films, its residual branches are damped as in a
trained ResNet, and its logits are mixed from the directions in which films differ most. In bf16 the probabilities of
such a ResNet-50 differ by 0.004 from float32; without these steps they would differ by 0.1, where a trained one has
0.01. A U-Net learns the drawn lungs for a few steps, and then 0.02% of its pixels differ in bf16, as of a trained one.
"""

from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from cxrpipe.archives import phantom
from cxrpipe.models import architectures
from cxrpipe.models.card import Card
from cxrpipe.models.normalise import normalise
from gpu_parts import ours

FINDINGS = tuple(f"Finding_{number}" for number in range(14))
MEAN, STD = 0.449, 0.226
_DAMPED = 0.3
"""Weight of the last BatchNorm of a residual branch. With 1, rounding errors grow from block to block."""
_SPREAD = 1.5
"""Standard deviation of a logit over films."""
_DIRECTIONS = 4
_LEARN_BATCH = 8
_RATE = 1e-3


class Films(NamedTuple):
    """Synthetic radiographs and the masks of their lungs."""

    pixels: np.ndarray  # (N, S, S) uint8
    lungs: np.ndarray  # (N, S, S) bool

    def resized(self, side_px: int) -> np.ndarray:
        """(N, side, side) uint8"""
        return np.stack([_resized(film, side_px) for film in self.pixels])

    def lungs_resized(self, side_px: int) -> np.ndarray:
        """(N, side, side) bool"""
        return np.stack([_resized(lungs.astype(np.uint8) * 255, side_px) for lungs in self.lungs]) >= 128


def draw(number: int, side_px: int, seed: int) -> Films:
    """Draw films of different patients, every other one with pneumonia."""
    rng = np.random.default_rng(seed)
    drawn = [phantom.radiograph(rng, side_px=side_px, pneumonia=bool(film % 2)) for film in range(number)]
    return Films(np.stack([film.pixels for film in drawn]), np.stack([film.left | film.right for film in drawn]))


def classifier_card(architecture: str, side_px: int) -> Card:
    return Card(
        task="classify", architecture=architecture, side_px=side_px, mean=MEAN, std=STD, findings=FINDINGS, views="all"
    )


def segmenter_card(side_px: int, architecture: str) -> Card:
    return Card(task="segment", architecture=architecture, side_px=side_px, mean=MEAN, std=STD, views="all")


def classifier(card: Card, films: Films, seed: int) -> nn.Module:
    """A classifier in eval mode, on the CPU, whose logits spread over films."""
    torch.manual_seed(seed)
    network = architectures.build_from_card(card)
    views = as_views(films, card)
    _take_statistics(network, views)
    _, head = architectures.head_of(network)
    assert isinstance(head, nn.Linear)
    features: list[Tensor] = []
    hook = head.register_forward_hook(lambda module, inputs, output: features.append(inputs[0]))
    with torch.no_grad():
        network(views)
        hook.remove()
        mean = features[0].mean(dim=0)
        _, _, directions = torch.linalg.svd(features[0] - mean, full_matrices=False)
        mixed = torch.randn(len(FINDINGS), _DIRECTIONS) @ directions[:_DIRECTIONS]  # (F, C)
        spread = ((features[0] - mean) @ mixed.T).std(dim=0) / _SPREAD
        head.weight.copy_(mixed / spread[:, None])
        head.bias.copy_(-head.weight @ mean)
    return network


def segmenter(card: Card, films: Films, steps: int, device: str, seed: int) -> nn.Module:
    """A U-Net in eval mode, on the CPU, that has learned the drawn lungs for so many steps on the device."""
    torch.manual_seed(seed)
    network = architectures.build_from_card(card).to(device, memory_format=torch.channels_last)
    views, lungs = as_views(films, card).to(device), torch.from_numpy(films.lungs_resized(card.side_px)).to(device)
    targets = lungs[:, None].float()
    optimizer = torch.optim.Adam(network.parameters(), _RATE)
    for step in range(steps):
        chosen = torch.arange(step * _LEARN_BATCH, (step + 1) * _LEARN_BATCH, device=device) % len(views)
        loss = functional.binary_cross_entropy_with_logits(network(views[chosen]), targets[chosen])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return network.cpu().eval()


def as_views(films: Films, card: Card) -> Tensor:
    """(N, 1, S, S) float32, normalised for the model of the card."""
    return normalise(torch.from_numpy(films.resized(card.side_px))[:, None], card)


def segmenter_architecture(wanted: str) -> str:
    """The U-Net that can be built here: the classic one where segmentation_models_pytorch is missing."""
    return wanted if ours.has_smp() else ours.CLASSIC_UNET


def _resized(film: np.ndarray, side_px: int) -> np.ndarray:
    return cv2.resize(film, (side_px, side_px), interpolation=cv2.INTER_AREA)


def _take_statistics(network: nn.Module, views: Tensor) -> None:
    """Damp residual branches, and give every BatchNorm the statistics of the views. The network ends in eval mode."""
    for block in network.modules():
        last = getattr(block, "bn3", None) or getattr(block, "bn2", None)
        if hasattr(block, "conv2") and isinstance(last, nn.BatchNorm2d):
            nn.init.constant_(last.weight, _DAMPED)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the running statistics become those of the only batch
    with torch.no_grad():
        network.train()(views)
    network.eval()

"""Two networks that neither torchvision nor smp has: the small CNN of the tutorials, and the U-Net as published."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

SMALL_CNN, CLASSIC_UNET = "smallcnn", "unet-classic"
_WIDTHS = (64, 128, 256, 512, 1024)


def small_cnn(outputs: int, side_px: int, dropout: float = 0.5) -> nn.Sequential:
    """Four blocks of convolution and pooling, 32 → 128 channels, and a dense layer of 512; (N, 1, S, S) → (N, F)."""
    blocks = [_block(before, after) for before, after in ((1, 32), (32, 64), (64, 128), (128, 128))]
    dense = nn.Linear(128 * (side_px // 16) ** 2, 512)
    names = ("block1", "block2", "block3", "block4", "flatten", "dense", "relu", "dropout", "head")
    parts = (*blocks, nn.Flatten(), dense, nn.ReLU(), nn.Dropout(dropout), nn.Linear(512, outputs))
    return nn.Sequential(OrderedDict(zip(names, parts, strict=True)))


def _block(before: int, after: int) -> nn.Sequential:
    convolution = nn.Conv2d(before, after, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU(inplace=True), nn.MaxPool2d(2))


class ClassicUnet(nn.Module):
    """Five levels of 64 to 1,024 channels, two convolutions each: (N, 1, S, S) → (N, outputs, S, S) logits.

    The network of Ronneberger et al. 2015 with BatchNorm, and with padding, which gives logits the size of the image.
    """

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(_twice(*pair) for pair in zip((1, *_WIDTHS), _WIDTHS, strict=False))
        upward = list(zip(_WIDTHS[::-1], _WIDTHS[-2::-1], strict=False))  # (1024, 512) … (128, 64)
        self.decoder = nn.ModuleList(
            nn.ModuleDict({"up": nn.ConvTranspose2d(below, here, 2, stride=2), "join": _twice(below, here)})
            for below, here in upward
        )
        self.segmentation_head = nn.Conv2d(_WIDTHS[0], outputs, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        levels = [self.encoder[0](pixels)]  # (N, 64, S, S) … (N, 1024, S/16, S/16)
        for level in list(self.encoder)[1:]:
            levels.append(level(nn.functional.max_pool2d(levels[-1], 2)))
        features = levels.pop()
        for step in self.decoder:
            features = step["join"](torch.cat([levels.pop(), step["up"](features)], dim=1))  # type: ignore[index]
        logits: Tensor = self.segmentation_head(features)
        return logits


def _twice(before: int, after: int) -> nn.Sequential:
    pairs = [(before, after), (after, after)]
    parts = [
        (nn.Conv2d(*pair, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)) for pair in pairs
    ]
    return nn.Sequential(*(part for layer in parts for part in layer))

"""Loss of quality in training images, as scanners and storage differ: blur, resolution, noise, covered parts."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from cxrpipe.config.augment import AugmentConfig


def degrade(pixels: Tensor, config: AugmentConfig) -> Tensor:
    """Blur (N, 1, S, S) float, take resolution away and add noise; the result is clipped to 0..1."""
    size, device = len(pixels), pixels.device
    if config.blur_fraction:
        most_px = config.blur_fraction * pixels.shape[-1]
        pixels = blur(pixels, torch.rand(size, device=device) * most_px, most_px)
    if config.resolution_fraction:
        pixels = _coarser(pixels, config.resolution_fraction)
    if config.noise:
        pixels = pixels + torch.randn_like(pixels) * as_images(torch.rand(size, device=device) * config.noise)
    return pixels.clamp(0, 1)


def blur(pixels: Tensor, sigmas_px: Tensor, most_px: float) -> Tensor:
    """Blur every image of (N, 1, S, S) by a Gaussian of its own, along one axis and then the other; the border repeats.

    sigmas_px  (N,) standard deviations, none above most_px
    """
    reach = min(max(1, math.ceil(3 * most_px)), pixels.shape[-1] - 1)
    places = torch.arange(-reach, reach + 1, device=pixels.device)
    weights = torch.exp(-0.5 * (places / sigmas_px[:, None].clamp(min=1e-3)) ** 2)  # (N, 2 reach + 1)
    kernels = (weights / weights.sum(dim=1, keepdim=True))[:, None]  # (N, 1, 2 reach + 1)
    images = functional.pad(pixels.transpose(0, 1), (reach,) * 4, mode="replicate")  # (1, N, S + 2 reach, S + 2 reach)
    images = functional.conv2d(images, kernels[:, :, None, :], groups=len(pixels))
    return functional.conv2d(images, kernels[:, :, :, None], groups=len(pixels)).transpose(0, 1)


def _coarser(pixels: Tensor, most: float) -> Tensor:
    """Take resolution from half of the images. All of them lose the same: a loss for each would be a loop of calls.

    The loss is drawn on the CPU, because its size decides shapes: a GPU would be waited for.
    """
    side = pixels.shape[-1]
    coarse = max(1, round(side * (1 - most * float(torch.rand(())))))
    few = functional.interpolate(pixels, (coarse, coarse), mode="area")
    coarser = functional.interpolate(few, (side, side), mode="bilinear", align_corners=False)
    chosen = torch.rand(len(pixels), device=pixels.device) < 0.5
    return torch.where(as_images(chosen), coarser, pixels)


def erase(pixels: Tensor, most: float) -> Tensor:
    """Cover a rectangle of half of the images by one grey each (random erasing, Zhong et al. 2020).

    most  longest side, as a fraction of the side of (N, 1, S, S)
    """
    size, side, device = len(pixels), pixels.shape[-1], pixels.device
    numbers = torch.rand(6, size, 1, 1, 1, device=device)
    places = torch.arange(side, device=device) + 0.5
    rows, columns = places[:, None], places[None, :]
    height, width = (number * most * side / 2 for number in numbers[:2])  # half of the sides
    inside = ((rows - numbers[2] * side).abs() < height) & ((columns - numbers[3] * side).abs() < width)
    return torch.where(inside & (numbers[5] < 0.5), numbers[4], pixels)


# ---- random numbers for every image -----------------------------------------------------------------------------


def drawn(size: int, most: float, device: torch.device) -> Tensor:
    """Draw (N,) evenly between -most and most."""
    return (2 * torch.rand(size, device=device) - 1) * most


def factor(size: int, most: float, device: torch.device) -> Tensor:
    """Draw (N,) between 1 / (1 + most) and 1 + most; half of them shrink, half of them grow."""
    return drawn(size, math.log1p(most), device).exp()


def as_images(values: Tensor) -> Tensor:
    """(N,) → (N, 1, 1, 1)"""
    return values[:, None, None, None]

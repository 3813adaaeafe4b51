"""Variation of training images, per image and on the device; masks follow their images."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from cxrpipe.config.train_sections import AugmentConfig

Pair = tuple[Tensor, Tensor | None]


def augment(pixels: Tensor, masks: Tensor | None, config: AugmentConfig) -> Pair:
    """Vary a batch. What is drawn follows from torch's seed.

    pixels  (N, 1, S, S) uint8 → float32 of 0..1, as `models.normalise` takes them
    masks   (N, 1, S, S) float of 0 and 1, or None

    What comes from beyond the border is what lies there. Black wedges, which no image has that is not varied, were
    learned: such images then looked different to the network (docs/decisions.md).
    """
    varied = pixels.float() / 255
    if config.moves:
        varied, masks = _move(varied, masks, _matrices(len(pixels), config).to(pixels.device))
    return _intensity(varied, config), masks


def _matrices(size: int, config: AugmentConfig) -> Tensor:
    """(N, 2, 3): for each image where in it a place of the result comes from, in units of half a side."""
    turn, shear_x, shear_y = (
        _drawn(size, math.radians(most)) for most in (config.rotation_deg, config.shear_deg, config.shear_deg)
    )
    zoom = _factor(size, config.zoom_fraction)
    mirror = torch.where(torch.rand(size) < 0.5, -1.0, 1.0) if config.flip else torch.ones(size)
    cos, sin = turn.cos(), turn.sin()
    rotation = torch.stack([cos, -sin, sin, cos], dim=1).view(size, 2, 2)
    one = torch.ones(size)
    shear = torch.stack([one, shear_x.tan(), shear_y.tan(), one], dim=1).view(size, 2, 2)
    scale = torch.diag_embed(torch.stack([mirror / zoom, 1 / zoom], dim=1))
    shift = torch.stack([_drawn(size, 2 * config.shift_fraction) for _ in range(2)], dim=1)
    return torch.cat([rotation @ shear @ scale, shift[:, :, None]], dim=2)


def _move(pixels: Tensor, masks: Tensor | None, matrices: Tensor) -> Pair:
    """One linear interpolation of image and mask together; a mask has what is covered by half."""
    both = pixels if masks is None else torch.cat([pixels, masks], dim=1)
    grid = functional.affine_grid(matrices, list(both.shape), align_corners=False)
    moved = functional.grid_sample(both, grid, mode="bilinear", padding_mode="border", align_corners=False)
    if masks is None:
        return moved, None
    return moved[:, :1], (moved[:, 1:] >= 0.5).float()


def _intensity(pixels: Tensor, config: AugmentConfig) -> Tensor:
    """Contrast, brightness and noise of (N, 1, S, S) floats of 0..1, which stay there."""
    size, device = len(pixels), pixels.device
    if config.contrast:
        mean = pixels.mean(dim=(1, 2, 3), keepdim=True)
        pixels = (pixels - mean) * _as_images(_factor(size, config.contrast), device) + mean
    if config.brightness:
        pixels = pixels + _as_images(_drawn(size, config.brightness), device)
    if config.noise:
        pixels = pixels + torch.randn_like(pixels) * _as_images(torch.rand(size) * config.noise, device)
    return pixels.clamp(0, 1)


def _drawn(size: int, most: float) -> Tensor:
    """(N,) evenly between -most and most."""
    return (2 * torch.rand(size) - 1) * most


def _factor(size: int, most: float) -> Tensor:
    """(N,) between 1 / (1 + most) and 1 + most, smaller as often as larger."""
    return (_drawn(size, math.log1p(most))).exp()


def _as_images(values: Tensor, device: torch.device) -> Tensor:
    """(N,) → (N, 1, 1, 1)"""
    return values.to(device)[:, None, None, None]

"""Random variation of training images, for every image by itself and on the device; masks follow their images."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from cxrpipe.config.train_sections import AugmentConfig

Pair = tuple[Tensor, Tensor | None]


def augment(pixels: Tensor, masks: Tensor | None, config: AugmentConfig) -> Pair:
    """Vary a batch at random; the seed of torch decides how. It draws on the device of the pixels.

    pixels  (N, 1, S, S) uint8 → float32 of 0..1, as `models.normalise` takes them
    masks   (N, 1, S, S) float of 0 and 1, or None

    Pixels from beyond the border repeat the border. With black there, networks learned the black wedges, and then
    images without wedges looked foreign to them (docs/decisions.md#augmentation-repeats-the-border).
    """
    varied = pixels.float() / 255
    if config.moves:
        varied, masks = _move(varied, masks, _matrices(len(pixels), config, pixels.device))
    return _intensity(varied, config), masks


def _matrices(size: int, config: AugmentConfig, device: torch.device) -> Tensor:
    """Draw an affine matrix for every image, (N, 2, 3): from a place in the result to its source, in half sides."""
    turn, shear_x, shear_y = (
        _drawn(size, math.radians(most), device) for most in (config.rotation_deg, config.shear_deg, config.shear_deg)
    )
    zoom = _factor(size, config.zoom_fraction, device)
    one = torch.ones(size, device=device)
    mirror = torch.where(torch.rand(size, device=device) < 0.5, -1.0, 1.0) if config.flip else one
    cos, sin = turn.cos(), turn.sin()
    rotation = torch.stack([cos, -sin, sin, cos], dim=1).view(size, 2, 2)
    shear = torch.stack([one, shear_x.tan(), shear_y.tan(), one], dim=1).view(size, 2, 2)
    scale = torch.diag_embed(torch.stack([mirror / zoom, 1 / zoom], dim=1))
    shift = torch.stack([_drawn(size, 2 * config.shift_fraction, device) for _ in range(2)], dim=1)
    return torch.cat([rotation @ shear @ scale, shift[:, :, None]], dim=2)


def _move(pixels: Tensor, masks: Tensor | None, matrices: Tensor) -> Pair:
    """Interpolate image and mask together, once and linearly. A pixel is in the mask where half of it is covered."""
    both = pixels if masks is None else torch.cat([pixels, masks], dim=1)
    grid = functional.affine_grid(matrices, list(both.shape), align_corners=False)
    moved = functional.grid_sample(both, grid, mode="bilinear", padding_mode="border", align_corners=False)
    if masks is None:
        return moved, None
    return moved[:, :1], (moved[:, 1:] >= 0.5).float()


def _intensity(pixels: Tensor, config: AugmentConfig) -> Tensor:
    """Vary contrast, brightness and noise of (N, 1, S, S) float, 0..1; the result is clipped to 0..1."""
    size, device = len(pixels), pixels.device
    if config.contrast:
        mean = pixels.mean(dim=(1, 2, 3), keepdim=True)
        pixels = (pixels - mean) * _as_images(_factor(size, config.contrast, device)) + mean
    if config.brightness:
        pixels = pixels + _as_images(_drawn(size, config.brightness, device))
    if config.noise:
        pixels = pixels + torch.randn_like(pixels) * _as_images(torch.rand(size, device=device) * config.noise)
    return pixels.clamp(0, 1)


def _drawn(size: int, most: float, device: torch.device) -> Tensor:
    """Draw (N,) evenly between -most and most."""
    return (2 * torch.rand(size, device=device) - 1) * most


def _factor(size: int, most: float, device: torch.device) -> Tensor:
    """Draw (N,) between 1 / (1 + most) and 1 + most; half of them shrink, half of them grow."""
    return _drawn(size, math.log1p(most), device).exp()


def _as_images(values: Tensor) -> Tensor:
    """(N,) → (N, 1, 1, 1)"""
    return values[:, None, None, None]

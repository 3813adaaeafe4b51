"""Random variation of training images, for every image by itself and on the device; masks follow their images."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from cxrpipe.config.augment import AugmentConfig
from cxrpipe.training.degrade import as_images, degrade, drawn, erase, factor

_RATIO = 4 / 3
"""Largest ratio of the sides of a random crop, as in torchvision."""
_PADDING = {"repeat": "border", "black": "zeros"}
Pair = tuple[Tensor, Tensor | None]


def augment(pixels: Tensor, masks: Tensor | None, config: AugmentConfig, side_px: int | None = None) -> Pair:
    """Vary a batch at random; the seed of torch decides how. It draws on the device of the pixels.

    pixels   (N, 1, W, W) uint8 → (N, 1, S, S) float32 of 0..1, as `models.normalise` takes them
    masks    (N, 1, W, W) float of 0 and 1, or None
    side_px  S; larger images are for random crops. None: W

    Pixels from beyond the border repeat the border by default. With black there, networks learned the black wedges, and
    then images without wedges looked foreign to them (docs/decisions.md#augmentation-repeats-the-border).

    A setting that is off draws no random number: a training without it is the same to the bit as before it existed.
    """
    varied = pixels.float() / 255
    if config.moves:
        matrices = _matrices(len(pixels), config, pixels.device)
        varied, masks = _move(varied, masks, matrices, config.border, side_px or pixels.shape[-1])
    varied = degrade(_values(varied, config), config)
    return erase(varied, config.erase_fraction) if config.erase_fraction else varied, masks


def mix(pixels: Tensor, targets: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Mix every image and its targets with another one of the batch (mixup, Zhang et al. 2018).

    pixels   (N, 1, S, S) float
    targets  (N, F) 0..1; nan where either image has none
    """
    size, device = len(pixels), pixels.device
    one = torch.full((size,), alpha, device=device)
    share = torch.distributions.Beta(one, one, validate_args=False).sample()
    share = torch.maximum(share, 1 - share)
    other = torch.randperm(size, device=device)
    mixed = torch.lerp(pixels[other], pixels, as_images(share))
    return mixed, torch.lerp(targets[other], targets, share[:, None])


def _matrices(size: int, config: AugmentConfig, device: torch.device) -> Tensor:
    """Draw an affine matrix for every image, (N, 2, 3): from a place in the result to its source, in half sides."""
    turn, shear_x, shear_y = (
        drawn(size, math.radians(most), device) for most in (config.rotation_deg, config.shear_deg, config.shear_deg)
    )
    zoom = factor(size, config.zoom_fraction, device)
    one = torch.ones(size, device=device)
    mirror = torch.where(torch.rand(size, device=device) < 0.5, -1.0, 1.0) if config.flip else one
    cos, sin = turn.cos(), turn.sin()
    rotation = torch.stack([cos, -sin, sin, cos], dim=1).view(size, 2, 2)
    shear = torch.stack([one, shear_x.tan(), shear_y.tan(), one], dim=1).view(size, 2, 2)
    scale = torch.diag_embed(torch.stack([mirror / zoom, 1 / zoom], dim=1))
    shift = torch.stack([drawn(size, 2 * config.shift_fraction, device) for _ in range(2)], dim=1)
    matrices = torch.cat([rotation @ shear @ scale, shift[:, :, None]], dim=2)
    return matrices if config.crop == 1 else _cropped(matrices, config.crop)


def _cropped(matrices: Tensor, least: float) -> Tensor:
    """Let (N, 2, 3) matrices take their source from a random part of the image, as torchvision's RandomResizedCrop.

    least  smallest fraction of the image that a part covers
    """
    size, device = len(matrices), matrices.device
    area = least + (1 - least) * torch.rand(size, device=device)
    ratio = factor(size, _RATIO - 1, device)
    sides = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], dim=1).clamp(max=1)  # across, down
    centres = (1 - sides) * (2 * torch.rand(size, 2, device=device) - 1)
    inside = sides[:, :, None] * matrices
    return torch.cat([inside[:, :, :2], inside[:, :, 2:] + centres[:, :, None]], dim=2)


def _move(pixels: Tensor, masks: Tensor | None, matrices: Tensor, border: str, side_px: int) -> Pair:
    """Interpolate image and mask together, once and linearly. A pixel is in the mask where half of it is covered."""
    both = pixels if masks is None else torch.cat([pixels, masks], dim=1)
    grid = functional.affine_grid(matrices, [*both.shape[:2], side_px, side_px], align_corners=False)
    moved = functional.grid_sample(both, grid, mode="bilinear", padding_mode=_PADDING[border], align_corners=False)
    if masks is None:
        return moved, None
    return moved[:, :1], (moved[:, 1:] >= 0.5).float()


def _values(pixels: Tensor, config: AugmentConfig) -> Tensor:
    """Vary colour (of grey images), exposure, contrast and brightness of (N, 1, S, S) float, 0..1."""
    size, device = len(pixels), pixels.device
    if config.jitter:
        pixels = (pixels * as_images(1 + drawn(size, config.jitter, device))).clamp(0, 1)
        mean = pixels.mean(dim=(1, 2, 3), keepdim=True)
        pixels = torch.lerp(mean, pixels, as_images(1 + drawn(size, config.jitter, device))).clamp(0, 1)
    if config.gamma:
        pixels = pixels ** as_images(factor(size, config.gamma, device))
    if config.contrast:
        mean = pixels.mean(dim=(1, 2, 3), keepdim=True)
        pixels = (pixels - mean) * as_images(factor(size, config.contrast, device)) + mean
    if config.brightness:
        pixels = pixels + as_images(drawn(size, config.brightness, device))
    return pixels

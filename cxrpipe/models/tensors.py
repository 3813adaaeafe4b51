"""What the device does with views and outputs beside the networks: moves views, packs masks, rounds vectors."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cxrpipe.models.ensemble import Variant


def moved(views: Tensor, variant: Variant) -> Tensor:
    """(N, 1, S, S) float, enlarged about the centre and shifted by fractions of the side; black fills what comes in."""
    keep = 1 / variant.scale
    theta = views.new_tensor([[keep, 0, -2 * variant.right * keep], [0, keep, -2 * variant.down * keep]])
    grid = functional.affine_grid(theta.expand(len(views), 2, 3), list(views.shape), align_corners=False)
    return functional.grid_sample(views, grid, align_corners=False)


def packed(bits: Tensor) -> Tensor:
    """(…, P) bool → (…, ⌈P / 8⌉) uint8, the first bit highest, as np.packbits packs them."""
    if not bits.is_cuda:
        return torch.from_numpy(np.packbits(bits.numpy(), axis=-1))
    padded = functional.pad(bits.to(torch.uint8), (0, -bits.shape[-1] % 8))
    padded = padded.view(*padded.shape[:-1], -1, 8)
    values = torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], dtype=torch.uint8, device=bits.device)
    return (padded * values).sum(-1, dtype=torch.uint8)


def in_16_bits(vectors: Tensor) -> Tensor:
    """(N, D) float → float16. Values beyond its largest number become that, 65,504: infinity would end every cosine."""
    largest = torch.finfo(torch.float16).max
    return vectors.float().clamp(-largest, largest).half()

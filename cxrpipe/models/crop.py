"""Crops views to the square around the lungs, for classifiers whose card has a crop, in training and in scoring.

Views are prepared larger than the network by `card.WIDER`, so that lungs of two thirds of the side lose no detail.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

from cxrpipe.models import normalise, weights
from cxrpipe.models.card import Crop
from cxrpipe.models.folder import ModelFolder

_EDGE = 0.005
"""Fraction of the mask that may lie beyond each edge of the square, so that specks do not widen it."""
_LEAST_LUNG = 0.03
"""Fraction of the view that the lungs take. A smaller mask shows no lungs, and the whole view is kept."""


class Cropper:
    """A segmenter that crops the training views of a classifier."""

    def __init__(self, segmenter: ModelFolder, crop: Crop, side_px: int) -> None:
        self._network, self._card = weights.load(segmenter), segmenter.card
        self._crop, self._side_px = crop, side_px

    @torch.inference_mode()
    def __call__(self, views: np.ndarray, for_segmenter: np.ndarray) -> np.ndarray:
        """(N, W, W) uint8 and (N, T, T) uint8 of the same views for the segmenter → (N, S, S) uint8."""
        if not len(views):
            return np.zeros((0, self._side_px, self._side_px), np.uint8)
        logits = self._network(normalise.normalise(torch.tensor(for_segmenter)[:, None], self._card))
        squares = boxes(normalise.lungs(logits, self._card) > 0, self._crop.margin)
        return crop(torch.tensor(views)[:, None], squares, self._side_px)[:, 0].numpy()


def boxes(masks: Tensor, margin: float) -> Tensor:
    """(N, T, T) bool → (N, 3) float32: centre (right, down) and side of the square around the lungs.

    All three are fractions of the view's side.

    margin  margin on each side, as a fraction of the extent of the lungs
    """
    side_px = masks.shape[-1]
    ends = []
    for across in (1, 2):  # sums of rows locate the lungs to the right, sums of columns down
        passed = masks.sum(across).cumsum(1)  # (N, T)
        total = passed[:, -1:]
        first, last = (passed <= _EDGE * total).sum(1), (passed < (1 - _EDGE) * total).sum(1) + 1
        ends.append(torch.stack([first, last], 1) / side_px)
    right, down = ends
    extent = torch.maximum(right[:, 1] - right[:, 0], down[:, 1] - down[:, 0])
    side = ((1 + 2 * margin) * extent).clamp(max=1)
    squares = torch.stack([right.mean(1), down.mean(1), side], 1)
    shows_lungs = masks.flatten(1).float().mean(1, keepdim=True) >= _LEAST_LUNG
    return torch.where(shows_lungs, squares, squares.new_tensor([0.5, 0.5, 1.0]))


def crop(views: Tensor, boxes: Tensor, side_px: int) -> Tensor:
    """(N, 1, W, W) uint8 → (N, 1, S, S) uint8. Parts of a box outside the view are black."""
    right, down, side = boxes.T
    cut = _sample(views.float(), side, 2 * right - 1, 2 * down - 1, side_px)
    return cut.round().to(torch.uint8)


def uncrop(maps: Tensor, boxes: Tensor, side_px: int) -> Tensor:
    """(N, F, h, w) float maps of cropped views → (N, F, S, S) on the whole view, 0 outside the box."""
    right, down, side = boxes.T
    fine = interpolate(maps.float(), (side_px, side_px), mode="bilinear")  # a coarse cell would reach beyond the box
    return _sample(fine, 1 / side, (1 - 2 * right) / side, (1 - 2 * down) / side, side_px)


def _sample(images: Tensor, scale: Tensor, right: Tensor, down: Tensor, side_px: int) -> Tensor:
    """Sample images at scale · place + (right, down), for places from -1 to 1."""
    zeros = torch.zeros_like(scale)
    theta = torch.stack([scale, zeros, right, zeros, scale, down], 1).view(-1, 2, 3)
    grid = affine_grid(theta, [len(images), 1, side_px, side_px], align_corners=False)
    return grid_sample(images, grid, align_corners=False)

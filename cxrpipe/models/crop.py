"""The square around the lungs: where a classifier looks whose card says so, in training as in scoring.

Views come larger than its network by `cards.WIDER`, so that lungs of two thirds of the side lose no detail.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

from cxrpipe.models import normalise, weights
from cxrpipe.models.card import Crop
from cxrpipe.models.folder import ModelFolder

_EDGE = 0.005
"""Of the mask, beyond either edge of the square: specks do not widen it."""
_LEAST_LUNG = 0.03
"""Of the view: a mask of less shows no lungs, and the whole view is taken."""


class Cropper:
    """A segmenter that crops what a classifier learns from: views as prepared → squares of `side_px`."""

    def __init__(self, segmenter: ModelFolder, crop: Crop, side_px: int) -> None:
        self._network, self._card = weights.load(segmenter), segmenter.card
        self._crop, self._side_px = crop, side_px

    @torch.inference_mode()
    def __call__(self, views: np.ndarray, for_segmenter: np.ndarray) -> np.ndarray:
        """(N, W, W) and (N, T, T) uint8, of the same views → (N, S, S) uint8"""
        if not len(views):
            return np.zeros((0, self._side_px, self._side_px), np.uint8)
        logits = self._network(normalise.normalise(torch.tensor(for_segmenter)[:, None], self._card))
        found = boxes(logits[:, 0] > 0, self._crop.margin)
        return crop(torch.tensor(views)[:, None], found, self._side_px)[:, 0].numpy()


def boxes(masks: Tensor, margin: float) -> Tensor:
    """(N, T, T) bool → (N, 3) float32: centre (right, down) and side of the square around each, of the view's side.

    margin  beyond the lungs on either side, of the lungs' own extent
    """
    side_px = masks.shape[-1]
    ends = []
    for across in (1, 2):  # rows are added up for what lies right, columns for what lies down
        passed = masks.sum(across).cumsum(1)  # (N, T)
        total = passed[:, -1:]
        first, last = (passed <= _EDGE * total).sum(1), (passed < (1 - _EDGE) * total).sum(1) + 1
        ends.append(torch.stack([first, last], 1) / side_px)
    right, down = ends
    extent = torch.maximum(right[:, 1] - right[:, 0], down[:, 1] - down[:, 0])
    side = ((1 + 2 * margin) * extent).clamp(max=1)
    found = torch.stack([right.mean(1), down.mean(1), side], 1)
    shows_lungs = masks.flatten(1).float().mean(1, keepdim=True) >= _LEAST_LUNG
    return torch.where(shows_lungs, found, found.new_tensor([0.5, 0.5, 1.0]))


def crop(views: Tensor, boxes: Tensor, side_px: int) -> Tensor:
    """(N, 1, W, W) uint8 → (N, 1, S, S) uint8; black where a box leaves the view."""
    right, down, side = boxes.T
    cut = _sample(views.float(), side, 2 * right - 1, 2 * down - 1, side_px)
    return cut.round().to(torch.uint8)


def uncrop(maps: Tensor, boxes: Tensor, side_px: int) -> Tensor:
    """(N, F, h, w) float on what `crop` gives → (N, F, S, S) on the whole view; 0 outside the box."""
    right, down, side = boxes.T
    fine = interpolate(maps.float(), (side_px, side_px), mode="bilinear")  # a coarse cell would reach out of the box
    return _sample(fine, 1 / side, (1 - 2 * right) / side, (1 - 2 * down) / side, side_px)


def _sample(images: Tensor, scale: Tensor, right: Tensor, down: Tensor, side_px: int) -> Tensor:
    """What lies at scale · place + shift, for places from -1 to 1."""
    nothing = torch.zeros_like(scale)
    theta = torch.stack([scale, nothing, right, nothing, scale, down], 1).view(-1, 2, 3)
    grid = affine_grid(theta, [len(images), 1, side_px, side_px], align_corners=False)
    return grid_sample(images, grid, align_corners=False)

"""Normalises prepared pixels for a network."""

import torch
from torch import Tensor

from cxrpipe.models.card import Card


def scaled(views: Tensor) -> Tensor:
    """Scale uint8 to float32, 0..1."""
    return views.float() / 255


def normalise(views: Tensor, card: Card) -> Tensor:
    """(N, 1, S, S) uint8, or float 0..1 → float32 with the mean and std of the card."""
    pixels = views if views.is_floating_point() else scaled(views)
    return ((pixels - card.mean) / card.std).contiguous(memory_format=torch.channels_last)

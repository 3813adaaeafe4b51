"""What lies around a network: its input is normalised, and its logits become probabilities and masks."""

import torch
from torch import Tensor

from cxrpipe.models.card import LUNGS, Card

_EPSILON = 1e-6
"""Added to the standard deviation of an image, as Keras does it."""


def scaled(views: Tensor) -> Tensor:
    """Scale uint8 to float32, 0..1."""
    return views.float() / 255


def middle(views: Tensor, side_px: int) -> Tensor:
    """(N, 1, W, W) → (N, 1, S, S): the middle of squares that are larger than the network takes them."""
    start = (views.shape[-1] - side_px) // 2
    return views[..., start : start + side_px, start : start + side_px]


def normalise(views: Tensor, card: Card) -> Tensor:
    """(N, 1, S, S) uint8, or float 0..1 → (N, C, S, S) float32: the pixels once for each channel of the card.

    Samplewise, an image without contrast becomes 0 everywhere.
    """
    pixels = views if views.is_floating_point() else scaled(views)
    if card.samplewise:
        std, mean = torch.std_mean(pixels, dim=(1, 2, 3), correction=0, keepdim=True)
        pixels = (pixels - mean) / (std + _EPSILON)
        return pixels.repeat(1, card.channels, 1, 1).contiguous(memory_format=torch.channels_last)
    channels = [(pixels - mean) / std for mean, std in zip(_each(card, card.mean), _each(card, card.std), strict=True)]
    whole = channels[0] if len(channels) == 1 else torch.cat(channels, dim=1)
    return whole.contiguous(memory_format=torch.channels_last)


def _each(card: Card, values: float | tuple[float, ...]) -> tuple[float, ...]:
    """One value for each channel."""
    return values if isinstance(values, tuple) else (values,) * card.channels


def probabilities(logits: Tensor, card: Card) -> Tensor:
    """(N, outputs) logits of a classifier → (N, F) float32, 0..1, of its findings in their order.

    A softmax counts all outputs, those that are no finding among them.
    """
    probs = logits.float().softmax(1) if card.output == "softmax" else logits.float().sigmoid()
    return probs if len(card.kept) == probs.shape[1] else probs[:, list(card.kept)]


def lungs(logits: Tensor, card: Card) -> Tensor:
    """(N, 1 or T, S, S) logits of a segmenter → (N, S, S): those of both lungs, at each place the surer of the two."""
    if not card.structures:
        return logits[:, 0]
    return logits[:, [card.structures.index(name) for name in LUNGS]].amax(1)

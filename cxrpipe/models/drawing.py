"""The logits of segmenters become masks. One segmenter draws alone; several vote.

A vote averages the probabilities of all segmenters in one frame. The mask is where the mean exceeds 0.5.

docs/decisions.md#segmenters-vote-with-probabilities-in-the-largest-frame
"""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from cxrpipe.models import normalise
from cxrpipe.models.card import Card


class Drawn(NamedTuple):
    """The masks of N views."""

    lungs: Tensor  # (N, S, S) bool
    expected_dice: Tensor  # (N,) float32, 0..1: the Dice that the segmenters expect of the mask of the lungs
    structures: Tensor | None  # (N, T, S, S) bool; None: no segmenter names any


def alone(logits: Tensor, card: Card) -> Drawn:
    """(N, 1 or T, S, S) logits of the only segmenter → its masks."""
    of_lungs = normalise.lungs(logits, card)
    lungs = of_lungs > 0
    return Drawn(lungs, _expected_dice(of_lungs.float().sigmoid(), lungs), logits > 0 if card.structures else None)


def vote(answers: Iterable[tuple[Tensor, Card]], structures: tuple[str, ...], side_px: int) -> Drawn:
    """The masks of several segmenters. All of them decide the lungs; those that name a structure decide that one.

    answers     logits of each segmenter, (N, 1 or T_k, S_k, S_k). They are taken one after another, so that the logits
                of one segmenter are in memory at a time
    structures  names of all structures that any of them draws
    side_px     side of the common frame
    """
    sums: dict[str, Tensor] = {}  # of the probabilities of the lungs (""), and of each structure
    voters: Counter[str] = Counter()
    for logits, card in answers:
        probs = logits.float().sigmoid()
        parts = [("", normalise.lungs(probs, card)), *zip(card.structures, probs.unbind(1), strict=False)]
        for name, part in parts:
            part = _at_side(part, side_px)
            sums[name] = sums[name] + part if name in sums else part
            voters[name] += 1
    means = {name: total / voters[name] for name, total in sums.items()}
    lungs = means[""] > 0.5
    of_structures = torch.stack([means[name] > 0.5 for name in structures], 1) if structures else None
    return Drawn(lungs, _expected_dice(means[""], lungs), of_structures)


def _at_side(probs: Tensor, side_px: int) -> Tensor:
    """(N, T, T) → (N, S, S): the same square on a finer grid."""
    if probs.shape[-1] == side_px:
        return probs
    return interpolate(probs[:, None], (side_px, side_px), mode="bilinear")[:, 0]


def _expected_dice(probs: Tensor, masks: Tensor) -> Tensor:
    """(N, S, S) probabilities, and the mask that follows from them → (N,)."""
    return 2 * (probs * masks).sum((1, 2)) / (probs.sum((1, 2)) + masks.sum((1, 2)))

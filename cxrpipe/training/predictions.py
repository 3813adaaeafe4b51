"""Predictions of the finished model for single views: probabilities, embeddings, and how well masks fit."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cxrpipe.evaluation import metrics
from cxrpipe.models import architectures, explain
from cxrpipe.models.card import Card
from cxrpipe.models.normalise import middle, normalise
from cxrpipe.models.weights import restore


class ViewPredictions(NamedTuple):
    """N views of a split, in any order. For a segmenter F and C are 0; for a classifier `dice` is nan."""

    key: np.ndarray  # (N,) int64, the same for views of the same study
    prob: np.ndarray  # (N, F) float32, 0..1
    target: np.ndarray  # (N, F) float32, nan where unknown
    embedding: np.ndarray  # (N, C) float32; C is 0 where the embedding would cost more than the forward pass
    dice: np.ndarray  # (N,) float32

    @classmethod
    def joined(cls, parts: "Sequence[ViewPredictions]") -> "ViewPredictions":
        """Join the views of all parts."""
        return cls(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def of(self, rows: np.ndarray) -> "ViewPredictions":
        """Select rows, (N,) bool."""
        return ViewPredictions(*(array[rows] for array in self))


class ViewMasks(NamedTuple):
    """A view to draw, with its true and its predicted mask."""

    key: int
    pixels: np.ndarray  # (S, S) uint8
    truth: np.ndarray  # (S, S) bool
    mask: np.ndarray  # (S, S) bool


class Predictions(NamedTuple):
    """All predictions of the finished model that a training uses."""

    valid: ViewPredictions | None
    """None: a refit has no valid split."""
    train: ViewPredictions | None
    """A sample of the training views, for the embedding of the card; None for a segmenter, whose card has none."""
    masks: list[ViewMasks]
    """A few views of the valid split to draw, from the worst to the best; empty for a classifier."""
    held_out: ViewPredictions | None = None
    """The views of the fold that is held out; None without folds."""


class ViewPredictor:
    """One model on one device: training examples → ViewPredictions."""

    def __init__(self, card: Card, weights: bytes, device: str = "cpu") -> None:
        network = architectures.build_from_card(card)
        restore(network, weights)
        self._card, self._device = card, device
        self._network: torch.nn.Module = network.eval()
        if card.task == "classify":
            explained = explain.explained(network, card.side_px, card.channels)
            # The other kind differentiates: with an embedding in its card, every later scoring would do so too.
            self._network = explained if isinstance(explained, explain.ClosedForm) else network
        self._network.to(device)

    @torch.inference_mode()
    def __call__(self, examples: Mapping[str, np.ndarray]) -> ViewPredictions:
        """examples  `key` (N,), `pixels` (N, W, W) uint8, and `target` (N, F) float, or (N, S, S) of 0 and 1"""
        key, target = examples["key"], np.asarray(examples["target"])
        output = self._network(self._normalised(examples["pixels"]))
        if self._card.task == "segment":
            empty = np.zeros((len(key), 0), np.float32)
            pairs = zip(_array(output[:, 0]) > 0, target > 0, strict=True)
            dice = np.array([metrics.overlap(*pair).dice for pair in pairs], np.float32)
            return ViewPredictions(key, empty, empty, empty, dice)
        logits, embedding = (
            (output.logits, output.embedding) if isinstance(output, explain.Explained) else (output, output[:, :0])
        )
        no_dice = np.full(len(key), np.nan, np.float32)
        return ViewPredictions(key, _array(logits.sigmoid()), target, _array(embedding), no_dice)

    @torch.inference_mode()
    def masks(self, pixels: np.ndarray) -> np.ndarray:
        """Predict the masks of a segmenter: (N, S, S) uint8 → (N, S, S) bool."""
        masks: np.ndarray = _array(self._network(self._normalised(pixels))[:, 0]) > 0
        return masks

    def _normalised(self, pixels: np.ndarray) -> Tensor:
        """(N, W, W) uint8, W at least S → (N, 1 or 3, S, S) float32, on the device."""
        views = middle(torch.tensor(pixels)[:, None], self._card.side_px)
        return normalise(views.to(self._device), self._card)


def _array(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.float().cpu().numpy()
    return array

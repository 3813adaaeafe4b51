"""What a finished model says of single views, with what a card keeps of them: embeddings, and how well masks fit."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cxrpipe.evaluation import metrics
from cxrpipe.models import architectures, explain
from cxrpipe.models.card import Card
from cxrpipe.models.normalise import normalise
from cxrpipe.models.weights import restore


class Judged(NamedTuple):
    """Views of a split, in any order; for a segmenter F and C are 0, for a classifier `dice` is nan."""

    key: np.ndarray  # (N,) int64, the same for views of the same study
    prob: np.ndarray  # (N, F) float32, 0..1
    target: np.ndarray  # (N, F) float32, nan where unknown
    embedding: np.ndarray  # (N, C) float32; C is 0 where asking for it would cost more than the forward pass
    dice: np.ndarray  # (N,) float32

    @classmethod
    def joined(cls, parts: "list[Judged]") -> "Judged":
        return cls(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def of(self, rows: np.ndarray) -> "Judged":
        """These rows, (N,) bool."""
        return Judged(*(array[rows] for array in self))


class Judge:
    """One model on one device: examples as `on_ray.ingest` keeps them → Judged."""

    def __init__(self, card: Card, weights: bytes, device: str = "cpu") -> None:
        network = architectures.build_from_card(card)
        restore(network, weights)
        self._card, self._device = card, device
        self._network: torch.nn.Module = network.eval()
        if card.task == "classify":
            explained = explain.explained(network, card.side_px)
            # The other kind differentiates: an embedding in the card would make every later scoring do so.
            self._network = explained if isinstance(explained, explain.ClosedForm) else network
        self._network.to(device)

    @torch.inference_mode()
    def __call__(self, examples: Mapping[str, np.ndarray]) -> Judged:
        """examples  `key` (N,), `pixels` (N, S, S) uint8, and `target` (N, F) float, or (N, S, S) of 0 and 1"""
        key, target = examples["key"], np.asarray(examples["target"])
        said = self._network(normalise(torch.tensor(examples["pixels"])[:, None].to(self._device), self._card))
        if self._card.task == "segment":
            nothing = np.zeros((len(key), 0), np.float32)
            pairs = zip(_array(said[:, 0]) > 0, target > 0, strict=True)
            dice = np.array([metrics.overlap(*pair).dice for pair in pairs], np.float32)
            return Judged(key, nothing, nothing, nothing, dice)
        logits, embedding = (
            (said.logits, said.embedding) if isinstance(said, explain.Explained) else (said, said[:, :0])
        )
        return Judged(key, _array(logits.sigmoid()), target, _array(embedding), np.full(len(key), np.nan, np.float32))

    @torch.inference_mode()
    def masks(self, pixels: np.ndarray) -> np.ndarray:
        """(N, S, S) uint8 → (N, S, S) bool; of a segmenter."""
        return _array(self._network(normalise(torch.tensor(pixels)[:, None].to(self._device), self._card))[:, 0]) > 0


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.float().cpu().numpy()

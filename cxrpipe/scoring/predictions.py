"""What the networks give for views: probabilities, masks and heat maps as arrays. Knows nothing of torch."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np


class Predictions(NamedTuple):
    """The outputs of the networks for N views."""

    probs: np.ndarray  # (K, N, F) float32, 0..1, uncalibrated; nan: the member does not know the finding
    mask_bits: np.ndarray | None = None  # (N, ⌈S·S / 8⌉) uint8, in the `mask_frame`, packed as by np.packbits
    expected_dice: np.ndarray | None = None  # (N,) float32, 0..1: the Dice that the segmenters expect of the mask
    maps: tuple[np.ndarray | None, ...] | None = None  # per member (N, F_k, h, w) float32, 0 or more; None: has none
    out_of_distribution: np.ndarray | None = None  # (N,) bool: by most of the members whose cards can tell
    features: tuple[np.ndarray | None, ...] | None = None  # per member (N, D) float16; None: it has no such vector
    structure_bits: np.ndarray | None = None  # (N, T, ⌈S·S / 8⌉) uint8, as `mask_bits`, of the structures

    @property
    def masks(self) -> np.ndarray | None:
        """(N, S, S) bool"""
        return None if self.mask_bits is None else unpacked(self.mask_bits)

    def structures(self, view: int) -> np.ndarray | None:
        """(T, S, S) bool: the structures of one view."""
        return None if self.structure_bits is None else unpacked(self.structure_bits[view])

    def of(self, views: slice) -> "Predictions":
        """The predictions for some of the views."""

        def cut(array: np.ndarray | None) -> np.ndarray | None:
            return None if array is None else array[views]

        return Predictions(
            self.probs[:, views],
            cut(self.mask_bits),
            cut(self.expected_dice),
            None if self.maps is None else tuple(cut(of_member) for of_member in self.maps),
            cut(self.out_of_distribution),
            None if self.features is None else tuple(cut(of_member) for of_member in self.features),
            cut(self.structure_bits),
        )

    @classmethod
    def joined(cls, parts: "Sequence[Predictions]") -> "Predictions":
        """The predictions for the views of all parts, in their order; there is one part at least."""
        if len(parts) == 1:
            return parts[0]

        def join(arrays: Iterable[np.ndarray | None]) -> np.ndarray | None:
            present = [array for array in arrays if array is not None]
            return np.concatenate(present) if present else None

        maps = [part.maps for part in parts if part.maps is not None]
        features = [part.features for part in parts if part.features is not None]
        return cls(
            np.concatenate([part.probs for part in parts], axis=1),
            join(part.mask_bits for part in parts),
            join(part.expected_dice for part in parts),
            tuple(join(of_member) for of_member in zip(*maps, strict=True)) if maps else None,
            join(part.out_of_distribution for part in parts),
            tuple(join(of_member) for of_member in zip(*features, strict=True)) if features else None,
            join(part.structure_bits for part in parts),
        )


def unpacked(bits: np.ndarray) -> np.ndarray:
    """(N, ⌈S·S / 8⌉) uint8 → (N, S, S) bool"""
    side_px = math.isqrt(8 * bits.shape[1])  # at most 7 bits are padding
    values = np.unpackbits(bits, axis=1, count=side_px * side_px)
    return values.view(bool).reshape(len(values), side_px, side_px)

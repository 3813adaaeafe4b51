"""Oversampling against imbalance: examples of a rare class are repeated."""

import numpy as np


def copies(targets: np.ndarray, places: np.ndarray, ratios: np.ndarray) -> np.ndarray:
    """Decide how often every example is shown in an epoch: (N,) int64, at least once.

    targets  (N, F) float: 1, 0, and other values that do not count
    places   (N,) float, 0..1, evenly spread and fixed for an example: decides who is shown once more for a fraction
    ratios   (F,) negatives over positives

    An example is shown as often as its rarest class asks for. With one finding, both classes then come equally often;
    with several, every finding comes at least as near to that as before.
    """
    rare = np.where(targets == 1, ratios, np.where(targets == 0, 1 / ratios, 1.0))  # (N, F)
    wanted = np.maximum(rare.max(axis=1, initial=1.0), 1.0)
    often: np.ndarray = (wanted + 1 - places).astype(
        np.int64
    )  # rounds down: once more where the place is < the fraction
    return often

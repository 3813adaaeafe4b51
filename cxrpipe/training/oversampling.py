"""Against imbalance: examples of a rare kind are shown more often."""

import numpy as np


def copies(targets: np.ndarray, places: np.ndarray, ratios: np.ndarray) -> np.ndarray:
    """How often each example is shown, (N,) int64, at least once.

    targets  (N, F) float of 1, 0 and others
    places   (N,) float of 0..1, even and fixed for each example: who is shown once more where a share is left over
    ratios   (F,) absent over present

    An example is wanted as often as the rarest of what it shows. For a single finding both kinds then come equally
    often; for several, each is at least as near to that as it was.
    """
    rare = np.where(targets == 1, ratios, np.where(targets == 0, 1 / ratios, 1.0))  # (N, F)
    wanted = np.maximum(rare.max(axis=1, initial=1.0), 1.0)
    return (wanted + 1 - places).astype(np.int64)  # floor: once more where the place lies within the share left over

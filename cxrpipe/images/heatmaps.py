"""Heat maps of a score row: small 8-bit PNGs in the letterboxed frame of the networks."""

from collections.abc import Sequence

import cv2
import numpy as np

EXPLANATION_VERSION = 2
"""Increased whenever a heat map changes, or the rule for which findings get one. It enters the fingerprint."""
SIDE_PX = 64
"""Side of a stored heat map. The grid of the networks, about 7 × 7, is too coarse for people. Padding is included."""


def mean_map(maps: Sequence[np.ndarray]) -> np.ndarray:
    """Average the members' maps of one finding and view: (h, w) float, of different grids → (64, 64) float."""
    fitted = [cv2.resize(heat, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_LINEAR) for heat in maps]
    return np.asarray(np.mean(fitted, axis=0))


def encode(heat: np.ndarray) -> bytes:
    """(S, S) float, not below 0 → grey PNG, with the maximum of the map as 255. A map of zeros is black."""
    highest = float(heat.max())
    grey = np.rint(heat * (255 / highest)) if highest > 0 else np.zeros_like(heat)
    _, png = cv2.imencode(".png", grey.astype(np.uint8))
    return png.tobytes()


def decode(png: bytes) -> np.ndarray:
    """Stored PNG → (S, S) uint8."""
    return np.asarray(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_GRAYSCALE))

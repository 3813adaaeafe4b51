"""Heat maps in a score row: small 8-bit PNGs in the letterboxed frame of the networks."""

from collections.abc import Sequence

import cv2
import numpy as np

EXPLANATION_VERSION = 1
"""Raised whenever a heat map, or the rule for which findings get one, changes. It enters the fingerprint."""
SIDE_PX = 64
"""The networks' own grid is about 7 × 7: too small for people. The frame is that of a mask: padding is in it."""


def mean_map(maps: Sequence[np.ndarray]) -> np.ndarray:
    """The members' maps of one finding and view, (h, w) float each on its own grid → (64, 64) float, their mean."""
    fitted = [cv2.resize(each, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_LINEAR) for each in maps]
    return np.mean(fitted, axis=0)


def encode(heat: np.ndarray) -> bytes:
    """(S, S) float, not below 0 → grey PNG: 255 is the map's own maximum. All black where nothing speaks for it."""
    highest = float(heat.max())
    grey = np.rint(heat * (255 / highest)) if highest > 0 else np.zeros_like(heat)
    _, png = cv2.imencode(".png", grey.astype(np.uint8))
    return png.tobytes()


def decode(png: bytes) -> np.ndarray:
    """PNG → (S, S) uint8."""
    return np.asarray(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_GRAYSCALE))

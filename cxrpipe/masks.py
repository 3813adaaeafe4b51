"""Lung masks: 1-bit PNG in a score row, and how much of the image they cover."""

from typing import NamedTuple

import cv2
import numpy as np

from cxrpipe.transforms import Letterbox


class LungFractions(NamedTuple):
    """Of the image's area, padding apart; 0..1. Left is the patient's left: the image's right."""

    lung: float
    left: float
    right: float


def encode(mask: np.ndarray) -> bytes:
    """(S, S) bool → 1-bit PNG."""
    _, png = cv2.imencode(".png", mask.astype(np.uint8) * 255, [cv2.IMWRITE_PNG_BILEVEL, 1])
    return png.tobytes()


def decode(png: bytes) -> np.ndarray:
    """1-bit PNG → (S, S) bool."""
    return np.asarray(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_GRAYSCALE)) > 0


def on_image(mask: np.ndarray, rows_px: int, columns_px: int) -> np.ndarray:
    """A stored (S, S) mask on the grid of the image it was made of."""
    return Letterbox.of(rows_px, columns_px, mask.shape[0]).undo(mask, rows_px, columns_px)


def lung_fractions(mask: np.ndarray, rows_px: int, columns_px: int) -> LungFractions:
    """How much of the image the lungs cover, and each side of the mask's own vertical axis."""
    inside = mask[Letterbox.of(rows_px, columns_px, mask.shape[0]).inside]
    columns = inside.sum(axis=0)
    total = int(columns.sum())
    if total == 0:
        return LungFractions(0.0, 0.0, 0.0)
    axis = round(float((columns * np.arange(len(columns))).sum() / total))
    right, area = int(columns[:axis].sum()), inside.size
    return LungFractions(total / area, (total - right) / area, right / area)

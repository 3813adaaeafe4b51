"""Lung masks: how a score row stores them, how much of the image they cover, and how far they are to be trusted."""

from typing import NamedTuple

import cv2
import numpy as np

from cxrpipe.errors import StudyError
from cxrpipe.images.letterbox import Letterbox

_LEAST_LUNG = 0.10
"""Fraction of the image. A smaller mask is a piece of a lung, or of something else."""

_PNG = [
    *(cv2.IMWRITE_PNG_BILEVEL, 1),
    *(cv2.IMWRITE_PNG_COMPRESSION, 3),
    *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_DEFAULT),
]
"""A mask of two lungs takes a third of the bytes that OpenCV's own choice takes, and no more time."""


class LungFractions(NamedTuple):
    """Fractions of the image's area without padding, 0..1. Left is the patient's left, which is the image's right."""

    lung: float
    left: float
    right: float


def encode(mask: np.ndarray) -> bytes:
    """(S, S) bool → 1-bit PNG."""
    _, png = cv2.imencode(".png", mask.astype(np.uint8) * 255, _PNG)
    return png.tobytes()


def decode(png: bytes) -> np.ndarray:
    """1-bit PNG → (S, S) bool."""
    return np.asarray(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_GRAYSCALE)) > 0


def on_image(mask: np.ndarray, rows_px: int, columns_px: int) -> np.ndarray:
    """A stored (S, S) mask on the grid of its image."""
    return Letterbox.of(rows_px, columns_px, mask.shape[0]).undo(mask, rows_px, columns_px)


def lung_fractions(mask: np.ndarray, rows_px: int, columns_px: int) -> LungFractions:
    """How much of the image the lungs cover, in all and on either side of the vertical axis through their centre."""
    inside = mask[Letterbox.of(rows_px, columns_px, mask.shape[0]).inside]
    columns = inside.sum(axis=0)
    total = int(columns.sum())
    if total == 0:
        return LungFractions(0.0, 0.0, 0.0)
    axis = round(float((columns * np.arange(len(columns))).sum() / total))
    right, area = int(columns[:axis].sum()), inside.size
    return LungFractions(total / area, (total - right) / area, right / area)


def quality(mask: np.ndarray, expected_dice: float, rows_px: int, columns_px: int) -> float:
    """How far a mask is to be trusted, 0..1: how sure the network is, and how much the mask looks like two lungs.

    The product of three numbers: the Dice that the network expects of its mask (2·Σpm / (Σp + Σm), with probabilities
    p), the share of the mask in its two largest pieces, and its area over 10% of the image (at most 1).
    """
    inside = mask[Letterbox.of(rows_px, columns_px, mask.shape[0]).inside].astype(np.uint8)
    _, _, pieces, _ = cv2.connectedComponentsWithStats(inside)
    areas = np.sort(pieces[1:, cv2.CC_STAT_AREA])  # the first piece is the background
    if not len(areas):
        return 0.0
    covered = min(1.0, float(areas.sum()) / inside.size / _LEAST_LUNG)
    return expected_dice * float(areas[-2:].sum() / areas.sum()) * covered


def scaled_to(mask: np.ndarray, size_px: tuple[int, int], name: str) -> np.ndarray:
    """(H, W) bool → (rows, columns) of its image, by nearest neighbour. StudyError if the aspect ratios differ.

    The sides of the smaller one may be off by a pixel, for they were rounded.
    """
    if mask.shape == size_px:
        return mask
    small, large = sorted((mask.shape, size_px), key=max)
    scale = max(small) / max(large)
    if any(abs(of_small - of_large * scale) > 1 for of_small, of_large in zip(small, large, strict=True)):
        raise StudyError(
            "corrupt",
            f"{name}: the mask has {mask.shape[0]}x{mask.shape[1]} pixels, its image {size_px[0]}x{size_px[1]}; "
            "expected the same size or the same aspect ratio",
        )
    rows, columns = size_px
    return cv2.resize(mask.astype(np.uint8), (columns, rows), interpolation=cv2.INTER_NEAREST_EXACT) > 0

"""The symmetric surface distance of two masks, in pixels: how far their outlines are apart."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np


class Boundary(NamedTuple):
    """The distances from every point of one outline to the other outline, both ways, as two numbers."""

    mean_px: float
    p95_px: float
    """95th percentile: the robust form of the Hausdorff distance, which is the maximum."""

    @classmethod
    def of(cls, distances_px: np.ndarray) -> Boundary | None:
        """Summarise distances; None where one of the masks has no outline, and there is no distance."""
        if not len(distances_px):
            return None
        return cls(float(distances_px.mean()), float(np.percentile(distances_px, 95)))


def distances_px(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Measure the distance of every point of one outline to the nearest of the other: two (H, W) bool → (D,) float.

    The outline of a mask is those of its pixels that share an edge with the outside, or with the border of the image.
    D is 0 where a mask is empty.
    """
    if not predicted.any() or not truth.any():
        return np.empty(0)
    box = _box(predicted | truth)  # a crop is enough, and a film has ten million pixels
    ours, theirs = _outline(predicted[box]), _outline(truth[box])
    return np.concatenate([_distance_to(theirs)[ours], _distance_to(ours)[theirs]])


def _box(mask: np.ndarray) -> tuple[slice, slice]:
    """Give the rows and columns that hold the mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _outline(mask: np.ndarray) -> np.ndarray:
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    inside = cv2.erode(mask.astype(np.uint8), cross, borderType=cv2.BORDER_CONSTANT, borderValue=(0.0,))
    outline: np.ndarray = mask & (inside == 0)
    return outline


def _distance_to(outline: np.ndarray) -> np.ndarray:
    """Measure the distance of every pixel to the outline, (H, W) float32."""
    return cv2.distanceTransform((~outline).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)

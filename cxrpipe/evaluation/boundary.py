"""How far the outlines of two masks are apart: the symmetric surface distance, in pixels."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np


class Boundary(NamedTuple):
    mean_px: float
    """Over the distances from every point of either outline to the other one."""
    p95_px: float
    """Their 95th percentile: the robust form of the Hausdorff distance, which is their maximum."""

    @classmethod
    def of(cls, distances_px: np.ndarray) -> Boundary | None:
        """None where there is no distance: one of the masks has no outline."""
        if not len(distances_px):
            return None
        return cls(float(distances_px.mean()), float(np.percentile(distances_px, 95)))


def distances_px(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(D,) float: from the outline of each mask (H, W) bool to the nearest point of the other's; none if one is empty.

    An outline is the mask's own pixels that touch the outside by an edge; beyond the image is outside.
    """
    if not predicted.any() or not truth.any():
        return np.empty(0)
    box = _box(predicted | truth)  # what lies around both is not needed: a film has ten million pixels
    ours, theirs = _outline(predicted[box]), _outline(truth[box])
    return np.concatenate([_distance_to(theirs)[ours], _distance_to(ours)[theirs]])


def _box(mask: np.ndarray) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _outline(mask: np.ndarray) -> np.ndarray:
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    inside = cv2.erode(mask.astype(np.uint8), cross, borderType=cv2.BORDER_CONSTANT, borderValue=(0.0,))
    return mask & (inside == 0)


def _distance_to(outline: np.ndarray) -> np.ndarray:
    return cv2.distanceTransform((~outline).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)

"""Flags: reasons to doubt a study that do not reject it. No flag changes a number."""

import cv2
import numpy as np

from cxrpipe.images.letterbox import Letterbox

FLAGS_VERSION = 1
"""Increased whenever the rule of a flag or of `mask_quality` changes. It enters the fingerprint."""
_CROPPED = 0.03
_SPINE = (slice(0.2, 0.75), slice(0.44, 0.56))
_LUNGS = ((slice(0.25, 0.6), slice(0.2, 0.38)), (slice(0.25, 0.6), slice(0.62, 0.8)))
_UPPER_CORNERS = ((slice(0.0, 0.15), slice(0.0, 0.1)), (slice(0.0, 0.15), slice(0.9, 1.0)))


def looks_inverted(image: np.ndarray) -> bool:
    """Whether a frontal view (h, w) uint8, without padding, is darker at the spine than where lungs and air should lie.

    The function compares the spine with both lung fields and the upper corners, at fixed fractions of the image. It
    does not use a mask, for a segmenter cannot be trusted on an inverted image. None of 220 NIH and 72 Montgomery
    images is flagged; all of them are after inversion.
    """
    spine = _mean(image, _SPINE)
    lungs, corners = (sum(_mean(image, part) for part in parts) / 2 for parts in (_LUNGS, _UPPER_CORNERS))
    return bool(2 * spine < lungs + corners)


def lungs_cropped(mask: np.ndarray, rows_px: int, columns_px: int) -> bool:
    """Whether a lung mask (S, S) bool fills more than 3% of the image's border: the film cuts a lung off."""
    inside = mask[Letterbox.of(rows_px, columns_px, len(mask)).inside]
    border = np.concatenate([inside[0], inside[-1], inside[:, 0], inside[:, -1]])
    return bool(border.mean() > _CROPPED)


def _mean(image: np.ndarray, part: tuple[slice, slice]) -> float:
    """Mean of a part of the image, which is given in fractions and covers at least one pixel."""
    rows, columns = (
        slice(int(extent.start * size), max(int(extent.start * size) + 1, int(extent.stop * size)))
        for extent, size in zip(part, image.shape, strict=True)
    )
    return float(cv2.mean(image[rows, columns])[0])

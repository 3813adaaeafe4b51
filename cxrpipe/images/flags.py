"""What makes a study doubtful without rejecting it: flags beside its numbers. No flag changes a number."""

import numpy as np

from cxrpipe.images.letterbox import Letterbox

FLAGS_VERSION = 1
"""Raised whenever a flag or `mask_quality` is decided otherwise. It enters the fingerprint."""
_CROPPED = 0.03
_SPINE = (slice(0.2, 0.75), slice(0.44, 0.56))
_LUNGS = ((slice(0.25, 0.6), slice(0.2, 0.38)), (slice(0.25, 0.6), slice(0.62, 0.8)))
_UPPER_CORNERS = ((slice(0.0, 0.15), slice(0.0, 0.1)), (slice(0.0, 0.15), slice(0.9, 1.0)))


def looks_inverted(square: np.ndarray, rows_px: int, columns_px: int) -> bool:
    """Whether a prepared frontal view (S, S) uint8 is darker in the middle than where lungs and air should lie.

    Places, not a mask: a segmenter is not to be trusted on an inverted image. The spine is compared with the fields
    of both lungs and with the upper corners, as fractions of the image. Of 220 NIH and 72 Montgomery images none is
    flagged, and every one of them is when it is inverted.
    """
    image = square[Letterbox.of(rows_px, columns_px, len(square)).inside]
    spine = _mean(image, _SPINE)
    lungs, corners = (np.mean([_mean(image, part) for part in parts]) for parts in (_LUNGS, _UPPER_CORNERS))
    return bool(2 * spine < lungs + corners)


def lungs_cropped(mask: np.ndarray, rows_px: int, columns_px: int) -> bool:
    """Whether lung (S, S) bool fills more than 3% of the image's border: a lung that goes on outside of it."""
    inside = mask[Letterbox.of(rows_px, columns_px, len(mask)).inside]
    border = np.concatenate([inside[0], inside[-1], inside[:, 0], inside[:, -1]])
    return bool(border.mean() > _CROPPED)


def _mean(image: np.ndarray, part: tuple[slice, slice]) -> float:
    """Of a part given in fractions of the image; at least one pixel of it."""
    rows, columns = (
        slice(int(each.start * size), max(int(each.start * size) + 1, int(each.stop * size)))
        for each, size in zip(part, image.shape, strict=True)
    )
    return float(image[rows, columns].mean())

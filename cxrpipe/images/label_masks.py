"""The values of a mask file → lungs. Few values are labels; many values are brightness.

| a file holds, beside 0                               | lungs are                                             |
|------------------------------------------------------|-------------------------------------------------------|
| one or two values or colours (1 and 2, red and green)| whatever is not 0: two labels are the two lungs       |
| many, nearly all of them near 0 or the brightest     | what is brighter than half: soft edges, JPEG          |
| anything else: three labels, a photograph            | refused, with the values that were found              |

A pixel that is at least half transparent is background. If all pixels have one colour, alpha is the mask.
Not handled: masks whose background is not black. Nothing in them tells lungs from the rest.
"""

import numpy as np

from cxrpipe.errors import StudyError

_LABELS = 2
_FEW = 16
"""A file with at most this many values is no JPEG and has no soft edges: its low values are labels, not noise."""
_UNDECIDED = 0.3
"""Largest fraction of the foreground that may be neither dark nor bright. Soft edges make at most 16% of the 72
Montgomery masks shrunk by area to 48 px, 11% at 64 px, 2% at 512 px. Three labels of two drawn lungs and a heart make
at least 54%."""
_SHOWN = 8


def lungs_of(values: np.ndarray, name: str) -> np.ndarray:
    """Stored values of a mask file (H, W[, 3 or 4]) → (H, W) bool. StudyError if the values cannot be understood."""
    if values.ndim == 2:
        return _grey(values, name)
    colour = values[..., :3]
    if values.shape[2] == 4 and not values[..., 3].all():
        opaque = values[..., 3] > np.iinfo(values.dtype).max // 2
        if (colour == colour[0, 0]).all():
            return opaque
        colour = np.where(opaque[..., None], colour, 0)
    if (colour == colour[..., :1]).all():
        return _grey(np.ascontiguousarray(colour[..., 0]), name)
    return _colour(colour, name)


def _grey(values: np.ndarray, name: str) -> np.ndarray:
    counts = np.bincount(values.ravel())
    present = np.flatnonzero(counts)
    if _are_labels(present):
        return values > 0
    top = int(present[-1])
    dark = 0 if len(present) <= _FEW else top // 4
    foreground = counts[dark + 1 :].sum()
    undecided = counts[dark + 1 : -(-3 * top // 4)].sum()
    if undecided > _UNDECIDED * foreground:
        raise _refused(name, [str(value) for value in present[:_SHOWN]], len(present), "grey values")
    return values > top // 2


def _colour(colour: np.ndarray, name: str) -> np.ndarray:
    """Colours on black: a few exact ones, or ones that JPEG has blurred, whose channels are nearly full or empty."""
    codes = _packed(colour)
    present = np.unique(codes)
    if _are_labels(present):
        return codes > 0
    top = np.iinfo(colour.dtype).max
    full = colour > top // 2
    sharp = _packed(full)
    counts = np.bincount(sharp.ravel())
    foreground = max(1, counts[1:].sum())
    counts[1:][counts[1:] < 0.01 * foreground] = 0  # these are edges between two colours
    blurred = (sharp > 0) & ~np.where(full, colour >= top - top // 4, colour <= top // 4).all(axis=-1)
    if not _are_labels(np.flatnonzero(counts)) or blurred.sum() > _UNDECIDED * foreground:
        digits = 6 * colour.itemsize
        raise _refused(name, [f"#{code:0{digits}x}" for code in present[:_SHOWN]], len(present), "colours")
    return sharp > 0


def _packed(colour: np.ndarray) -> np.ndarray:
    """(H, W) int64: red, green and blue packed into one number; 0 is black."""
    bits = 1 if colour.dtype == bool else 8 * colour.itemsize
    blue, green, red = (colour[..., channel].astype(np.int64) for channel in range(3))
    return red << 2 * bits | green << bits | blue


def _are_labels(present: np.ndarray) -> bool:
    """Whether the values are 0 and at most two more."""
    return bool(present[0] == 0 and len(present) <= 1 + _LABELS)


def _refused(name: str, first: list[str], count: int, kind: str) -> StudyError:
    shown = ", ".join(first) + (f" and {count - len(first)} more" if count > len(first) else "")
    return StudyError(
        "corrupt",
        f"{name}: a mask with {count} {kind} ({shown}); expected 0 and one or two labels, or black and white; "
        "write a mask that holds the lungs alone",
    )

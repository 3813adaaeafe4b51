"""Stored values → presentation values, one function per step of the standard (PS3.3 C.11.1, C.11.2; PS3.4 N.2).

The steps are applied to the stored values that an image can hold, at most 65,536 of them, and not to its pixels: no
float image is ever made.
"""

from typing import Any

import cv2
import numpy as np
import pydicom

from cxrpipe.images.dicom.header import UNREADABLE, Header, numbers, pydicom_errors, texts
from cxrpipe.images.dicom.pixels import DicomImage
from cxrpipe.images.lookup import extremes, histogram, looked_up
from cxrpipe.images.rasters import is_blank

_PADDING_VALUE, _PADDING_LIMIT = 0x0028_0120, 0x0028_0121
_WINDOW_CENTER, _WINDOW_WIDTH, _VOI_LUT_FUNCTION = 0x0028_1050, 0x0028_1051, 0x0028_1056
_RESCALE_INTERCEPT, _RESCALE_SLOPE = 0x0028_1052, 0x0028_1053
_MODALITY_LUT, _VOI_LUT = 0x0028_3000, 0x0028_3010

Range = tuple[float, float]
IGNORED = "display_element_ignored"
"""Flag: a LUT, a window or a rescale is malformed or hides the image, and was ignored."""


def presentation_values(image: DicomImage) -> tuple[np.ndarray, tuple[str, ...]]:
    """(H, W) uint8 and flags: apply the modality transform, the VOI transform and MONOCHROME1, then scale to 0..255.

    Every step is optional. A malformed element never costs the image: the step ignores it, and a flag says so.
    """
    lowest, highest = extremes(image.stored)
    domain = np.arange(lowest, highest + 1)
    ignored: set[int] = set()
    with pydicom_errors(image.name):
        values = modality(domain, image.dataset, ignored)
        shown = voi(values, image.dataset, ignored)
        pixels = _presented(image, *shown, lowest) if shown else None
        if pixels is not None and is_blank(pixels) and not is_blank(_over_full_range(image)):
            ignored.add(_WINDOW_CENTER)  # the window or the LUT lies beside all of the values
            pixels = None
        if pixels is None:
            pixels = _presented(image, values, _observed_range(image, values, lowest), lowest)
    return pixels, (IGNORED,) if ignored else ()


def _presented(image: DicomImage, grey: np.ndarray, limits: Range, lowest: int) -> np.ndarray:
    """Map each pixel to its grey level; `grey[i]` belongs to the stored value `lowest + i`."""
    if image.is_monochrome1:
        grey = invert(grey, limits)
    return looked_up(image.stored, scale(grey, limits), lowest)


def _over_full_range(image: DicomImage) -> np.ndarray:
    """The stored values over the range of all bits: blank only if the image itself is blank."""
    lowest = int(image.stored.min())
    return cv2.convertScaleAbs(image.stored.astype(np.float32) - lowest, alpha=255 / (2**image.bits - 1))


def shows_each_value(dataset: pydicom.Dataset, header: Header, name: str) -> bool:
    """Whether the file says how each value is shown, whatever other values the image has, and without harsh steps.

    The file must have a LUT or a window which spreads the grey levels over an eighth of the values or more, and no
    padding. Then the pixels may be averaged before they are shown
    (docs/decisions.md#jpeg-2000-is-decoded-at-reduced-scale).
    """
    bits = header.bits_stored or 0
    if _PADDING_VALUE in dataset or not 1 <= bits <= 16:
        return False
    lowest = -(1 << bits - 1) if header.signed else 0
    ignored: set[int] = set()
    with pydicom_errors(name):
        shown = voi(modality(np.arange(lowest, lowest + (1 << bits)), dataset, ignored), dataset, ignored)
    if shown is None or ignored:
        return False
    levels = scale(*shown)
    return bool(8 * np.count_nonzero((levels > 0) & (levels < 255)) >= len(levels))


def modality(values: np.ndarray, dataset: pydicom.Dataset, ignored: set[int]) -> np.ndarray:
    """Apply Modality LUT Sequence (0028,3000), or Rescale Slope and Intercept (0028,1053), (0028,1052).

    A slope of 0, which would make all pixels equal, and a text that is no number are ignored.
    """
    if lut := _lut(dataset, _MODALITY_LUT, ignored):
        return look_up(values, *lut)
    slopes, intercepts = numbers(dataset, _RESCALE_SLOPE) or [1.0], numbers(dataset, _RESCALE_INTERCEPT) or [0.0]
    if not slopes[0] or intercepts[0] is None:
        ignored.add(_RESCALE_SLOPE)
        return values.astype(np.float64)
    return rescale(values, slopes[0], intercepts[0])


def rescale(values: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """Stored values → output units (PS3.3, C.11.1.1.2)."""
    return np.asarray(values * slope + intercept)


def look_up(values: np.ndarray, table: np.ndarray, first: int) -> np.ndarray:
    """Map values through a LUT. Values below or above it take its first or last entry (PS3.3, C.11.1.1)."""
    places = np.clip(np.rint(values) - first, 0, len(table) - 1)
    return np.asarray(table[places.astype(np.int64)], np.float64)


def window(values: np.ndarray, center: float, width: float, function: str = "LINEAR") -> np.ndarray:
    """Map values to 0..1 by a window and the VOI LUT Function (0028,1056) (PS3.3, C.11.2.1.2 and C.11.2.1.3)."""
    if function == "SIGMOID":
        return np.asarray(1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700))))
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    if width == 0:  # LINEAR with a width of 1 is a threshold
        return (values > center).astype(np.float64)
    return np.asarray(np.clip((values - center) / width + 0.5, 0, 1))


def invert(grey: np.ndarray, limits: Range) -> np.ndarray:
    """Invert an image of MONOCHROME1 (0028,0004), whose lowest value is meant to be white."""
    return limits[0] + limits[1] - grey


def scale(grey: np.ndarray, limits: Range) -> np.ndarray:
    """Scale to uint8: the lower limit becomes 0 and the upper 255. Equal limits give black."""
    low, high = limits
    if not high > low:
        return np.zeros(grey.shape, np.uint8)
    return np.rint(np.clip((grey - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def voi(values: np.ndarray, dataset: pydicom.Dataset, ignored: set[int]) -> tuple[np.ndarray, Range] | None:
    """Apply VOI LUT Sequence (0028,3010), or the first valid window (0028,1050), (0028,1051); None without either.

    Returns the values and the range of the output.
    """
    if lut := _lut(dataset, _VOI_LUT, ignored):
        table, first = lut
        # The entries tell the range of the output; the declared bits may be more or fewer than they need.
        return look_up(values, table, first), (float(table.min()), float(table.max()))
    function = next(iter(texts(dataset, _VOI_LUT_FUNCTION)), "").upper() or "LINEAR"
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        ignored.add(_VOI_LUT_FUNCTION)
        function = "LINEAR"
    centers, widths = numbers(dataset, _WINDOW_CENTER), numbers(dataset, _WINDOW_WIDTH)
    for center, width in zip(centers, widths, strict=False):
        if center is not None and width is not None and width > 0 and (function != "LINEAR" or width >= 1):
            return window(values, center, width, function), (0.0, 1.0)
        ignored.add(_WINDOW_CENTER)
    if len(centers) != len(widths):
        ignored.add(_WINDOW_CENTER)
    return None


def _observed_range(image: DicomImage, values: np.ndarray, lowest: int) -> Range:
    """The range of the image without its padding; `values[i]` belongs to the stored value `lowest + i`."""
    padding = _padding(image)
    if padding:
        present = np.flatnonzero(histogram(image.stored)[: len(values)])
        stored = present + lowest
        inside = present[(stored < padding[0]) | (stored > padding[1])]
        if inside.size:
            values = values[inside[0] : inside[-1] + 1]
    return float(values.min()), float(values.max())


def _padding(image: DicomImage) -> tuple[int, int] | None:
    """Lowest and highest stored value that is padding; None if the file names none (PS3.3, C.7.5.1.1.2).

    Pixel Padding Value (0028,0120) and Range Limit (0028,0121) come in any order. Files write either with or without a
    sign, whatever the sign of the pixels: -2000 is 63536 in 16 bits.
    """
    value, limit = ((numbers(image.dataset, tag) or [None])[0] for tag in (_PADDING_VALUE, _PADDING_LIMIT))
    if value is None:
        return None
    ends = sorted(_as_stored(int(end), image) for end in (value, value if limit is None else limit))
    return ends[0], ends[1]


def _as_stored(number: int, image: DicomImage) -> int:
    """Read the bits of a number as a stored value, signed if the pixels are."""
    number &= 2**image.bits - 1
    is_negative = image.stored.dtype.kind == "i" and number >> (image.bits - 1)
    return number - 2**image.bits if is_negative else number


def _lut(dataset: pydicom.Dataset, tag: int, ignored: set[int]) -> tuple[np.ndarray, int] | None:
    """(entries, first value mapped) of the first readable LUT of a sequence; None without one."""
    try:
        items = list(dataset[tag].value or ()) if tag in dataset else []
    except UNREADABLE:
        items = [None]
    for item in items:
        try:
            return _lut_of_item(item, dataset)
        except UNREADABLE:
            ignored.add(tag)
    return None


def _lut_of_item(item: Any, dataset: pydicom.Dataset) -> tuple[np.ndarray, int]:
    """(entries, first value mapped) by the LUT Descriptor (0028,3002). Raises one of UNREADABLE for a malformed LUT."""
    entries, first, bits = (int(value) for value in item[0x0028_3002].value)
    entries = entries or 65536  # the standard writes 0 for 65536, which does not fit into 16 bits
    data = item[0x0028_3006].value
    if isinstance(data, bytes):
        endian = "<" if dataset.original_encoding[1] else ">"
        table = np.frombuffer(data, np.uint8 if bits <= 8 and len(data) <= entries + 1 else f"{endian}u2")
    else:
        table = np.atleast_1d(np.asarray(data, np.uint16))
    table = table[:entries]
    if entries < 2 or len(table) < entries or table.min() == table.max():
        raise ValueError(f"a LUT of {len(table)} entries; its descriptor says {entries}")
    if first > 32767 and dataset.get("PixelRepresentation") == 1:
        first -= 65536  # pydicom read it as unsigned, but it maps signed values
    return table, first

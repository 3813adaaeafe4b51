"""Stored values → grey as the standard shows it, one function per step (PS3.3 C.11.1, C.11.2; PS3.4 N.2).

A step works on any array. Here they work on the stored values that an image can hold, at most 65,536 of them, and
not on its pixels: 12 bits of 2,000 × 2,500 pixels take 35 ms instead of 180 ms, and no float image is ever made.
"""

from typing import Any

import cv2
import numpy as np
import pydicom

from cxrpipe.images.dicom.header import UNREADABLE, numbers, pydicom_errors, texts
from cxrpipe.images.dicom.pixels import DicomImage
from cxrpipe.images.rasters import is_blank

_PADDING_VALUE, _PADDING_LIMIT = 0x0028_0120, 0x0028_0121
_WINDOW_CENTER, _WINDOW_WIDTH, _VOI_LUT_FUNCTION = 0x0028_1050, 0x0028_1051, 0x0028_1056
_RESCALE_INTERCEPT, _RESCALE_SLOPE = 0x0028_1052, 0x0028_1053
_MODALITY_LUT, _VOI_LUT = 0x0028_3000, 0x0028_3010

Range = tuple[float, float]
IGNORED = "display_element_ignored"
"""A LUT, a window or a rescale that cannot be meant: the picture is shown as if the file had none."""


def presentation_values(image: DicomImage) -> tuple[np.ndarray, tuple[str, ...]]:
    """(H, W) uint8: modality, then values of interest, then MONOCHROME1, then the range of the output to 0..255.

    All of them are optional, and none costs the image: what is malformed is ignored, and said in the flags.
    """
    lowest, highest = int(image.stored.min()), int(image.stored.max())
    domain = np.arange(lowest, highest + 1)
    ignored: set[int] = set()
    with pydicom_errors(image.name):
        values = modality(domain, image.dataset, ignored)
        shown = voi(values, image.dataset, ignored)
        pixels = _picture(image, *shown, lowest) if shown else None
        if pixels is not None and is_blank(pixels) and not is_blank(_over_all_bits(image)):
            ignored.add(_WINDOW_CENTER)  # a window, or a LUT, beside all of the values
            pixels = None
        if pixels is None:
            pixels = _picture(image, values, _observed(image, values, lowest), lowest)
    return pixels, (IGNORED,) if ignored else ()


def _picture(image: DicomImage, grey: np.ndarray, limits: Range, lowest: int) -> np.ndarray:
    """`grey` is that of the stored values from `lowest` on."""
    if image.is_monochrome1:
        grey = invert(grey, limits)
    return scale(grey, limits)[image.stored.astype(np.int32) - lowest]


def _over_all_bits(image: DicomImage) -> np.ndarray:
    """The stored values, all bits from black to white: blank only where there is nothing to see."""
    lowest = int(image.stored.min())
    return cv2.convertScaleAbs(image.stored.astype(np.float32) - lowest, alpha=255 / (2**image.bits - 1))


def modality(values: np.ndarray, dataset: pydicom.Dataset, ignored: set[int]) -> np.ndarray:
    """Modality LUT Sequence (0028,3000), or Rescale Slope and Intercept (0028,1053), (0028,1052).

    A slope of 0 would make every pixel the same, and a number that is none says nothing: both are ignored.
    """
    if lut := _lut(dataset, _MODALITY_LUT, ignored):
        return look_up(values, *lut)
    slopes, intercepts = numbers(dataset, _RESCALE_SLOPE) or [1.0], numbers(dataset, _RESCALE_INTERCEPT) or [0.0]
    if not slopes[0] or intercepts[0] is None:
        ignored.add(_RESCALE_SLOPE)
        return values.astype(np.float64)
    return rescale(values, slopes[0], intercepts[0])


def rescale(values: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    return values * slope + intercept


def look_up(values: np.ndarray, table: np.ndarray, first: int) -> np.ndarray:
    """What lies below or above the table has its first or last value (PS3.3, C.11.1.1)."""
    places = np.clip(np.rint(values) - first, 0, len(table) - 1)
    return table[places.astype(np.int64)].astype(np.float64)


def window(values: np.ndarray, center: float, width: float, function: str = "LINEAR") -> np.ndarray:
    """0..1 by the VOI LUT Function (0028,1056) (PS3.3, C.11.2.1.2 and C.11.2.1.3)."""
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    if width == 0:  # LINEAR of width 1: a threshold
        return (values > center).astype(np.float64)
    return np.clip((values - center) / width + 0.5, 0, 1)


def invert(grey: np.ndarray, limits: Range) -> np.ndarray:
    """MONOCHROME1 (0028,0004): the lowest value is meant to be white."""
    return limits[0] + limits[1] - grey


def scale(grey: np.ndarray, limits: Range) -> np.ndarray:
    """uint8: the lower limit is 0 and the upper 255. No contrast at all is black."""
    low, high = limits
    if not high > low:
        return np.zeros(grey.shape, np.uint8)
    return np.rint(np.clip((grey - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def voi(values: np.ndarray, dataset: pydicom.Dataset, ignored: set[int]) -> tuple[np.ndarray, Range] | None:
    """VOI LUT Sequence (0028,3010), or the first window (0028,1050), (0028,1051) that can be; None without either."""
    if lut := _lut(dataset, _VOI_LUT, ignored):
        table, first = lut
        # The output is as wide as the table says by its entries; the bits it declares may be more, or fewer.
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


def _observed(image: DicomImage, values: np.ndarray, lowest: int) -> Range:
    """Range of the image's own values, apart from its padding; `values` start at `lowest`."""
    stored, padding = image.stored, _padding(image)
    if padding and (inside := stored[(stored < padding[0]) | (stored > padding[1])]).size:
        stored = inside
    present = values[int(stored.min()) - lowest : int(stored.max()) - lowest + 1]
    return float(present.min()), float(present.max())


def _padding(image: DicomImage) -> tuple[int, int] | None:
    """Pixel Padding Value (0028,0120) to the Range Limit (0028,0121), both included, in any order (PS3.3, C.7.5.1.1.2).

    Either may be written with or without a sign, whatever the pixels are: -2000 is 63536 in 16 bits.
    """
    value, limit = ((numbers(image.dataset, tag) or [None])[0] for tag in (_PADDING_VALUE, _PADDING_LIMIT))
    if value is None:
        return None
    ends = sorted(_as_stored(int(end), image) for end in (value, value if limit is None else limit))
    return ends[0], ends[1]


def _as_stored(number: int, image: DicomImage) -> int:
    """A number in the bits of a stored value, with their sign."""
    number &= 2**image.bits - 1
    is_negative = image.stored.dtype.kind == "i" and number >> (image.bits - 1)
    return number - 2**image.bits if is_negative else number


def _lut(dataset: pydicom.Dataset, tag: int, ignored: set[int]) -> tuple[np.ndarray, int] | None:
    """(entries, first value mapped) of the first LUT of a sequence that can be read."""
    try:
        items = list(dataset[tag].value or ()) if tag in dataset else []
    except UNREADABLE:
        items = [None]
    for item in items:
        try:
            return _table(item, dataset)
        except UNREADABLE:
            ignored.add(tag)
    return None


def _table(item: Any, dataset: pydicom.Dataset) -> tuple[np.ndarray, int]:
    """(entries, first value mapped) by the descriptor (0028,3002); one of UNREADABLE where the LUT is none."""
    entries, first, bits = (int(value) for value in item[0x0028_3002].value)
    entries = entries or 65536  # 65536 does not fit into 16 bits
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
        first -= 65536  # read as unsigned, though the values it maps are signed
    return table, first

"""Stored values → grey as the standard shows it, one function per step (PS3.3 C.11.1, C.11.2; PS3.4 N.2).

A step works on any array. Here they work on the stored values that an image can hold, at most 65,536 of them, and
not on its pixels: 12 bits of 2,000 × 2,500 pixels take 35 ms instead of 180 ms, and no float image is ever made.
"""

import math

import numpy as np
import pydicom

from cxrpipe.errors import StudyError
from cxrpipe.images.dicom.header import first_of, theirs
from cxrpipe.images.dicom.pixels import DicomImage

Range = tuple[float, float]


def as_shown(image: DicomImage) -> np.ndarray:
    """(H, W) uint8: modality, then values of interest, then MONOCHROME1, then the range of the output to 0..255."""
    lowest, highest = int(image.stored.min()), int(image.stored.max())
    domain = np.arange(lowest, highest + 1)
    with theirs(image.name):
        values = modality(domain, image.dataset, image.name)
        shown = _interest(values, image.dataset, image.name)
        if shown is None:
            shown = values, _observed(image, values, lowest)
    grey, limits = shown
    if image.inverted:
        grey = invert(grey, limits)
    return scale(grey, limits)[image.stored.astype(np.int32) - lowest]


def modality(values: np.ndarray, dataset: pydicom.Dataset, name: str) -> np.ndarray:
    """Modality LUT Sequence (0028,3000), or Rescale Slope and Intercept (0028,1053), (0028,1052)."""
    if lut := _lut(dataset, 0x0028_3000, name):
        return look_up(values, *lut)
    slope, intercept = _number(dataset, 0x0028_1053), _number(dataset, 0x0028_1052)
    return rescale(values, 1.0 if slope is None else slope, intercept or 0.0)


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


def _interest(values: np.ndarray, dataset: pydicom.Dataset, name: str) -> tuple[np.ndarray, Range] | None:
    """VOI LUT Sequence (0028,3010), or the first window (0028,1050), (0028,1051); None where there is neither.

    A window whose width the standard does not allow is none.
    """
    if lut := _lut(dataset, 0x0028_3010, name):
        table, first = lut
        # The output is as wide as the table says by its entries; the bits it declares may be more, or fewer.
        return look_up(values, table, first), (float(table.min()), float(table.max()))
    center, width = _number(dataset, 0x0028_1050), _number(dataset, 0x0028_1051)
    function = str(dataset.get("VOILUTFunction") or "LINEAR").strip().upper()
    if center is None or width is None or width <= 0 or (function == "LINEAR" and width < 1):
        return None
    return window(values, center, width, function), (0.0, 1.0)


def _observed(image: DicomImage, values: np.ndarray, lowest: int) -> Range:
    """Range of the image's own values, apart from Pixel Padding Value (0028,0120); `values` start at `lowest`."""
    padding, stored = _number(image.dataset, 0x0028_0120), image.stored
    if padding is not None and (inside := stored[stored != padding]).size:
        stored = inside
    present = values[int(stored.min()) - lowest : int(stored.max()) - lowest + 1]
    return float(present.min()), float(present.max())


def _number(dataset: pydicom.Dataset, tag: int) -> float | None:
    value = first_of(dataset[tag].value) if tag in dataset else None
    if value is None or str(value).strip() == "":
        return None
    number = float(value)
    return number if math.isfinite(number) and abs(number) < 1e12 else None


def _lut(dataset: pydicom.Dataset, tag: int, name: str) -> tuple[np.ndarray, int] | None:
    """(entries, first value mapped) of the first LUT in a sequence, by its descriptor (0028,3002)."""
    if tag not in dataset or not dataset[tag].value:
        return None
    item = dataset[tag].value[0]
    entries, first, bits = (int(value) for value in item[0x0028_3002].value)
    entries = entries or 65536  # 65536 does not fit into 16 bits
    data = item[0x0028_3006].value
    if isinstance(data, bytes):
        endian = "<" if dataset.original_encoding[1] else ">"
        table = np.frombuffer(data, np.uint8 if bits <= 8 and len(data) <= entries + 1 else f"{endian}u2")
    else:
        table = np.atleast_1d(np.asarray(data, np.uint16))
    if len(table) < entries:
        raise StudyError("corrupt", f"{name}: a LUT of {len(table)} entries; its descriptor says {entries}")
    if first > 32767 and dataset.get("PixelRepresentation") == 1:
        first -= 65536  # read as unsigned, though the values it maps are signed
    return table[:entries], first

"""Small TIFF files, written by hand: encoders would choose their own depth, tags and pages."""

import struct
from collections.abc import Sequence

import numpy as np

_SHORT, _LONG = 3, 4


def tiff(*pages: np.ndarray, order: str = "<", tags: dict[int, int | Sequence[int]] | None = None) -> bytes:
    """A page for each array: (H, W[, C]) of uint8 or uint16 in one strip, not compressed.

    tags  of every page, beside and above its own: {262: 0} is white at zero
    """
    data = (b"II*\0" if order == "<" else b"MM\0*") + b"\0\0\0\0"
    link = 4
    for pixels in pages:
        values = np.atleast_3d(pixels)
        rows, columns, samples = values.shape
        strip = values.astype(values.dtype.newbyteorder(order)).tobytes()
        own: dict[int, int | Sequence[int]] = {
            **{254: 0, 256: columns, 257: rows, 258: [8 * values.itemsize] * samples, 259: 1},
            **{262: 1 if samples < 3 else 2, 273: len(data), 277: samples, 278: rows, 279: len(strip), 284: 1},
        }
        if samples in (2, 4):
            own[338] = 2  # alpha, not premultiplied
        data += strip + b"\0" * (len(strip) % 2)
        data = data[:link] + struct.pack(f"{order}I", len(data)) + data[link + 4 :]
        data, link = _directory(data, own | (tags or {}), order)
    return data


def _directory(data: bytes, tags: dict[int, int | Sequence[int]], order: str) -> tuple[bytes, int]:
    """With the tags after it, and where the next directory's place is to be written."""
    behind = len(data) + 2 + 12 * len(tags) + 4
    entries, values = struct.pack(f"{order}H", len(tags)), b""
    for tag, value in sorted(tags.items()):
        numbers = [value] if isinstance(value, int) else list(value)
        kind, letter = (_LONG, "I") if tag in (273, 279) else (_SHORT, "H")
        packed = struct.pack(f"{order}{len(numbers)}{letter}", *numbers)
        if len(packed) > 4:
            place, values = struct.pack(f"{order}I", behind + len(values)), values + packed
        else:
            place = packed.ljust(4, b"\0")
        entries += struct.pack(f"{order}HHI", tag, kind, len(numbers)) + place
    return data + entries + b"\0\0\0\0" + values, behind - 4

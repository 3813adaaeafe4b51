"""Checks the structure of a BMP before a decoder sees it."""

import struct

from cxrpipe.errors import StudyError

SIGNATURE = b"BM"
_CORE_BYTES, _INFO_BYTES = 12, 40  # sizes of the header of OS/2 and of the smallest header of Windows
_DEPTHS = (1, 4, 8, 24, 32)
_NOT_COMPRESSED = (0, 3)  # BI_RGB, BI_BITFIELDS


def begins(data: bytes) -> bool:
    """Whether a file begins as a BMP. Texts may begin with `BM`, too; the size of the second header must exist."""
    return (
        data.startswith(SIGNATURE)
        and len(data) >= 18
        and data[15:18] == b"\0\0\0"
        and data[14] in (12, 40, 52, 56, 64, 108, 124)
    )


def check(data: bytes, name: str) -> tuple[int, int]:
    """(rows, columns). StudyError if the file does not hold all rows.

    Not handled: 16 bits a pixel, and run-length encoding, with which a decoder leaves missing rows black.
    """
    if len(data) < 14 + _INFO_BYTES:
        raise StudyError("truncated", f"{name}: the BMP ends inside its header; copy the file again")
    (start,) = struct.unpack("<I", data[10:14])
    compression = 0
    if data[14] == _CORE_BYTES:
        columns, rows, _, depth = struct.unpack("<4H", data[18:26])
    else:
        columns, rows, _, depth, compression = struct.unpack("<iiHHI", data[18:34])
        rows = abs(rows)  # negative: the top row comes first
    if depth not in _DEPTHS or compression not in _NOT_COMPRESSED:
        raise StudyError(
            "not_an_image",
            f"{name}: a BMP of {depth} bits a pixel, compression {compression}; expected 1, 4, 8, 24 or 32 bits, "
            "not compressed; save it as PNG",
        )
    if rows <= 0 or columns <= 0:
        raise StudyError(
            "corrupt", f"{name}: the header of the BMP declares {rows}x{columns} pixels; expected a positive size"
        )
    row_bytes = (columns * depth + 31) // 32 * 4
    if start + rows * row_bytes > len(data):
        raise StudyError("truncated", f"{name}: the BMP of {rows}x{columns} pixels ends early; copy the file again")
    return rows, columns

"""The structure of a BMP, judged before any decoder sees it."""

import struct

from cxrpipe.errors import StudyError

SIGNATURE = b"BM"
_CORE_BYTES, _INFO_BYTES = 12, 40  # of the header of OS/2 and of the smallest of Windows
_DEPTHS = (1, 4, 8, 24, 32)
_NOT_COMPRESSED = (0, 3)  # BI_RGB, BI_BITFIELDS


def begins(data: bytes) -> bool:
    """`BM` alone begins many a text: the size of the second header is one of those that exist."""
    return (
        data.startswith(SIGNATURE)
        and len(data) >= 18
        and data[15:18] == b"\0\0\0"
        and data[14] in (12, 40, 52, 56, 64, 108, 124)
    )


def check(data: bytes, name: str) -> tuple[int, int]:
    """(rows, columns), after the file was found to hold all rows.

    Not handled: run-length encoded files (a decoder leaves black what a file that ends early lacks), 16 bits a pixel.
    """
    if len(data) < 14 + _INFO_BYTES:
        raise StudyError("truncated", f"{name}: a BMP that ends inside its header")
    (start,) = struct.unpack("<I", data[10:14])
    compression = 0
    if data[14] == _CORE_BYTES:
        columns, rows, _, depth = struct.unpack("<4H", data[18:26])
    else:
        columns, rows, _, depth, compression = struct.unpack("<iiHHI", data[18:34])
        rows = abs(rows)  # negative: the first row comes first
    if depth not in _DEPTHS or compression not in _NOT_COMPRESSED:
        raise StudyError(
            "not_an_image",
            f"{name}: a BMP of {depth} bits a pixel, compression {compression}; expected 1, 4, 8, 24 or 32 bits, "
            "not compressed; save it as PNG",
        )
    if rows <= 0 or columns <= 0:
        raise StudyError("corrupt", f"{name}: a BMP of {rows}x{columns} pixels by its header")
    row_bytes = (columns * depth + 31) // 32 * 4
    if start + rows * row_bytes > len(data):
        raise StudyError("truncated", f"{name}: a BMP of {rows}x{columns} pixels that ends early")
    return rows, columns

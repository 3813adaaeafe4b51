"""Checks the structure of a WebP (RFC 9649) before a decoder sees it."""

import struct
from collections.abc import Iterator

from cxrpipe.errors import StudyError

_ANIMATED = 0x02


def begins(data: bytes) -> bool:
    """Whether a file begins as a WebP."""
    return data.startswith(b"RIFF") and data[8:12] == b"WEBP"


def check(data: bytes, name: str) -> tuple[int, int]:
    """(rows, columns). StudyError if the file is incomplete or animated."""
    (declared,) = struct.unpack("<I", data[4:8])
    if len(data) < 8 + declared:
        raise StudyError(
            "truncated",
            f"{name}: the WebP has {len(data):,} bytes, its header declares {8 + declared:,}; copy the file again",
        )
    size = None
    for kind, content in _chunks(data):
        if kind == b"VP8X" and content[:1] and content[0] & _ANIMATED:
            raise StudyError("not_chest", f"{name}: an animated WebP; expected one frame; save the frame alone")
        size = size or _size(kind, content)
    if size is None:
        raise StudyError("corrupt", f"{name}: the WebP has no image chunk; save the image again")
    return size


def exif(data: bytes) -> bytes:
    """The content of the EXIF chunk; empty without one."""
    content = next((content for kind, content in _chunks(data) if kind == b"EXIF"), b"")
    return content.removeprefix(b"Exif\0\0")  # some writers keep the prefix of JPEG


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(kind, content) of every chunk."""
    position, end = 12, 8 + struct.unpack("<I", data[4:8])[0]
    while position + 8 <= end:
        kind, length = struct.unpack("<4sI", data[position : position + 8])
        yield kind, data[position + 8 : min(position + 8 + length, end)]
        position += 8 + length + length % 2


def _size(kind: bytes, content: bytes) -> tuple[int, int] | None:
    """(rows, columns) of the canvas, a lossy frame or a lossless frame; None for any other chunk."""
    if kind == b"VP8X" and len(content) >= 10:
        return 1 + int.from_bytes(content[7:10], "little"), 1 + int.from_bytes(content[4:7], "little")
    if kind == b"VP8 " and content[3:6] == b"\x9d\x01\x2a" and len(content) >= 10:
        columns, rows = struct.unpack("<2H", content[6:10])
        return rows & 0x3FFF, columns & 0x3FFF  # the upper two bits ask for scaling
    if kind == b"VP8L" and content[:1] == b"\x2f" and len(content) >= 5:
        packed = int.from_bytes(content[1:5], "little")
        return 1 + (packed >> 14 & 0x3FFF), 1 + (packed & 0x3FFF)
    return None

"""Checks the structure of a PNG before a decoder sees it, and reads the optional chunks that describe its pixels."""

import struct
import zlib

from cxrpipe.errors import StudyError

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def check(data: bytes, name: str) -> tuple[int, int]:
    """(rows, columns). StudyError if the length or the CRC of a chunk is wrong (PNG, section 5). Decoders are laxer."""
    position, size = len(SIGNATURE), None
    while True:
        header = data[position : position + 8]
        if len(header) < 8:
            raise StudyError("truncated", f"{name}: the PNG ends before its IEND chunk; copy the file again")
        length, kind = struct.unpack(">I4s", header)
        end = position + 8 + length
        if end + 4 > len(data):
            raise StudyError("truncated", f"{name}: the PNG ends inside the chunk {_name(kind)}; copy the file again")
        if zlib.crc32(data[position + 4 : end]) != struct.unpack(">I", data[end : end + 4])[0]:
            raise StudyError(
                "corrupt", f"{name}: the checksum of the chunk {_name(kind)} is wrong; copy the file again"
            )
        if size is None:
            if kind != b"IHDR" or length != 13:
                raise StudyError(
                    "corrupt",
                    f"{name}: the PNG begins with a chunk {_name(kind)} of {length:,} bytes; expected IHDR of 13",
                )
            columns, rows = struct.unpack(">II", data[position + 8 : position + 16])
            size = rows, columns
        if kind == b"IEND":
            return size
        position = end + 4


def _name(kind: bytes) -> str:
    """The type of a chunk for a message; bytes that are not ASCII are written out, such as `\\xf6`."""
    return kind.decode("ascii", "backslashreplace")


def significant_bits(data: bytes) -> int | None:
    """Bits of the original samples by the sBIT chunk (PNG, 11.3.2.3); None if it is absent or channels differ."""
    content = _chunk(data, b"sBIT")
    colours = content[: 3 if len(content) >= 3 else 1]  # alpha comes last
    return colours[0] if len(set(colours)) == 1 else None


def exif(data: bytes) -> bytes:
    """The content of the eXIf chunk (PNG, 11.3.4.5); empty without one."""
    return _chunk(data, b"eXIf")


def _chunk(data: bytes, wanted: bytes) -> bytes:
    """The content of the first chunk of a kind in a PNG that `check` has passed."""
    position = len(SIGNATURE)
    while position + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[position : position + 8])
        if kind == wanted:
            return data[position + 8 : position + 8 + length]
        if kind == b"IEND":
            break
        position += 12 + length
    return b""

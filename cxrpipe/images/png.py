"""Checks the structure of a PNG, reads the chunks that describe its pixels, and decodes what the Rust decoder reads.

Two decoders share the work. `kornia_rs` (the Rust crate `png`) takes less than half of OpenCV's time, and gives the
same pixels for grey, RGB and RGBA of 8 and 16 bits. OpenCV decodes the other kinds, and what the Rust decoder refuses.
"""

import struct
from typing import NamedTuple

import cv2
import numpy as np
from isal import isal_zlib
from kornia_rs import io as kornia

from cxrpipe.errors import StudyError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB, _RGBA = 0, 2, 6  # colour types (PNG, table 11.1)
_MODES = {_GREY: "mono", _RGB: "rgb", _RGBA: "rgba"}
_TO_OPENCV = {_RGB: cv2.COLOR_RGB2BGR, _RGBA: cv2.COLOR_RGBA2BGRA}
_DECODERS = {8: kornia.decode_image_png_u8, 16: kornia.decode_image_png_u16}
_WITHOUT_EFFECT = frozenset(b"IHDR IDAT IEND gAMA cHRM sRGB iCCP sBIT bKGD pHYs eXIf tIME tEXt zTXt iTXt".split())
"""Chunks that change the pixels of neither decoder. Of the others, tRNS and acTL (animation) change OpenCV's."""


class Png(NamedTuple):
    """What the chunks of a PNG tell about its pixels."""

    rows_px: int
    columns_px: int
    depth: int
    """Bits of a stored sample."""
    colour_type: int
    chunks: frozenset[bytes]
    """The types of all chunks."""
    sbit: bytes
    """The content of the sBIT chunk (PNG, 11.3.2.3); empty without one."""
    exif: bytes
    """The content of the eXIf chunk (PNG, 11.3.4.5); empty without one."""

    @property
    def significant_bits(self) -> int | None:
        """Bits of the original samples by the sBIT chunk; None if it is absent or channels differ."""
        colours = self.sbit[: 3 if len(self.sbit) >= 3 else 1]  # alpha comes last
        return colours[0] if len(set(colours)) == 1 else None


def check(data: bytes, name: str) -> Png:
    """Walk through the chunks. StudyError if the length or the CRC of one is wrong (PNG, section 5).

    Decoders are laxer, and would not tell a truncated file from a corrupt one.
    """
    view = memoryview(data)
    position, header = len(SIGNATURE), None
    contents: dict[bytes, memoryview] = {}
    while True:
        if len(data) < position + 8:
            raise StudyError("truncated", f"{name}: the PNG ends before its IEND chunk; copy the file again")
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        if end + 4 > len(data):
            raise StudyError("truncated", f"{name}: the PNG ends inside the chunk {_name(kind)}; copy the file again")
        if isal_zlib.crc32(view[position + 4 : end]) != int.from_bytes(view[end : end + 4]):
            raise StudyError(
                "corrupt", f"{name}: the checksum of the chunk {_name(kind)} is wrong; copy the file again"
            )
        if header is None:
            if kind != b"IHDR" or length != 13:
                raise StudyError(
                    "corrupt",
                    f"{name}: the PNG begins with a chunk {_name(kind)} of {length:,} bytes; expected IHDR of 13",
                )
            header = struct.unpack_from(">IIBB", data, position + 8)
        contents.setdefault(kind, view[position + 8 : end])  # of chunks of one type the first counts
        if kind == b"IEND":
            columns_px, rows_px, depth, colour_type = header
            sbit, exif = (bytes(contents.get(wanted, b"")) for wanted in (b"sBIT", b"eXIf"))
            return Png(rows_px, columns_px, depth, colour_type, frozenset(contents), sbit, exif)
        position = end + 4


def _name(kind: bytes) -> str:
    """The type of a chunk for a message; bytes that are not ASCII are written out, such as `\\xf6`."""
    return kind.decode("ascii", "backslashreplace")


def decode(data: bytes, png: Png) -> np.ndarray | None:
    """(H, W) or (H, W, 3 or 4) uint8 or uint16, channels in OpenCV's order. None: OpenCV has to decide.

    data  a file that `check` has passed
    """
    if png.colour_type not in _MODES or png.depth not in _DECODERS or not png.chunks <= _WITHOUT_EFFECT:
        return None
    try:
        size = png.rows_px, png.columns_px
        pixels: np.ndarray = _DECODERS[png.depth](data, size, _MODES[png.colour_type])
    except BaseException as error:
        if type(error) is Exception or type(error).__name__ == "PanicException":
            return None  # kornia_rs raises a bare Exception for a file that it refuses; a panic has a class of its own
        raise
    return pixels.reshape(size) if png.colour_type == _GREY else cv2.cvtColor(pixels, _TO_OPENCV[png.colour_type])

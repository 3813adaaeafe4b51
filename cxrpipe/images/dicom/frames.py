"""Checks the encoded frame of Pixel Data (7FE0,0010) before a codec sees it (PS3.5, A.4)."""

import struct
from typing import NamedTuple

import pydicom
import pydicom.encaps
import pydicom.uid
from pydicom.uid import UID

from cxrpipe.errors import StudyError
from cxrpipe.images import jpeg

_ITEM = b"\xfe\xff\x00\xe0"
_JPEG_START, _JPEG_2000_START = b"\xff\xd8\xff", b"\xff\x4f\xff\x51"
_BOXES_BYTES = 512  # some writers wrap the codestream of JPEG 2000 into a JP2 file
_JPEG = (*pydicom.uid.JPEGTransferSyntaxes, *pydicom.uid.JPEGLSTransferSyntaxes)
JPEG_2000 = (
    pydicom.uid.JPEG2000Lossless,
    pydicom.uid.JPEG2000,
    pydicom.uid.HTJ2KLossless,
    pydicom.uid.HTJ2KLosslessRPCL,
    pydicom.uid.HTJ2K,
)
"""JPEG 2000 of one component, and HTJ2K, the same but for a faster coding of its blocks (ITU T.814)."""
_OF_KIND = {
    0xC1: pydicom.uid.JPEGExtended12Bit,
    0xC3: pydicom.uid.JPEGLossless,
    0xF7: pydicom.uid.JPEGLSLossless,
}
"""Frame marker of a JPEG → transfer syntax. Any other marker means baseline."""


class Encoded(NamedTuple):
    """Size and depth that a frame declares."""

    rows: int
    columns: int
    bits: int
    """Bits of a sample. Codecs believe the frame, whatever the header declares."""
    is_jpeg_ls: bool = False
    """Whether a JPEG is a JPEG-LS. Some files declare one for the other."""
    signed: bool = False
    levels: int = 0
    """How often both sides of a JPEG 2000 may be halved by decoding less of it."""


def is_encapsulated(pixel_data: bytes, syntax: UID) -> bool:
    """Whether pixels are encoded, by the transfer syntax or their first bytes: the syntax may be missing or wrong."""
    begins = pixel_data.startswith(_ITEM) and (_JPEG_START in pixel_data[:64] or _JPEG_2000_START in pixel_data[:512])
    return syntax.is_encapsulated or begins


def join(pixel_data: bytes) -> bytes:
    """Join the fragments of the only frame. The offset table is not read, for some writers get it wrong."""
    table, *fragments = pydicom.encaps.generate_fragments(pixel_data)
    return b"".join(fragments if fragments else [table])


def syntax_of(frame: bytes, declared: UID, name: str) -> UID:
    """The transfer syntax: the declared one, or that of the frame's first bytes if they contradict it."""
    if frame.startswith(_JPEG_START) and declared not in _JPEG:
        return _OF_KIND.get(jpeg.check(frame, name).kind, pydicom.uid.JPEGBaseline8Bit)
    if _JPEG_2000_START in frame[:_BOXES_BYTES] and declared not in JPEG_2000 and not frame.startswith(_JPEG_START):
        return pydicom.uid.JPEG2000
    return declared


def codestream(frame: bytes) -> bytes:
    """A frame of JPEG 2000 without the boxes of a JP2 file around it."""
    return frame[max(0, frame.find(_JPEG_2000_START)) :]


def check(frame: bytes, syntax: UID, name: str) -> Encoded | None:
    """Size and depth of a frame; None for RLE, which declares neither. StudyError if the frame is incomplete."""
    if syntax in _JPEG:
        rows, columns, bits, kind = jpeg.check(frame, name)
        return Encoded(rows, columns, bits, is_jpeg_ls=_OF_KIND.get(kind) == pydicom.uid.JPEGLSLossless)
    return _check_jpeg2000(frame, name) if syntax in JPEG_2000 else None


def _check_jpeg2000(frame: bytes, name: str) -> Encoded:
    """Walk a codestream from SOC and SIZ to EOC (ITU T.800, annex A).

    Any bytes after EOC are padding.
    """
    start = frame.find(_JPEG_2000_START)
    if start < 0 or len(frame) < start + 43:
        raise StudyError("corrupt", f"{name}: the JPEG 2000 frame has no header; export the file again")
    right, bottom, left, top = struct.unpack(">4I", frame[start + 8 : start + 24])
    position, levels = start + 2, 0
    while frame[position : position + 2] != b"\xff\xd9":
        if len(frame) < position + 12:
            raise StudyError(
                "truncated", f"{name}: the JPEG 2000 frame ends before its end marker; copy the file again"
            )
        marker, length = struct.unpack(">HH", frame[position : position + 4])
        if marker == 0xFF52 and not left and not top:  # COD; a shifted grid is halved in another way
            levels = frame[position + 9]
        if marker != 0xFF90:  # a segment of the main header
            position += 2 + length
        elif tile_part := int.from_bytes(frame[position + 6 : position + 10], "big"):
            position += tile_part
        else:  # the last tile-part has no length; its packets hold no 0xFF that a byte above 0x8F follows
            data = frame.find(b"\xff\x93", position)
            end = frame.find(b"\xff\xd9", data) if data >= 0 else -1
            position = end if end >= 0 else len(frame)
    depth = frame[start + 42]
    return Encoded(bottom - top, right - left, 1 + (depth & 0x7F), signed=depth > 0x7F, levels=levels)

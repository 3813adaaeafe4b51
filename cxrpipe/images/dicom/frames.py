"""The encoded frame of Pixel Data (7FE0,0010), judged before a codec sees it (PS3.5, A.4)."""

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
_BOXES_BYTES = 512  # some put the codestream of JPEG 2000 into a JP2 file
_JPEG = (*pydicom.uid.JPEGTransferSyntaxes, *pydicom.uid.JPEGLSTransferSyntaxes)
_JPEG_2000 = pydicom.uid.JPEG2000TransferSyntaxes
_OF_KIND = {
    0xC1: pydicom.uid.JPEGExtended12Bit,
    0xC3: pydicom.uid.JPEGLossless,
    0xF7: pydicom.uid.JPEGLSLossless,
}
"""By the marker of a JPEG's frame; baseline for any other."""


class Encoded(NamedTuple):
    rows: int
    columns: int
    bits: int
    """Of a sample, as the frame itself declares: codecs believe it, whatever the header says."""


def is_encapsulated(pixel_data: bytes, syntax: UID) -> bool:
    """By the bytes where the transfer syntax is not that of encoded pixels: it may be missing, or wrong."""
    begins = pixel_data.startswith(_ITEM) and (_JPEG_START in pixel_data[:64] or _JPEG_2000_START in pixel_data[:512])
    return syntax.is_encapsulated or begins


def join(pixel_data: bytes) -> bytes:
    """The fragments of the only frame, put together. The offset table, which some write wrongly, is not needed."""
    table, *fragments = pydicom.encaps.generate_fragments(pixel_data)
    return b"".join(fragments if fragments else [table])


def syntax_of(frame: bytes, declared: UID, name: str) -> UID:
    """The transfer syntax by the first bytes of the frame, where they are not of the kind that is declared."""
    if frame.startswith(_JPEG_START) and declared not in _JPEG:
        return _OF_KIND.get(jpeg.check(frame, name).kind, pydicom.uid.JPEGBaseline8Bit)
    if _JPEG_2000_START in frame[:_BOXES_BYTES] and declared not in _JPEG_2000 and not frame.startswith(_JPEG_START):
        return pydicom.uid.JPEG2000
    return declared


def check(frame: bytes, syntax: UID, name: str) -> Encoded | None:
    """What a whole frame declares; None of RLE, which declares nothing. StudyError where it is not whole."""
    if syntax in _JPEG:
        return Encoded(*jpeg.check(frame, name)[:3])
    return _check_jpeg2000(frame, name) if syntax in _JPEG_2000 else None


def _check_jpeg2000(frame: bytes, name: str) -> Encoded:
    """Of a codestream that begins with SOC and SIZ and goes on to EOC (ITU T.800, annex A).

    What follows EOC is padding, of whatever bytes.
    """
    start = frame.find(_JPEG_2000_START)
    if start < 0 or len(frame) < start + 43:
        raise StudyError("corrupt", f"{name}: JPEG 2000 without its header")
    right, bottom, left, top = struct.unpack(">4I", frame[start + 8 : start + 24])
    position = start + 2
    while frame[position : position + 2] != b"\xff\xd9":
        if len(frame) < position + 12:
            raise StudyError("truncated", f"{name}: JPEG 2000 without its end marker")
        marker, length = struct.unpack(">HH", frame[position : position + 4])
        if marker != 0xFF90:  # a segment of the main header
            position += 2 + length
        elif tile_part := int.from_bytes(frame[position + 6 : position + 10], "big"):
            position += tile_part
        else:  # the last one, whose length was not known: no code of 0xFF and more than 0x8F lies in its packets
            data = frame.find(b"\xff\x93", position)
            end = frame.find(b"\xff\xd9", data) if data >= 0 else -1
            position = end if end >= 0 else len(frame)
    return Encoded(bottom - top, right - left, 1 + (frame[start + 42] & 0x7F))

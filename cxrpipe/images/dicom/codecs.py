"""Decodes an encoded frame to the words of its samples, one function per family of transfer syntaxes (PS3.5, A.4).

A word holds the bits of a sample in its lowest bits, a negative one as its two's complement. `frames.check` has walked
the frame before: a codec may fill what is missing with zeros, in silence.
"""

import struct

import cv2
import numpy as np
import pydicom.uid
from imagecodecs import jpeg2k_decode, jpeg8_decode, jpegls_decode, packbits_decode
from pydicom.uid import UID

from cxrpipe.errors import StudyError
from cxrpipe.images.dicom import frames
from cxrpipe.images.dicom.frames import Encoded

SYNTAXES = frozenset(
    (
        *pydicom.uid.JPEGTransferSyntaxes,
        *pydicom.uid.JPEGLSTransferSyntaxes,
        *frames.JPEG_2000,
        *pydicom.uid.RLETransferSyntaxes,
    )
)
"""The transfer syntaxes that `words` decodes."""
_RLE_PADDING_BYTES = 1024
"""Zeros beyond the pixels that a segment of RLE may decode to: some writers fill it with zeros, which are runs."""


def words(frame: bytes, syntax: UID, encoded: Encoded, name: str) -> np.ndarray:
    """(H, W) uint8 or uint16: the samples of a frame. Raises StudyError, or RuntimeError or ValueError of a codec."""
    if syntax in pydicom.uid.RLETransferSyntaxes:
        return _rle(frame, encoded, name)
    if encoded.bits > 16:
        raise StudyError(
            "corrupt", f"{name}: a frame of {encoded.bits} bits a sample; expected at most 16; export the file again"
        )
    if syntax in frames.JPEG_2000:
        values = jpeg2k_decode(frames.codestream(frame))
        return values.view(f"u{values.itemsize}") & _mask(values.itemsize, encoded.bits)
    return np.asarray(jpegls_decode(frame) if encoded.is_jpeg_ls else jpeg8_decode(frame))


def _rle(frame: bytes, encoded: Encoded, name: str) -> np.ndarray:
    """RLE Lossless (PS3.5, G): a segment for each byte of the words, the highest first."""
    count, *offsets = struct.unpack_from("<16I", frame)
    if count != encoded.bits // 8:
        raise StudyError(
            "corrupt",
            f"{name}: the RLE frame has {count} segments; expected {encoded.bits // 8} for {encoded.bits} bits "
            "allocated; export the file again",
        )
    starts = offsets[:count]
    ends = [*starts[1:], len(frame)]
    planes = [_plane(frame[start:end], encoded, name) for start, end in zip(starts, ends, strict=True)]
    return planes[0] if count == 1 else cv2.merge(planes[::-1]).view("<u2")[..., 0]


def _plane(segment: bytes, encoded: Encoded, name: str) -> np.ndarray:
    """(H, W) uint8: the bytes of a segment of RLE."""
    pixels = encoded.rows * encoded.columns
    plane = packbits_decode(segment, out=pixels + _RLE_PADDING_BYTES)
    if len(plane) < pixels or any(plane[pixels:]):
        raise StudyError(
            "corrupt", f"{name}: a segment of RLE holds {len(plane):,} pixels; expected {pixels:,}; copy the file again"
        )
    return np.frombuffer(plane, np.uint8, pixels).reshape(encoded.rows, encoded.columns)


def _mask(itemsize: int, bits: int) -> int:
    return (1 << min(bits, 8 * itemsize)) - 1

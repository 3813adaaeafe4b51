"""A DICOM file → the values it stores (PS3.5, chapter 8). Judged before it is decoded."""

import struct
from typing import NamedTuple

import numpy as np
import pydicom
import pydicom.encaps
import pydicom.pixels
import pydicom.uid
from pydicom.pixels.decoders.base import Decoder

from cxrpipe.errors import StudyError
from cxrpipe.images import jpeg
from cxrpipe.images.dicom.header import Header, partial, theirs

_PIXEL_DATA = 0x7FE0_0010
_UNDEFINED_LENGTH = 0xFFFF_FFFF


class DicomImage(NamedTuple):
    dataset: pydicom.Dataset
    stored: np.ndarray  # (H, W) uint8, uint16 or int16, as stored
    inverted: bool  # MONOCHROME1: the lowest value is the brightest
    name: str  # for messages


def parse(data: bytes, name: str) -> tuple[pydicom.Dataset, int | None]:
    """The data set with its encoded pixels, and the tag of the element in which the file ends too early, if one.

    pydicom takes the end of the file for the end of the data set, wherever it comes.
    """
    last: tuple[int, int] | None = None

    def note(tag: int, vr: str | None, length: int) -> bool:
        nonlocal last
        last = tag, length
        return False

    dataset = partial(data, note, name)
    if last is None:
        return dataset, None
    tag, length = last
    if tag not in dataset:
        return dataset, tag
    with theirs(name):
        value = dataset.get_item(tag).value
    short = isinstance(value, bytes) and length != _UNDEFINED_LENGTH and len(value) < length
    return dataset, tag if short else None


def check_whole(dataset: pydicom.Dataset, cut_in: int | None, name: str) -> None:
    if cut_in is not None:
        raise StudyError("truncated", f"{name}: ends inside the element ({cut_in >> 16:04X},{cut_in & 0xFFFF:04X})")
    with theirs(name):
        found = _PIXEL_DATA in dataset and bool(dataset.get_item(_PIXEL_DATA).value)
    if not found:
        raise StudyError("no_pixel_data", f"{name}: a DICOM object without Pixel Data (7FE0,0010)")


def stored_values(dataset: pydicom.Dataset, header: Header, name: str) -> np.ndarray:
    """(H, W) uint8, uint16 or int16: the stored values of Pixel Data (7FE0,0010)."""
    allocated, stored = header.bits_allocated, header.bits_stored
    if allocated not in (8, 16) or stored is None or not 1 <= stored <= allocated:
        raise StudyError("corrupt", f"{name}: {stored} bits stored of {allocated}; expected up to 8 of 8 or 16 of 16")
    syntax = _transfer_syntax(dataset)
    decoder = _decoder(syntax, name)
    packed = syntax in pydicom.uid.RLETransferSyntaxes or not syntax.is_encapsulated
    with theirs(name):
        if syntax.is_encapsulated:
            frame = pydicom.encaps.get_frame(dataset[_PIXEL_DATA].value, 0, number_of_frames=1)
            _check_frame(frame, syntax, header, name)
        values, _ = decoder.as_array(
            dataset,
            raw=True,
            index=0,
            decoding_plugin="pylibjpeg" if syntax.is_encapsulated else "",
            correct_unused_bits=not packed,  # type: ignore[arg-type]  # pydicom's own annotation is wrong
        )
    if values.shape != (header.rows_px, header.columns_px):
        raise StudyError("corrupt", f"{name}: decodes to {values.shape}, not the size in its header")
    if packed:
        # (0028,0102) may be missing, as in 5% of CheXpert Plus: the lowest bits then.
        high_bit = stored - 1 if header.high_bit is None else header.high_bit
        if not stored - 1 <= high_bit < allocated:
            raise StudyError("corrupt", f"{name}: high bit (0028,0102) {high_bit} with {stored} bits of {allocated}")
        values = unpack_bits(values, stored, high_bit)
    return values


def unpack_bits(values: np.ndarray, bits_stored: int, high_bit: int) -> np.ndarray:
    """The `bits_stored` bits below and with `high_bit`; what overlays left in the others goes (PS3.5, 8.1.1)."""
    allocated = 8 * values.dtype.itemsize
    if bits_stored == allocated:
        return values
    return (values << (allocated - 1 - high_bit)) >> (allocated - bits_stored)  # with the sign, where there is one


def _transfer_syntax(dataset: pydicom.Dataset) -> pydicom.uid.UID:
    """(0002,0010); without file meta information what pydicom has read it as."""
    meta = getattr(dataset, "file_meta", None)
    if meta is not None and meta.get("TransferSyntaxUID"):
        return pydicom.uid.UID(str(meta.TransferSyntaxUID))
    implicit, little_endian = dataset.original_encoding
    if not little_endian:
        return pydicom.uid.ExplicitVRBigEndian
    return pydicom.uid.ImplicitVRLittleEndian if implicit else pydicom.uid.ExplicitVRLittleEndian


def _decoder(syntax: pydicom.uid.UID, name: str) -> Decoder:
    try:
        decoder = pydicom.pixels.get_decoder(syntax)
        known = not syntax.is_encapsulated or "pylibjpeg" in decoder.available_plugins
    except (NotImplementedError, ValueError):
        known = False
    if not known:
        raise StudyError(
            "unsupported_transfer_syntax", f"{name}: transfer syntax (0002,0010) {syntax.name} has no decoder here"
        )
    return decoder


def _check_frame(frame: bytes, syntax: pydicom.uid.UID, header: Header, name: str) -> None:
    """The size that the encoded frame itself declares: decoders believe it, whatever the header says."""
    if syntax in pydicom.uid.RLETransferSyntaxes:
        return
    is_jpeg = syntax in (*pydicom.uid.JPEGTransferSyntaxes, *pydicom.uid.JPEGLSTransferSyntaxes)
    size = jpeg.check(frame, name) if is_jpeg else _check_jpeg2000(frame, name)
    if size != (header.rows_px, header.columns_px):
        raise StudyError(
            "corrupt", f"{name}: {header.rows_px}x{header.columns_px} by its header, {size[0]}x{size[1]} by its frame"
        )


def _check_jpeg2000(frame: bytes, name: str) -> tuple[int, int]:
    """(rows, columns) of a codestream that begins with SOC and SIZ and ends with EOC (ITU T.800, annex A)."""
    start = frame.find(b"\xff\x4f\xff\x51")  # some put the codestream into a JP2 file
    if start < 0 or len(frame) < start + 24:
        raise StudyError("corrupt", f"{name}: JPEG 2000 without its header")
    right, bottom, left, top = struct.unpack(">4I", frame[start + 8 : start + 24])
    if not frame.rstrip(b"\0").endswith(b"\xff\xd9"):
        raise StudyError("truncated", f"{name}: JPEG 2000 without its end marker")
    return bottom - top, right - left

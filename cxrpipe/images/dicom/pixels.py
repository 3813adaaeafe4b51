"""A DICOM file → its stored values (PS3.5, chapter 8). The file is checked before it is decoded."""

import contextlib
from typing import NamedTuple

import numpy as np
import pydicom
import pydicom.uid
from pydicom.uid import UID

from cxrpipe.errors import StudyError
from cxrpipe.images.dicom import body_part, codecs, frames, reduced
from cxrpipe.images.dicom.bits import Bits, with_sign
from cxrpipe.images.dicom.frames import Encoded
from cxrpipe.images.dicom.header import Header, partial, pydicom_errors
from cxrpipe.images.rasters import LeastSize

_PIXEL_DATA = 0x7FE0_0010
_PIXEL_REPRESENTATION = 0x0028_0103
_UNDEFINED_LENGTH = 0xFFFF_FFFF
_NATIVE = (
    pydicom.uid.ImplicitVRLittleEndian,
    pydicom.uid.ExplicitVRLittleEndian,
    pydicom.uid.ExplicitVRBigEndian,
)
HEADER_MENDED = "header_mended"
"""Flag: Bits Stored (0028,0101), High Bit (0028,0102) or Photometric Interpretation (0028,0004) is missing or
contradicts the pixels. The pixels decided the bits; a missing interpretation became MONOCHROME2."""
BODY_PART_UNCLEAR = "body_part_unclear"
"""Flag: Body Part Examined (0018,0015) is a word that `body_part` does not know."""


class DicomImage(NamedTuple):
    """The stored values of a radiograph, and the elements that are needed to show them."""

    dataset: pydicom.Dataset
    stored: np.ndarray  # (H, W) uint8, uint16, int8 or int16
    bits: int  # of a stored value
    is_monochrome1: bool  # the lowest value is the brightest
    name: str  # for messages
    flags: tuple[str, ...]
    halvings: int = 0
    """How often both sides were halved, and rounded up, by decoding less of a JPEG 2000."""


def parse(data: bytes, name: str) -> tuple[pydicom.Dataset, int | None]:
    """The data set with its encoded pixels, and the tag of the element in which the file is cut off, if any.

    pydicom does not notice a truncated file: it takes the end of the file for the end of the data set.
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
    with pydicom_errors(name):
        value = dataset.get_item(tag).value
    short = isinstance(value, bytes) and length != _UNDEFINED_LENGTH and len(value) < length
    return dataset, tag if short else None


def check_whole(dataset: pydicom.Dataset, cut_in: int | None, name: str) -> None:
    """StudyError if the file ends inside an element (`cut_in`) or has no pixels."""
    if cut_in is not None:
        element = f"({cut_in >> 16:04X},{cut_in & 0xFFFF:04X})"
        raise StudyError("truncated", f"{name}: ends inside the element {element}; copy the file again")
    with pydicom_errors(name):
        has_pixels = _PIXEL_DATA in dataset and bool(dataset.get_item(_PIXEL_DATA).value)
    if not has_pixels:
        raise StudyError("no_pixel_data", f"{name}: the DICOM object has no Pixel Data (7FE0,0010); expected an image")


def image_of(dataset: pydicom.Dataset, header: Header, name: str, at_least: LeastSize | None = None) -> DicomImage:
    """Decode Pixel Data (7FE0,0010).

    at_least  a JPEG 2000 may be decoded at a half or a quarter, if it keeps this size
    """
    dataset.add_new(_PIXEL_REPRESENTATION, "US", int(header.signed))  # pydicom reads LUTs of implicit VR by it
    stored = _stored_values(dataset, header, at_least, name)
    flags = [HEADER_MENDED] if stored.bits.doubtful or header.photometric_interpretation is None else []
    if body_part.verdict(header.body_part) == "unclear":
        flags.append(BODY_PART_UNCLEAR)
    return DicomImage(
        dataset,
        stored.values,
        stored.bits.stored,
        header.photometric_interpretation == "MONOCHROME1",
        name,
        tuple(flags),
        stored.halvings,
    )


class _Stored(NamedTuple):
    values: np.ndarray
    bits: Bits
    halvings: int


def _stored_values(dataset: pydicom.Dataset, header: Header, at_least: LeastSize | None, name: str) -> _Stored:
    """Decode the only frame, and take the stored values out of its words."""
    declared = _transfer_syntax(dataset, name)
    with pydicom_errors(name):
        data = dataset[_PIXEL_DATA].value
        layout = Bits.of(header, len(data), name)
        halvings = 0
        if not frames.is_encapsulated(data, declared):
            words = _native(data, dataset, layout.allocated, header, name)
        else:
            frame = frames.join(data)
            syntax = frames.syntax_of(frame, declared, name)
            encoded = frames.check(frame, syntax, name)
            if encoded is None:
                encoded = Encoded(header.rows_px or 0, header.columns_px or 0, layout.allocated)
            else:
                layout = layout.of_frame(encoded.bits)
            _check_size(encoded, header, name)
            if at_least is not None and _may_be_reduced(encoded, layout, header):
                halvings = reduced.halvings(encoded, at_least)
            words, halvings = _decoded(frame, syntax, encoded, halvings, name)
            if header.signed:
                words = with_sign(words, encoded.bits)
        if header.signed:
            words = words.view(f"i{words.itemsize}")
    expected = tuple(-(-side >> halvings) for side in (header.rows_px or 0, header.columns_px or 0))
    if words.shape != expected:
        raise StudyError("corrupt", f"{name}: decodes to {words.shape}; expected {expected} by its header")
    values, used = layout.taken_from(words)
    return _Stored(values, used, halvings)


def _native(data: bytes, dataset: pydicom.Dataset, allocated: int, header: Header, name: str) -> np.ndarray:
    """(H, W) uint8 or uint16: the words of pixels that are not encoded."""
    _check_length(len(data), header, allocated, name)
    rows, columns = header.rows_px or 0, header.columns_px or 0
    big_endian = not dataset.original_encoding[1]
    words: np.ndarray
    if allocated == 16:
        words = np.frombuffer(data, ">u2" if big_endian else "<u2", rows * columns).astype(np.uint16, copy=False)
    elif big_endian and dataset[_PIXEL_DATA].VR == "OW":  # two pixels lie in each word, the first in its lower byte
        words = np.frombuffer(data[: len(data) & ~1], ">u2").astype("<u2").view(np.uint8)[: rows * columns]
    else:
        words = np.frombuffer(data, np.uint8, rows * columns)
    return words.reshape(rows, columns)


def _may_be_reduced(encoded: Encoded, layout: Bits, header: Header) -> bool:
    """Whether the frame and the header mean the same samples. If not, only all of the pixels tell what is meant.

    Frames of 8 or 9 bits are decoded whole: the reversible wavelet rounds up, by 0.4 values a halving.
    """
    is_plain = encoded.bits == layout.stored == layout.high + 1 and not layout.doubtful
    return is_plain and encoded.signed == header.signed and encoded.bits > 9


def _decoded(frame: bytes, syntax: UID, encoded: Encoded, halvings: int, name: str) -> tuple[np.ndarray, int]:
    """The words of a frame, and how often they were halved: not at all if the frame has fewer levels in one tile."""
    if halvings:
        with contextlib.suppress(OSError):
            return reduced.words(frame, encoded, halvings), halvings
    return codecs.words(frame, syntax, encoded, name), 0


def _check_size(encoded: Encoded, header: Header, name: str) -> None:
    """StudyError if the frame and the header differ in size."""
    if (encoded.rows, encoded.columns) != (header.rows_px, header.columns_px):
        raise StudyError(
            "corrupt",
            f"{name}: {header.rows_px}x{header.columns_px} by its header, "
            f"{encoded.rows}x{encoded.columns} by its frame; expected the same size; export the file again",
        )


def _check_length(length: int, header: Header, allocated: int, name: str) -> None:
    """StudyError if the length of native (not encoded) pixels does not fit the header."""
    expected = (header.rows_px or 0) * (header.columns_px or 0) * allocated // 8
    if length < expected or length >= 2 * expected:
        raise StudyError(
            "corrupt",
            f"{name}: Pixel Data (7FE0,0010) has {length:,} bytes; expected {expected:,} for "
            f"{header.rows_px}x{header.columns_px} pixels of {allocated} bits",
        )


def _transfer_syntax(dataset: pydicom.Dataset, name: str) -> UID:
    """Transfer Syntax UID (0002,0010); without file meta information, the encoding that pydicom has detected.

    StudyError if nothing here decodes it.
    """
    meta = getattr(dataset, "file_meta", None)
    if meta is not None and meta.get("TransferSyntaxUID"):
        syntax = UID(str(meta.TransferSyntaxUID))
        if syntax not in _NATIVE and syntax not in codecs.SYNTAXES:
            raise StudyError(
                "unsupported_transfer_syntax",
                f"{name}: transfer syntax (0002,0010) {syntax.name} has no decoder here; "
                "convert the file to Explicit VR Little Endian",
            )
        return syntax
    implicit, little_endian = dataset.original_encoding
    if not little_endian:
        return pydicom.uid.ExplicitVRBigEndian
    return pydicom.uid.ImplicitVRLittleEndian if implicit else pydicom.uid.ExplicitVRLittleEndian

"""A DICOM file → its stored values (PS3.5, chapter 8). The file is checked before it is decoded."""

from typing import Any, NamedTuple

import numpy as np
import pydicom
import pydicom.encaps
import pydicom.uid
from pydicom.pixels.decoders.base import Decoder, get_decoder

from cxrpipe.errors import StudyError
from cxrpipe.images.dicom import body_part, frames
from cxrpipe.images.dicom.bits import Bits, unpack_bits
from cxrpipe.images.dicom.header import Header, partial, pydicom_errors

_PIXEL_DATA = 0x7FE0_0010
_UNDEFINED_LENGTH = 0xFFFF_FFFF
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


def image_of(dataset: pydicom.Dataset, header: Header, name: str) -> DicomImage:
    """Decode Pixel Data (7FE0,0010)."""
    stored, bits, doubtful = _stored_values(dataset, header, name)
    flags = [HEADER_MENDED] if doubtful or header.photometric_interpretation is None else []
    if body_part.verdict(header.body_part) == "unclear":
        flags.append(BODY_PART_UNCLEAR)
    return DicomImage(dataset, stored, bits, header.photometric_interpretation == "MONOCHROME1", name, tuple(flags))


def _stored_values(dataset: pydicom.Dataset, header: Header, name: str) -> tuple[np.ndarray, int, bool]:
    """(H, W) stored values, the bits of a value, and whether the header contradicts itself or the pixels."""
    syntax = _transfer_syntax(dataset)
    decoder = _decoder(syntax, name)
    with pydicom_errors(name):
        data = dataset[_PIXEL_DATA].value
        layout = Bits.of(header, len(data), name)
        encapsulated = frames.is_encapsulated(data, syntax)
        if encapsulated:
            frame = frames.join(data)
            syntax = frames.syntax_of(frame, syntax, name)
            decoder = _decoder(syntax, name)
            dataset.file_meta.TransferSyntaxUID = syntax
            layout = layout.of_frame(_check_frame(frame, syntax, header, name))
            dataset.add_new(_PIXEL_DATA, "OB", pydicom.encaps.encapsulate([frame]))
            dataset[_PIXEL_DATA].is_undefined_length = True
        else:
            _check_length(len(data), header, layout.allocated, name)
        _complete(dataset, header, layout)
        packed = syntax in pydicom.uid.RLETransferSyntaxes or not encapsulated
        values, _ = decoder.as_array(
            dataset,
            raw=True,
            index=0,
            decoding_plugin="pylibjpeg" if encapsulated else "",
            correct_unused_bits=not packed and header.signed,  # type: ignore[arg-type]  # pydicom declares a wrong type
        )
    if values.shape != (header.rows_px, header.columns_px):
        raise StudyError(
            "corrupt", f"{name}: decodes to {values.shape}; expected {header.rows_px}x{header.columns_px} by its header"
        )
    if not packed and header.signed:
        return values, layout.stored, layout.doubtful
    used = layout.as_used(values)
    return unpack_bits(values, used.stored, used.high), used.stored, used.doubtful


def _complete(dataset: pydicom.Dataset, header: Header, layout: Bits) -> None:
    """Write the header as it was understood into the data set, for the decoder. MONOCHROME has one sample a pixel."""
    facts: dict[str, Any] = {
        "Rows": header.rows_px,
        "Columns": header.columns_px,
        "NumberOfFrames": 1,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": header.photometric_interpretation or "MONOCHROME2",
        "PixelRepresentation": int(header.signed),
        "BitsAllocated": layout.allocated,
        "BitsStored": layout.stored,
        "HighBit": layout.high,
    }
    for keyword, value in facts.items():
        setattr(dataset, keyword, value)


def _check_frame(frame: bytes, syntax: pydicom.uid.UID, header: Header, name: str) -> int | None:
    """The bits of a sample that the frame declares, if any. StudyError if the frame and the header differ in size."""
    encoded = frames.check(frame, syntax, name)
    if encoded is None:
        return None
    if (encoded.rows, encoded.columns) != (header.rows_px, header.columns_px):
        raise StudyError(
            "corrupt",
            f"{name}: {header.rows_px}x{header.columns_px} by its header, "
            f"{encoded.rows}x{encoded.columns} by its frame; expected the same size; export the file again",
        )
    return encoded.bits


def _check_length(length: int, header: Header, allocated: int, name: str) -> None:
    """StudyError if the length of native (not encoded) pixels does not fit the header."""
    expected = (header.rows_px or 0) * (header.columns_px or 0) * allocated // 8
    if length < expected or length >= 2 * expected:
        raise StudyError(
            "corrupt",
            f"{name}: Pixel Data (7FE0,0010) has {length:,} bytes; expected {expected:,} for "
            f"{header.rows_px}x{header.columns_px} pixels of {allocated} bits",
        )


def _transfer_syntax(dataset: pydicom.Dataset) -> pydicom.uid.UID:
    """Transfer Syntax UID (0002,0010); without file meta information, the encoding that pydicom has detected."""
    meta = getattr(dataset, "file_meta", None)
    if meta is not None and meta.get("TransferSyntaxUID"):
        return pydicom.uid.UID(str(meta.TransferSyntaxUID))
    implicit, little_endian = dataset.original_encoding
    if not little_endian:
        return pydicom.uid.ExplicitVRBigEndian
    return pydicom.uid.ImplicitVRLittleEndian if implicit else pydicom.uid.ExplicitVRLittleEndian


def _decoder(syntax: pydicom.uid.UID, name: str) -> Decoder:
    """pydicom's decoder of a transfer syntax; StudyError if none is installed."""
    try:
        decoder = get_decoder(syntax)
        is_known = not syntax.is_encapsulated or "pylibjpeg" in decoder.available_plugins
    except (NotImplementedError, ValueError):
        is_known = False
    if not is_known:
        raise StudyError(
            "unsupported_transfer_syntax",
            f"{name}: transfer syntax (0002,0010) {syntax.name} has no decoder here; "
            "convert the file to Explicit VR Little Endian",
        )
    return decoder

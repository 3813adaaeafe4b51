"""Reads the header of a DICOM file: who and what it shows, and how large it is. Pixels are not read."""

import contextlib
import io
import re
import struct
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pydicom
import pydicom.filereader
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from cxrpipe.errors import StudyError
from cxrpipe.images.dicom import body_part
from cxrpipe.images.dicom.start import start_of

RADIOGRAPHS = ("CR", "DX", "RG", "DR", "XR")
"""Modalities (0008,0060) of a radiograph: computed (CR), digital (DX) and conventional film (RG). DR and XR are not in
the standard, but some devices and archives write them for DX."""
FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.1.1"
"""SOP class of a digital X-ray image as it left the detector, which is not meant for reading."""
MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"
"""SOP class of a DICOMDIR."""
_X_RAY_CLASSES = ("1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1", FOR_PROCESSING)
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_LAST_TAG = 0x0028_0103
"""Pixel Representation: the last element for `Header` if there is a View Position. Elements are sorted by tag."""
_VIEW_POSITION = 0x0018_5101
_VIEW_CODES = 0x0054_0220
"""View Code Sequence: the last element that `Header` needs if View Position is empty."""
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_FILE_META_BYTES = 1024
UNREADABLE = (ValueError, TypeError, ArithmeticError, LookupError, AttributeError, NotImplementedError, struct.error)
"""The errors of pydicom for an element whose value breaks the rules of its VR."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """The elements that decide how an image is used. None: the file does not have the element."""

    study_instance_uid: str | None  # (0020,000D)
    sop_instance_uid: str | None  # (0008,0018)
    sop_class: str | None  # (0008,0016), or (0002,0002)
    modality: str | None  # (0008,0060); of several values, one in RADIOGRAPHS
    presentation_intent: str | None  # (0008,0068)
    series_description: str | None  # (0008,103E)
    body_part: str | None  # (0018,0015)
    view_position: str | None  # (0018,5101), as it is written
    view_code: str | None  # meaning of the code in (0054,0220)
    patient_orientation: tuple[str, ...]  # (0020,0020): the directions of rows and columns
    patient_id: str | None  # (0010,0020)
    issuer_of_patient_id: str | None  # (0010,0021)
    patient_birth_date: str | None  # (0010,0030)
    patient_age: str | None  # (0010,1010)
    patient_sex: str | None  # (0010,0040)
    pixel_spacing_mm: tuple[float, float] | None  # (0028,0030), or (0018,1164) at the detector
    rows_px: int | None  # (0028,0010)
    columns_px: int | None  # (0028,0011)
    frames: int  # (0028,0008)
    samples_per_pixel: int | None  # (0028,0002)
    photometric_interpretation: str | None  # (0028,0004); None for MONOCHROME without its number
    bits_allocated: int | None  # (0028,0100)
    bits_stored: int | None  # (0028,0101)
    high_bit: int | None  # (0028,0102)
    signed: bool  # (0028,0103)


def read_header(data: bytes, name: str) -> tuple[Header, bool]:
    """The header, and whether `data` holds all of it. `data` may be only the first bytes of the file."""
    settled, last = False, _VIEW_CODES

    def stop(tag: int, vr: str | None, length: int) -> bool:
        nonlocal settled, last
        if tag == _VIEW_POSITION and length:
            last = _LAST_TAG
        settled = tag > last
        return settled

    return header_of(partial(data, stop, name), name), settled


def partial(data: bytes, stop: Callable[[int, str | None, int], bool], name: str) -> pydicom.FileDataset:
    """Read elements until `stop(tag, vr, length)` returns True."""
    data = data[start_of(data) or 0 :]
    if _DEFLATED in data[:_FILE_META_BYTES]:
        raise StudyError(
            "unsupported_transfer_syntax",
            f"{name}: the DICOM data set is deflated; expected one that is not; write the file again without deflation",
        )
    with pydicom_errors(name):
        return pydicom.filereader.read_partial(io.BytesIO(data), stop, force=True)


@contextlib.contextmanager
def pydicom_errors(name: str) -> Iterator[None]:
    """Turn any error of pydicom and its decoders into StudyError `corrupt`, and silence the warnings of pydicom."""
    # catch_warnings would not do: threads would undo the filter of each other.
    warnings.filterwarnings("ignore", module=r"pydicom\.")
    try:
        yield
    except StudyError:
        raise
    except BaseException as error:
        # The RLE decoder is written in Rust. Its panic is no Exception, and its class cannot be imported.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise StudyError("corrupt", f"{name}: cannot be read as DICOM ({reason[:200]})") from error


def header_of(dataset: pydicom.Dataset, name: str) -> Header:
    """The header of a data set that pydicom has parsed."""
    with pydicom_errors(name):
        return _header(dataset)


def _header(dataset: pydicom.Dataset) -> Header:
    return Header(
        study_instance_uid=_text(dataset, 0x0020_000D),
        sop_instance_uid=_text(dataset, 0x0008_0018),
        sop_class=_text(dataset, 0x0008_0016) or _text(getattr(dataset, "file_meta", pydicom.Dataset()), 0x0002_0002),
        modality=_modality(dataset),
        presentation_intent=_upper(dataset, 0x0008_0068),
        series_description=_text(dataset, 0x0008_103E),
        body_part=_upper(dataset, 0x0018_0015),
        view_position=_upper(dataset, _VIEW_POSITION),
        view_code=_view_code(dataset),
        patient_orientation=tuple(texts(dataset, 0x0020_0020)),
        patient_id=_text(dataset, 0x0010_0020),
        issuer_of_patient_id=_text(dataset, 0x0010_0021),
        patient_birth_date=_text(dataset, 0x0010_0030),
        patient_age=_text(dataset, 0x0010_1010),
        patient_sex=_upper(dataset, 0x0010_0040),
        pixel_spacing_mm=_spacing(dataset, 0x0028_0030) or _spacing(dataset, 0x0018_1164),
        rows_px=_whole(dataset, 0x0028_0010),
        columns_px=_whole(dataset, 0x0028_0011),
        frames=max(1, _whole(dataset, 0x0028_0008) or 1),
        samples_per_pixel=_whole(dataset, 0x0028_0002),
        photometric_interpretation=_photometric(dataset),
        bits_allocated=_whole(dataset, 0x0028_0100),
        bits_stored=_whole(dataset, 0x0028_0101),
        high_bit=_whole(dataset, 0x0028_0102),
        signed=_whole(dataset, 0x0028_0103) == 1,
    )


def is_radiograph(header: Header) -> bool:
    """Whether a file is a radiograph by its modality, or by its SOP class if the modality is empty or OT (other).

    A file without both counts as a radiograph. So does a secondary capture without a modality, which may be any image.
    """
    if header.modality not in (None, "OT"):
        return header.modality in RADIOGRAPHS
    if header.sop_class in _X_RAY_CLASSES:
        return True
    return header.modality is None and (header.sop_class or _SECONDARY_CAPTURE).startswith(_SECONDARY_CAPTURE)


def check_header(header: Header, name: str) -> tuple[int, int]:
    """(rows, columns). StudyError if the header shows that the file is not a chest radiograph."""
    if header.rows_px is None or header.columns_px is None:
        raise StudyError(
            "no_pixel_data",
            f"{name}: {header.modality or 'a DICOM object'} has no Rows (0028,0010) or no Columns (0028,0011); "
            "expected an image",
        )
    if not is_radiograph(header):
        kind = f"modality (0008,0060) {header.modality}, SOP class (0008,0016) {header.sop_class}"
        raise StudyError("not_chest", f"{name}: {kind}; expected a modality of {', '.join(RADIOGRAPHS)}")
    if body_part.verdict(header.body_part) == "other":
        raise StudyError("not_chest", f"{name}: body part (0018,0015) {header.body_part}; expected CHEST")
    if header.frames != 1:
        raise StudyError("not_chest", f"{name}: {header.frames} frames (0028,0008); a radiograph has one")
    has_colours = (header.samples_per_pixel or 1) > 1 and header.photometric_interpretation is None
    if has_colours or header.photometric_interpretation not in (None, "MONOCHROME1", "MONOCHROME2"):
        raise StudyError(
            "not_chest",
            f"{name}: photometric interpretation (0028,0004) {header.photometric_interpretation or 'not given'}, "
            f"{header.samples_per_pixel or 'no'} samples per pixel (0028,0002); "
            "a radiograph is MONOCHROME1 or MONOCHROME2",
        )
    return header.rows_px, header.columns_px


def texts(dataset: pydicom.Dataset, tag: int) -> list[str]:
    """The values of an element without spaces and zeros around them; an empty list if it is absent or empty.

    A value that pydicom cannot convert, such as 2048,0 for a decimal string, is returned as it is written.
    """
    if tag not in dataset:
        return []
    try:
        value = dataset[tag].value
    except UNREADABLE:
        raw = dataset.get_item(tag).value
        value = raw.decode("latin-1").split("\\") if isinstance(raw, bytes) else None
    several = isinstance(value, (pydicom.multival.MultiValue, list, tuple))
    values = [str(item).strip(" \0") for item in (value if several else [value]) if item is not None]
    return values if any(values) else []


def numbers(dataset: pydicom.Dataset, tag: int) -> list[float | None]:
    """The values of an element as numbers; None for a value that is not a finite number.

    A comma is read as the decimal point, but not in 2,048, which may mean two thousand.
    """
    return [_number(text) for text in texts(dataset, tag)]


def _number(text: str) -> float | None:
    if re.fullmatch(r"[-+]?\d{1,3}(,\d{3})+", text):
        return None
    try:
        number = float(text.replace(",", ".") if text.count(",") == 1 and "." not in text else text)
    except ValueError:
        return None
    return number if abs(number) < 1e12 else None  # excludes nan, too


def _text(dataset: pydicom.Dataset, tag: int) -> str | None:
    return next(iter(texts(dataset, tag)), None) or None


def _modality(dataset: pydicom.Dataset) -> str | None:
    """Of several modalities, as in `CR\\DX`, the first in RADIOGRAPHS, else the first of all."""
    words = re.findall(r"[A-Z]+", " ".join(texts(dataset, 0x0008_0060)).upper())
    return next((word for word in words if word in RADIOGRAPHS), words[0] if words else None)


def _view_code(dataset: pydicom.Dataset) -> str | None:
    """The meaning of the first code of View Code Sequence: in English if the code is in PS3.16, CID 4010."""
    with (
        contextlib.suppress(StudyError),
        pydicom_errors("View Code Sequence"),
    ):  # a broken sequence must not cost the image
        items = dataset[_VIEW_CODES].value if _VIEW_CODES in dataset else None
        if not isinstance(items, pydicom.Sequence) or not items:
            return None
        value, scheme = _text(items[0], 0x0008_0100), _text(items[0], 0x0008_0102)
        scheme = "SRT" if scheme in ("SNM3", "99SDM") else scheme  # older names of SNOMED RT (SRT)
        code = Code(value or "", scheme or "", "")
        known = (concept.meaning for concept in codes.cid4010.concepts.values() if concept == code)
        return next(known, None) or _text(items[0], 0x0008_0104)
    return None


def _upper(dataset: pydicom.Dataset, tag: int) -> str | None:
    text = _text(dataset, tag)
    return text.upper() if text else None


def _whole(dataset: pydicom.Dataset, tag: int) -> int | None:
    """The first value if it is whole. Some writers put 1.0 into an integer string."""
    number = next(iter(numbers(dataset, tag)), None)
    return int(number) if number is not None and number == int(number) else None


def _photometric(dataset: pydicom.Dataset) -> str | None:
    """Photometric Interpretation in capitals without spaces; None for MONOCHROME without its number."""
    text = (_upper(dataset, 0x0028_0004) or "").replace(" ", "")
    return text if text not in ("", "MONOCHROME") else None


def _spacing(dataset: pydicom.Dataset, tag: int) -> tuple[float, float] | None:
    """(between rows, between columns) in mm; None for zeros and for anything but a pair of numbers."""
    match numbers(dataset, tag):
        case [float(rows), float(columns)] if 0 < rows < 100 and 0 < columns < 100:
            return rows, columns
    return None

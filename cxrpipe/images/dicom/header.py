"""What a DICOM file is by its header: who, of what, how large. No pixels are read for it."""

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
"""Modality (0008,0060): computed radiography, digital radiography, conventional film; and, though the standard has no
such words, what some devices and archives write for the second."""
FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.1.1"
"""SOP class of a digital X-ray image as the detector gave it, which nobody is meant to read."""
MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"
"""SOP class of a DICOMDIR."""
_X_RAY_CLASSES = ("1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1", FOR_PROCESSING)
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_LAST_TAG = 0x0028_0103
"""Pixel Representation: the last element that `Header` is made of, where it has a View Position. Elements are sorted by
their tags."""
_VIEW_POSITION = 0x0018_5101
_VIEW_CODES = 0x0054_0220
"""View Code Sequence, which is read on to where View Position is empty."""
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_FILE_META_BYTES = 1024
UNREADABLE = (ValueError, TypeError, ArithmeticError, LookupError, AttributeError, NotImplementedError, struct.error)
"""What pydicom raises for an element whose value breaks the rules of its VR."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """None: the file does not say."""

    study_instance_uid: str | None  # (0020,000D)
    sop_instance_uid: str | None  # (0008,0018)
    sop_class: str | None  # (0008,0016), or (0002,0002)
    modality: str | None  # (0008,0060); of several the one that says radiograph
    presentation_intent: str | None  # (0008,0068)
    series_description: str | None  # (0008,103E)
    body_part: str | None  # (0018,0015)
    view_position: str | None  # (0018,5101), as it is written
    view_code: str | None  # meaning of the code in (0054,0220)
    patient_orientation: tuple[str, ...]  # (0020,0020): where rows and columns point to
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
    photometric_interpretation: str | None  # (0028,0004); MONOCHROME alone says neither 1 nor 2
    bits_allocated: int | None  # (0028,0100)
    bits_stored: int | None  # (0028,0101)
    high_bit: int | None  # (0028,0102)
    signed: bool  # (0028,0103)


def read_header(data: bytes, name: str) -> tuple[Header, bool]:
    """The header, and whether `data`, which may be the file's first bytes only, held all of it."""
    settled, last = False, _VIEW_CODES

    def stop(tag: int, vr: str | None, length: int) -> bool:
        nonlocal settled, last
        if tag == _VIEW_POSITION and length:
            last = _LAST_TAG
        settled = tag > last
        return settled

    return header_of(partial(data, stop, name), name), settled


def partial(data: bytes, stop: Callable[[int, str | None, int], bool], name: str) -> pydicom.FileDataset:
    """The elements up to where `stop(tag, vr, length)` says so."""
    data = data[start_of(data) or 0 :]
    if _DEFLATED in data[:_FILE_META_BYTES]:
        raise StudyError(
            "unsupported_transfer_syntax", f"{name}: a deflated DICOM data set; write it again, not deflated"
        )
    with pydicom_errors(name):
        return pydicom.filereader.read_partial(io.BytesIO(data), stop, force=True)


@contextlib.contextmanager
def pydicom_errors(name: str) -> Iterator[None]:
    """pydicom and its decoders raise whatever they meet in bad bytes, and warn of what we judge ourselves."""
    # Not catch_warnings, which threads would undo for each other.
    warnings.filterwarnings("ignore", module=r"pydicom\.")
    try:
        yield
    except StudyError:
        raise
    except BaseException as error:
        # A panic of the RLE decoder, which is written in Rust, is no Exception; its class cannot be imported.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        what = " ".join(str(error).split()) or type(error).__name__
        raise StudyError("corrupt", f"{name}: cannot be read as DICOM ({what[:200]})") from error


def header_of(dataset: pydicom.Dataset, name: str) -> Header:
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
    """By the modality; where that is empty or OT (other), by the SOP class.

    A file that names neither is one, and so is a secondary capture without a modality, which any image may be.
    """
    if header.modality not in (None, "OT"):
        return header.modality in RADIOGRAPHS
    if header.sop_class in _X_RAY_CLASSES:
        return True
    return header.modality is None and (header.sop_class or _SECONDARY_CAPTURE).startswith(_SECONDARY_CAPTURE)


def check_header(header: Header, name: str) -> tuple[int, int]:
    """(rows, columns); StudyError where the header alone says that this is no chest radiograph."""
    if header.rows_px is None or header.columns_px is None:
        raise StudyError("no_pixel_data", f"{name}: {header.modality or 'a DICOM object'} without an image")
    if not is_radiograph(header):
        what = f"modality (0008,0060) {header.modality}, SOP class (0008,0016) {header.sop_class}"
        raise StudyError("not_chest", f"{name}: {what}; expected a modality of {', '.join(RADIOGRAPHS)}")
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
    """The values of an element, without the spaces and zeros around them; none where it is absent or empty.

    Values that pydicom cannot convert, such as 2048,0 for a decimal string, are given as they are written.
    """
    if tag not in dataset:
        return []
    try:
        value = dataset[tag].value
    except UNREADABLE:
        raw = dataset.get_item(tag).value
        value = raw.decode("latin-1").split("\\") if isinstance(raw, bytes) else None
    several = isinstance(value, (pydicom.multival.MultiValue, list, tuple))
    values = [str(each).strip(" \0") for each in (value if several else [value]) if each is not None]
    return values if any(values) else []


def numbers(dataset: pydicom.Dataset, tag: int) -> list[float | None]:
    """As `texts`; None for a value that is no finite number. A comma is read as the decimal point.

    Not 2,048 and the like: that may as well be two thousand.
    """
    return [_number(text) for text in texts(dataset, tag)]


def _number(text: str) -> float | None:
    if re.fullmatch(r"[-+]?\d{1,3}(,\d{3})+", text):
        return None
    try:
        number = float(text.replace(",", ".") if text.count(",") == 1 and "." not in text else text)
    except ValueError:
        return None
    return number if abs(number) < 1e12 else None  # also not nan


def _text(dataset: pydicom.Dataset, tag: int) -> str | None:
    return next(iter(texts(dataset, tag)), None) or None


def _modality(dataset: pydicom.Dataset) -> str | None:
    """Of several, as in `CR\\DX`, one that says radiograph, else the first."""
    words = re.findall(r"[A-Z]+", " ".join(texts(dataset, 0x0008_0060)).upper())
    return next((word for word in words if word in RADIOGRAPHS), words[0] if words else None)


def _view_code(dataset: pydicom.Dataset) -> str | None:
    """What the first code of View Code Sequence means: in English where it is one of PS3.16, CID 4010."""
    with contextlib.suppress(StudyError), pydicom_errors("View Code Sequence"):  # a broken one must not cost the image
        items = dataset[_VIEW_CODES].value if _VIEW_CODES in dataset else None
        if not isinstance(items, pydicom.Sequence) or not items:
            return None
        value, scheme = _text(items[0], 0x0008_0100), _text(items[0], 0x0008_0102)
        scheme = "SRT" if scheme in ("SNM3", "99SDM") else scheme  # names of SNOMED RT before it was SRT
        code = Code(value or "", scheme or "", "")
        known = (concept.meaning for concept in codes.cid4010.concepts.values() if concept == code)
        return next(known, None) or _text(items[0], 0x0008_0104)
    return None


def _upper(dataset: pydicom.Dataset, tag: int) -> str | None:
    text = _text(dataset, tag)
    return text.upper() if text else None


def _whole(dataset: pydicom.Dataset, tag: int) -> int | None:
    """Also of 1.0, which some write for an integer string."""
    number = next(iter(numbers(dataset, tag)), None)
    return int(number) if number is not None and number == int(number) else None


def _photometric(dataset: pydicom.Dataset) -> str | None:
    """In capitals, without spaces; None for a MONOCHROME without its number."""
    text = (_upper(dataset, 0x0028_0004) or "").replace(" ", "")
    return text if text not in ("", "MONOCHROME") else None


def _spacing(dataset: pydicom.Dataset, tag: int) -> tuple[float, float] | None:
    """(between rows, between columns) in mm; zeros say nothing, and neither does what is no pair of numbers."""
    match numbers(dataset, tag):
        case [float(rows), float(columns)] if 0 < rows < 100 and 0 < columns < 100:
            return rows, columns
    return None

"""Finds where DICOM begins in a file. Many files lack the preamble; some lack the file meta information, too."""

import struct

from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, STANDARD_VR

_PREAMBLE_BYTES = 128
_PREFIX = b"DICM"
_SEARCHED_BYTES = 1024
_FIRST_GROUPS = (0x0002, 0x0008)
_LONGEST_FIRST = 1024  # bytes of the first element: a UID, a character set, a group length

_VRS = {vr.value.encode() for vr in STANDARD_VR}
_LONG_VRS = {vr.value.encode() for vr in EXPLICIT_VR_LENGTH_32}


def begins_as_dicom(data: bytes) -> bool:
    """Whether a file is DICOM by its first bytes."""
    return start_of(data) is not None


def start_of(data: bytes) -> int | None:
    """The offset at which pydicom must begin: the preamble, or the first element without one. None: no DICOM.

    A DICOM file has `DICM` after 128 bytes (PS3.10, 7.1), which may hold anything, even the header of a TIFF. Some
    files have `DICM` elsewhere in the first 1,024 bytes, before an element of group 2. Others lack it: their first two
    elements, of group 2 or 8, are encoded as DICOM at the very beginning or after an empty preamble.
    """
    if data[_PREAMBLE_BYTES : _PREAMBLE_BYTES + len(_PREFIX)] == _PREFIX:
        return 0
    prefix = data.find(_PREFIX + b"\x02\0", 0, _SEARCHED_BYTES)
    if prefix >= 0:
        return prefix + len(_PREFIX)
    empty = len(data[:_SEARCHED_BYTES]) - len(data[:_SEARCHED_BYTES].lstrip(b"\0"))
    starts = (0, _PREAMBLE_BYTES) if empty >= _PREAMBLE_BYTES else (0, empty & ~1, empty & ~1 - 1)
    return next((at for at in starts if at >= 0 and any(_looks_encoded(data, at, order) for order in "<>")), None)


def _looks_encoded(data: bytes, at: int, order: str) -> bool:
    """Whether two elements follow each other in the order of their tags, the first of group 2 or 8."""
    first = _element(data, at, order)
    if first is None:
        return False
    tag, is_explicit, behind = first
    if tag >> 16 not in _FIRST_GROUPS or behind - at > _LONGEST_FIRST or not (is_explicit or order == "<"):
        return False
    second = _element(data, behind, order)
    if second is None:
        return len(data) < behind + 8  # the first bytes of a file may end here
    return second[0] > tag and (second[1] == is_explicit or tag >> 16 == 0x0002 != second[0] >> 16)


def _element(data: bytes, at: int, order: str) -> tuple[int, bool, int] | None:
    """(tag, whether its VR is explicit, offset of the next element); None if the bytes end before."""
    if len(data) < at + 12:
        return None
    group, element = struct.unpack_from(f"{order}2H", data, at)
    vr = data[at + 4 : at + 6]
    if vr in _LONG_VRS:
        length, value = struct.unpack_from(f"{order}I", data, at + 8)[0], at + 12
    elif vr in _VRS:
        length, value = struct.unpack_from(f"{order}H", data, at + 6)[0], at + 8
    else:
        length, value = struct.unpack_from(f"{order}I", data, at + 4)[0], at + 8
    return group << 16 | element, vr in _VRS, value + length

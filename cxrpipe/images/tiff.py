"""Checks the structure of a TIFF (revision 6.0) before a decoder sees it. Reads EXIF, too: a TIFF without pixels.

Not handled: BigTIFF, floating point and signed samples, CMYK and Lab, grey of 2 or 4 bits, the alpha of a grey file.
MaxSampleValue (281) is not read, for the standard forbids to use it for display.
"""

import struct
from collections.abc import Iterator

from cxrpipe.errors import StudyError

_SIGNATURES = {b"II*\0": "<", b"MM\0*": ">"}
_BIG = (b"II+\0", b"MM\0+")
_LETTERS = {1: "B", 3: "H", 4: "I"}  # BYTE, SHORT, LONG
_ORIENTATION = 274
_PALETTE = 3
_SHOWN = (0, 1, 2, _PALETTE, 6)  # white at zero, black at zero, RGB, palette, YCbCr
_DEPTHS = (1, 8, 10, 12, 14, 16)
_THUMBNAIL = 1  # NewSubfileType (254): a page of reduced resolution

Tags = dict[int, tuple[int, ...]]


def begins(data: bytes) -> bool:
    """Whether a file begins as a TIFF or BigTIFF."""
    return data[:4] in _SIGNATURES or data[:4] in _BIG


def check(data: bytes, name: str) -> tuple[int, int]:
    """(rows, columns) of the first page. StudyError if one of its strips or tiles is missing.

    Thumbnails may follow. A second page of similar size is refused: the file is more than one radiograph.
    """
    if data[:4] in _BIG:
        raise StudyError("not_an_image", f"{name}: a BigTIFF; expected a classic TIFF; save it as TIFF or PNG")
    pages = list(_pages(data, name))
    if not pages:
        raise StudyError("corrupt", f"{name}: the TIFF has no page; save the image again")
    tags = pages[0]
    rows, columns = _first(tags, 257), _first(tags, 256)
    if not rows or not columns:
        raise StudyError(
            "corrupt", f"{name}: the TIFF has no ImageLength (257) or no ImageWidth (256); save the image again"
        )
    others = [page for page in pages[1:] if not _first(page, 254) & _THUMBNAIL]
    if large := sum(2 * _first(page, 257) * _first(page, 256) >= rows * columns for page in others):
        raise StudyError("not_chest", f"{name}: a TIFF of {1 + large} pages; expected one; save the radiograph alone")
    _check_samples(tags, name)
    places, lengths = (tags.get(273) or tags.get(324, ()), tags.get(279) or tags.get(325, ()))  # of strips, or tiles
    if not places or len(places) != len(lengths):
        raise StudyError(
            "corrupt", f"{name}: the TIFF does not tell where its strips or tiles are; save the image again"
        )
    if any(place + length > len(data) for place, length in zip(places, lengths, strict=True)):
        raise StudyError("truncated", f"{name}: the TIFF of {rows}x{columns} pixels ends early; copy the file again")
    return rows, columns


def has_alpha(data: bytes) -> bool:
    """Whether the extra sample of the first page is alpha (ExtraSamples (338) is 1 or 2)."""
    return _first(next(_pages(data, ""), {}), 338) in (1, 2)


def zero_is_white(data: bytes) -> bool:
    """Whether 0 is white in grey of more than 8 bits ((262) is 0). OpenCV inverts only grey of 1 and 8 bits."""
    tags = next(_pages(data, ""), {})
    return _first(tags, 262, 1) == 0 and _first(tags, 258, 1) > 8


def orientation(block: bytes) -> int:
    """Orientation (274) of a TIFF or an EXIF block, 1..8; 1 if it is missing or invalid."""
    try:
        value = _first(next(_pages(block, "EXIF"), {}), _ORIENTATION, 1)
    except StudyError:
        return 1
    return value if 1 <= value <= 8 else 1


def _check_samples(tags: Tags, name: str) -> None:
    """StudyError for samples that OpenCV reads wrongly or not at all."""
    depths, formats = tags.get(258, (1,)), tags.get(339, (1,))
    shown = _first(tags, 262, 1)
    is_unsigned = set(formats) <= {1, 4}  # unsigned or not declared
    depth_is_read = depths[0] in _DEPTHS or shown == _PALETTE
    if not is_unsigned or shown not in _SHOWN or len(set(depths)) > 1 or not depth_is_read:
        raise StudyError(
            "not_an_image",
            f"{name}: a TIFF of {depths[0]} bits, sample format (339) {formats[0]}, photometric interpretation (262) "
            f"{shown}; expected unsigned grey, palette or RGB of 8 or 16 bits; save it as PNG",
        )


def _pages(data: bytes, name: str) -> Iterator[Tags]:
    """The tags of every directory, in the order in which the directories are linked."""
    order = _SIGNATURES.get(data[:4])
    if order is None:
        return
    visited: set[int] = set()
    (place,) = struct.unpack(f"{order}I", data[4:8]) if len(data) >= 8 else (0,)
    while place and place not in visited:
        visited.add(place)
        tags, place = _directory(data, place, order, name)
        yield tags


def _directory(data: bytes, place: int, order: str, name: str) -> tuple[Tags, int]:
    """The tags that hold whole numbers, and the offset of the next directory (0: none)."""
    try:
        (count,) = struct.unpack_from(f"{order}H", data, place)
        (following,) = struct.unpack_from(f"{order}I", data, place + 2 + 12 * count)
        tags: Tags = {}
        for entry in range(place + 2, place + 2 + 12 * count, 12):
            tag, kind, length = struct.unpack_from(f"{order}HHI", data, entry)
            if length and (letter := _LETTERS.get(kind)):  # a tag without a value is as good as none
                fits = struct.calcsize(f"{order}{letter}") * length <= 4
                at = entry + 8 if fits else struct.unpack_from(f"{order}I", data, entry + 8)[0]
                if at + length > len(data):
                    raise StudyError("truncated", f"{name}: the TIFF ends inside its tags; copy the file again")
                tags[tag] = struct.unpack_from(f"{order}{length}{letter}", data, at)
    except struct.error:
        raise StudyError("truncated", f"{name}: the TIFF ends inside its tags; copy the file again") from None
    return tags, following


def _first(tags: Tags, tag: int, default: int = 0) -> int:
    return next(iter(tags.get(tag, ())), default)

"""Whether an entry still lies where it was indexed. A container may be packed again while a night reads it, and the
image of another patient then lies at the old place.

A tar has no checksum of contents, so the headers before the data are read with them, each time. A zip has one, and is
asked where the entry lies only when that does not hold: what has moved can be read when it is indexed again, what is
damaged cannot.
"""

from dataclasses import replace

from cxrpipe import storage
from cxrpipe.archives.containers import tars, zips
from cxrpipe.errors import StudyError
from cxrpipe.records import View

TAR_HEADERS_BYTES = (8 * tars.BLOCK_BYTES, 2 * tars.MAX_NAME_BYTES + 8 * tars.BLOCK_BYTES)
"""Room for the headers of an entry: its own, and one before it that holds a name of up to 3 KB; and the most that there
can be: a long name and PAX records, which some tools fill with kilobytes of their own."""
_ZIP_HEADER_BYTES = 30 + 2 * 65535
"""The most that the local header of an entry takes, with its name and its extra fields."""


def in_tar(view: View) -> bool:
    return view.entry is not None and view.crc32 is None and view.compression in ("none", "gzip")


def with_tar_headers(view: View, room_bytes: int) -> View:
    """What is to be read for `after_tar_headers`."""
    before = min(view.offset, room_bytes)
    return replace(view, offset=view.offset - before, length=view.length + before)


def after_tar_headers(data: bytes, view: View, room_bytes: int) -> bytes | None:
    """The bytes of the entry; None where the headers before them are not its own, or need more room."""
    before = min(view.offset, room_bytes)
    own = tars.ends_in_headers_of(data[:before], view.entry or "", view.length)
    return data[before:] if own else None


def lies_in_zip(view: View) -> bool:
    """Whether the data of the entry begin where they did."""
    start = max(0, view.offset - _ZIP_HEADER_BYTES)
    before = storage.read(view.url, start, view.offset - start)
    return zips.ends_in_header_of(before, view.entry or "", view.crc32 or 0)


def moved(view: View) -> StudyError:
    return StudyError("missing", f"{view.name}: its container has changed since it was indexed; index it again")

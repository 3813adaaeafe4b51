"""Checks that an entry still lies where it was indexed. Somebody may pack a container again while a night reads it; the
image of another patient then lies at the old place.

A tar has no checksum of contents, so every read includes the headers before the data and compares them. A zip has
checksums; only where one does not match is the local header read, to tell an entry that has moved (index it again) from
one that is damaged.
"""

from dataclasses import replace

from cxrpipe import storage
from cxrpipe.archives.containers import tars, zips
from cxrpipe.errors import StudyError
from cxrpipe.records import View

TAR_HEADERS_BYTES = (8 * tars.BLOCK_BYTES, 2 * tars.MAX_NAME_BYTES + 8 * tars.BLOCK_BYTES)
"""Bytes read before the data of an entry. First try: its header, and one with a name of up to 3 KB. Second try: the
largest headers possible, with a long name and PAX records, which some tools fill with kilobytes."""
_ZIP_HEADER_BYTES = 30 + 2 * 65535
"""Largest size of an entry's local header, with its name and its extra fields."""


def in_tar(view: View) -> bool:
    return view.entry is not None and view.crc32 is None and view.compression in ("none", "gzip")


def with_tar_headers(view: View, room_bytes: int) -> View:
    """Extend a view to the front by its headers, for `after_tar_headers`."""
    before = min(view.offset, room_bytes)
    return replace(view, offset=view.offset - before, length=view.length + before)


def after_tar_headers(data: bytes, view: View, room_bytes: int) -> bytes | None:
    """Return the bytes of the entry; None where the headers before them are another entry's, or need more room."""
    before = min(view.offset, room_bytes)
    unmoved = tars.ends_in_headers_of(data[:before], view.entry or "", view.length)
    return data[before:] if unmoved else None


def lies_in_zip(view: View) -> bool:
    """Whether the data of the entry still begin at their place in the zip."""
    start = max(0, view.offset - _ZIP_HEADER_BYTES)
    before = storage.read(view.url, start, view.offset - start)
    return zips.ends_in_header_of(before, view.entry or "", view.crc32 or 0)


def moved(view: View) -> StudyError:
    return StudyError("missing", f"{view.name}: its container has changed since it was indexed; index it again")

"""Whether an entry still lies where it was indexed. A container may be packed again while a night reads it, and the
image of another patient then lies at the old place.

A tar has no checksum of contents, so the headers before the data are read with them, each time. A zip has one, and is
asked where the entry lies only when that does not hold: what has moved can be read when it is indexed again, what is
damaged cannot.
"""

import tarfile
import zipfile
from collections.abc import Sequence
from dataclasses import replace

from cxrpipe import storage
from cxrpipe.archives.containers.zips import header_before
from cxrpipe.errors import StudyError
from cxrpipe.records import View

_BLOCK = tarfile.BLOCKSIZE
_TAR_HEADERS_BYTES = 8 * _BLOCK
"""Of an entry: its own, and before that one with a long name, which takes a block and those of the name."""
_ZIP_HEADER_BYTES = 4 << 10
"""More than the local header of an entry takes: 30 bytes, its name, and extra fields of a few bytes each."""


def in_tar(view: View) -> bool:
    return view.entry is not None and view.crc32 is None and view.compression in ("none", "gzip")


def with_tar_headers(view: View) -> View:
    """What is to be read for `after_tar_headers`."""
    before = min(view.offset, _TAR_HEADERS_BYTES)
    return replace(view, offset=view.offset - before, length=view.length + before)


def after_tar_headers(data: bytes, view: View) -> bytes:
    """The bytes of the entry; StudyError `missing` where the headers before them are not its own."""
    before = min(view.offset, _TAR_HEADERS_BYTES)
    blocks = [data[at : at + _BLOCK] for at in range(0, before, _BLOCK)]
    header = _header(blocks[-1]) if blocks else None
    if header is None or header.size != view.length:
        raise moved(view)
    if tar_name(header.name) != view.entry and _long_name(blocks[:-1]) != view.entry:
        raise moved(view)
    return data[before:]


def tar_name(name: str) -> str:
    """As it stands in study tables: what is no UTF-8 is written out."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _long_name(blocks: Sequence[bytes]) -> str | None:
    """The next entry's name, where its own header has no room for it: in the header whose content ends here."""
    for at, block in enumerate(blocks):
        header, content = _header(block), b"".join(blocks[at + 1 :])
        if header is None or -(-header.size // _BLOCK) * _BLOCK != len(content):
            continue
        if header.type == tarfile.GNUTYPE_LONGNAME:
            return content.partition(b"\0")[0].decode(errors="backslashreplace")
        if header.type == tarfile.XHDTYPE:  # records are `length path=name`, each with its newline
            return content.partition(b" path=")[2].partition(b"\n")[0].decode(errors="backslashreplace")
    return None


def _header(block: bytes) -> tarfile.TarInfo | None:
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return None


def lies_in_zip(view: View) -> bool:
    """Whether the data of the entry begin where they did."""
    start = max(0, view.offset - _ZIP_HEADER_BYTES)
    try:
        return header_before(storage.read(view.url, start, view.offset - start)) == view.entry
    except zipfile.BadZipFile:
        return False


def moved(view: View) -> StudyError:
    return StudyError("missing", f"{view.name}: its container has changed since it was indexed; index it again")

"""Tar: lists entries when they are indexed, and checks their headers, with the same parser, when they are read.

`tarfile` parses the headers: ustar, old V7 and star, GNU (long names, sizes to base 256), PAX (records with names and
sizes, for one entry or for all). Not handled: sparse entries, archives of several volumes.
"""

import io
import tarfile
from collections.abc import Iterator
from typing import BinaryIO, Self

from cxrpipe import storage
from cxrpipe.archives.containers.files import File, Link, Lost, as_text, plain_name, symbolic_target

BLOCK_BYTES = tarfile.BLOCKSIZE
MAX_NAME_BYTES = 1 << 20
"""Largest size of a header that holds a name, or of a PAX header with all its records."""
_NAME_TYPES = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
_SHORT_NAME = 100
"""Names of fewer bytes stand in the header of their entry; longer ones may stand in a header before it."""
_NOTES = (tarfile.DIRTYPE, b"V", b"D")
"""Types of entries without content: folders, the label of a volume, the listing of an incremental backup."""


class _Header(tarfile.TarInfo):
    """A header whose size is checked. tarfile believes any size: it would go back, and read names of gigabytes."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        header = super().frombuf(buf, encoding, errors)
        most = MAX_NAME_BYTES if header.type in _NAME_TYPES else None
        if header.size < 0 or (most and header.size > most):
            raise tarfile.ReadError(f"a header says {header.size:,} bytes")
        return header


def _open(stream: BinaryIO) -> tarfile.TarFile:
    return tarfile.open(fileobj=stream, mode="r:", tarinfo=_Header, encoding="utf-8", errors="surrogateescape")


def is_header(block: bytes) -> bool:
    """Whether a block is a tar header. Its checksum decides: old formats have no other mark."""
    return _header(block) is not None


def _header(block: bytes) -> tarfile.TarInfo | None:
    try:
        return _Header.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return None


def tar_entries(container: storage.Object, stream: BinaryIO, compression: str) -> Iterator[File | Link | Lost]:
    """List every entry, also of several tars in a row in one file, as `cat a.tar b.tar` makes them.

    EOFError where the stream ends before a tar does, TarError where a tar is damaged.
    """
    more = True
    while more:
        try:
            with _open(stream) as tar:
                yield from _entries(container, stream, tar, compression)
        except tarfile.TarError as error:
            if stream.read(1):
                raise
            raise EOFError("no end marker") from error
        more = _find_next(stream)


def _entries(
    container: storage.Object, stream: BinaryIO, tar: tarfile.TarFile, compression: str
) -> Iterator[File | Link | Lost]:
    end = -1
    while entry := tar.next():
        tar.members = []  # type: ignore[attr-defined]  # tarfile would keep every header
        name = as_text(entry.name)
        if tar.offset <= end or entry.size < 0:  # a PAX header may give another size
            raise tarfile.ReadError(f"{name} has a size below zero")
        end = tar.offset
        if entry.isreg() and not entry.issparse() and not _reaches(stream, entry.offset_data + entry.size):
            yield Lost(container.url, name, "truncated")
            raise EOFError(f"{name} ends early")
        if entry.type not in _NOTES:
            yield _item(container.url, entry, name, compression)
    stream.seek(tar.offset)  # tarfile takes a damaged or missing header for the end
    if stream.read(BLOCK_BYTES) != bytes(BLOCK_BYTES):
        raise tarfile.ReadError(f"no entry and no end marker at byte {tar.offset:,}")


def _item(url: str, entry: tarfile.TarInfo, name: str, compression: str) -> File | Link | Lost:
    plain = as_text(plain_name(entry.name))
    if entry.islnk():
        return Link(plain, name, as_text(plain_name(entry.linkname)))
    if entry.issym():
        return Link(plain, name, symbolic_target(plain, as_text(entry.linkname)))
    if entry.issparse():
        return Lost(url, name, "sparse", f"{url}!{name}: a sparse file; pack it again without --sparse")
    if not entry.isreg():
        return Lost(url, name, "special_file")
    return File(
        name=plain,
        url=url,
        entry=name,
        offset=entry.offset_data,
        length=entry.size,
        compression=compression,
        version=str(int(entry.mtime)),
    )


def _reaches(stream: BinaryIO, end: int) -> bool:
    stream.seek(end - 1)
    return bool(stream.read(1))


def _find_next(stream: BinaryIO) -> bool:
    """Whether another tar follows behind zeros. If so, the stream is left at its first header.

    Other data behind the end of a tar are ignored. Zeros are read block by block, since a gzip can seek back only 1 KB.
    """
    while (block := stream.read(BLOCK_BYTES)) and not block.strip(b"\0"):
        pass
    if len(block) < BLOCK_BYTES or not is_header(block):
        return False
    stream.seek(stream.tell() - BLOCK_BYTES)
    return True


def ends_in_headers_of(before: bytes, name: str, size: int) -> bool:
    """Whether the headers of an entry called `name`, of `size` bytes, stand right before its data.

    before  bytes before the data: whole blocks, as many as the headers of the entry may take
    """
    last = _header(before[-BLOCK_BYTES:])
    if last is None:
        return False
    if (as_text(last.name), last.size) == (name, size) and len(name.encode("utf-8", "surrogateescape")) < _SHORT_NAME:
        return True
    for start in range(len(before) - BLOCK_BYTES, -1, -BLOCK_BYTES):
        if not is_header(before[start : start + BLOCK_BYTES]):
            continue
        try:
            with _open(io.BytesIO(before[start:])) as tar:
                entry = tar.next()
        except tarfile.TarError:
            continue
        if entry and entry.offset_data == len(before) - start and (as_text(entry.name), entry.size) == (name, size):
            return True
    return False

"""Tar, tar.gz and zip: every entry found once, to be read at random by `reader`. Names are data, never followed.

Damage costs what it hits and no more: entries that are whole are found, and what is lost is said.
"""

import errno
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self

from cxrpipe import storage
from cxrpipe.archives.containers import gzips, zips
from cxrpipe.archives.containers.moved import tar_name
from cxrpipe.errors import StoreError

TAR_GZ = (".tar.gz", ".tgz")
_LINK = "a link, not followed"
_NAME_TYPES = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
_MAX_NAME_BYTES = 1 << 20
_METHODS = {zipfile.ZIP_STORED: "none", zipfile.ZIP_DEFLATED: "deflate"}


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One file of an archive, plain or inside a container."""

    name: str
    """Relative to the archive, `/` between folders; through a container: `images_001.tar.gz/images/x.png`."""
    url: str
    entry: str | None = None
    offset: int = 0
    length: int
    compression: str = "none"
    version: str
    crc32: int | None = None
    """Of the file as it was before it was packed, where the container says it."""

    @property
    def stem(self) -> str:
        return self.name.rpartition("/")[2].rpartition(".")[0]

    @property
    def suffix(self) -> str:
        """Lower case, with its dot; empty where there is none."""
        stem, _, suffix = self.name.rpartition("/")[2].rpartition(".")
        return f".{suffix.lower()}" if stem and suffix else ""


class Loss(NamedTuple):
    """What a container holds, or held, and cannot be catalogued."""

    url: str
    entry: str | None
    """None: more than one entry, as `detail` says."""
    reason: str
    detail: str | None = None
    """A line for a person, with what to do; none where the reason says all."""


def is_container(url: str) -> bool:
    return url.lower().endswith((".tar", ".zip", *TAR_GZ))


def entries(container: storage.Object, seek_points: Path) -> Iterator[File | Loss]:
    """The regular files of one container, in its own order; `name` is the entry's. What is lost comes between or last.

    Seek points of a tar.gz are written into the folder `seek_points` once it has been read as far as it goes.
    StoreError where the store is at fault. Not handled: sparse tar entries, entries packed other than by deflate.
    """
    last = None
    try:
        for found in _walk(container, seek_points):
            if isinstance(found, File) and is_container(found.name):
                found = _nested(found)
            elif isinstance(found, File):
                last = found.entry
            yield found
    except FileNotFoundError:
        yield Loss(container.url, None, "missing", f"{container.url}: listed, but not found when it was opened")
    except PermissionError:
        yield Loss(container.url, None, "denied", f"{container.url}: access denied; all that is in it is left out")
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise StoreError(f"{container.url}: cannot be read ({error}); run the command again") from error
        yield _loss(container, error, last)


# EINVAL: the container names a place before its begin. MemoryError: it names an entry larger than any memory.
_DAMAGE = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError,
    ValueError, OverflowError, NotImplementedError, MemoryError,
)  # fmt: skip


def _walk(container: storage.Object, seek_points: Path) -> Iterator[File | Loss]:
    url = container.url.lower()
    with storage.open_seekable(container.url) as stream:
        if url.endswith(".zip"):
            yield from _zip_entries(container, stream)
        elif url.endswith(TAR_GZ):
            yield from _tar_gz_entries(container, stream, seek_points)
        else:
            yield from _tar_entries(container, stream, "none")


def _loss(container: storage.Object, error: BaseException, last: str | None) -> Loss:
    cut = isinstance(error, EOFError)
    what = f"is cut short at byte {container.size:,}" if cut else f"is damaged ({error})"
    lost = "nothing in it can be read" if last is None else f"what follows {last} is lost"
    return Loss(
        container.url, None, "truncated" if cut else "corrupt", f"{container.url} {what}: {lost}; fetch it again"
    )


def _unchecked(url: str, fault: Exception) -> tuple[str, str]:
    """A whole tar in a gzip that is not."""
    what = "its checksum is cut off" if isinstance(fault, EOFError) else f"it is damaged ({fault})"
    reason = "truncated" if isinstance(fault, EOFError) else "corrupt"
    return reason, f"{url}: every entry is there, but {what}, so any of them may be broken; fetch it again"


def _nested(file: File) -> Loss:
    detail = f"{file.url}!{file.entry}: an archive inside an archive; unpack the outer one and index what comes out"
    return Loss(file.url, file.entry, "archive inside an archive", detail)


def _tar_entries(container: storage.Object, stream: BinaryIO, compression: str) -> Iterator[File | Loss]:
    """EOFError where the stream ends before the tar does, TarError where it is damaged."""
    try:
        with tarfile.open(fileobj=stream, mode="r:", tarinfo=_Header) as tar:
            yield from _tar_headers(container, stream, tar, compression)
    except tarfile.TarError as error:
        if stream.read(1):
            raise
        raise EOFError("no end marker") from error


class _Header(tarfile.TarInfo):
    """A header whose size is possible. tarfile believes any: it goes back, and reads names of gigabytes."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        header = super().frombuf(buf, encoding, errors)
        most = _MAX_NAME_BYTES if header.type in _NAME_TYPES else None
        if header.size < 0 or (most and header.size > most):
            raise tarfile.ReadError(f"a header says {header.size:,} bytes")
        return header


def _tar_headers(
    container: storage.Object, stream: BinaryIO, tar: tarfile.TarFile, compression: str
) -> Iterator[File | Loss]:
    end = -1
    while entry := tar.next():
        tar.members = []  # type: ignore[attr-defined]  # tarfile keeps every header it has seen
        name = tar_name(entry.name)
        if tar.offset <= end or entry.size < 0:  # a PAX header may say another size
            raise tarfile.ReadError(f"{name} has a size below zero")
        end = tar.offset
        if entry.islnk() or entry.issym():
            yield Loss(container.url, name, _LINK)
        elif entry.issparse():
            yield Loss(container.url, name, "a sparse file", f"{container.url}!{name}: a sparse file; pack it again")
        elif entry.isreg():
            if not _reaches(stream, entry.offset_data + entry.size):
                yield Loss(container.url, name, "truncated")
                raise EOFError(f"{name} ends early")
            yield File(
                name=name.removeprefix("./"),
                url=container.url,
                entry=name,
                offset=entry.offset_data,
                length=entry.size,
                compression=compression,
                version=str(int(entry.mtime)),
            )
    stream.seek(tar.offset)  # tarfile takes a damaged header, or none, for the end
    if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"no entry and no end marker at byte {tar.offset:,}")


def _reaches(stream: BinaryIO, end: int) -> bool:
    stream.seek(end - 1)
    return bool(stream.read(1))


def _tar_gz_entries(container: storage.Object, stream: BinaryIO, seek_points: Path) -> Iterator[File | Loss]:
    """The stream is read twice: to find the entries, and for seek points.

    `indexed_gzip` reads 4 MB ahead of what it is asked for, so it does not get to the last entries before a cut.
    """
    inflated = gzips.Inflated(stream)
    fault: Exception | None = None
    try:
        yield from _tar_entries(container, inflated, "gzip")  # type: ignore[arg-type]  # it reads, tells and seeks
    except (tarfile.TarError, EOFError, ValueError, OverflowError, MemoryError) as error:
        fault = error
    readable = inflated.to_end()
    gzips.write_seek_points(stream, container.size, readable, seek_points, container.url)
    if fault is None and inflated.fault:
        yield Loss(container.url, None, *_unchecked(container.url, inflated.fault))
    elif fault:
        raise inflated.fault or fault


def _zip_entries(container: storage.Object, stream: BinaryIO) -> Iterator[File | Loss]:
    for entry in _directory(stream):
        if stat.S_ISLNK(entry.external_attr >> 16):
            yield Loss(container.url, entry.filename, _LINK)
        elif not entry.is_dir():
            yield _zip_entry(container, stream, entry)


def _directory(stream: BinaryIO) -> list[zipfile.ZipInfo]:
    """EOFError where the zip begins as one and has no directory, which is written last."""
    try:
        return zipfile.ZipFile(stream).infolist()
    except zipfile.BadZipFile as error:
        stream.seek(0)
        if stream.read(4) == b"PK\x03\x04":
            raise EOFError("no directory") from error
        raise


def _zip_entry(container: storage.Object, stream: BinaryIO, entry: zipfile.ZipInfo) -> File | Loss:
    name = f"{container.url}!{entry.filename}"
    if entry.flag_bits & 0x1:
        return Loss(container.url, entry.filename, "encrypted", f"{name}: encrypted; pack it again without a password")
    if entry.compress_type not in _METHODS:
        method = f"compressed by method {entry.compress_type}"
        return Loss(container.url, entry.filename, method, f"{name}: {method}; pack it again, stored or deflated")
    try:
        offset = zips.data_offset(stream, entry)
    except zipfile.BadZipFile as error:
        return Loss(container.url, entry.filename, "corrupt", f"{name}: {error}; fetch the zip again")
    if offset + entry.compress_size > container.size:
        return Loss(container.url, entry.filename, "truncated", f"{name}: reaches beyond its zip; fetch the zip again")
    return File(
        name=entry.filename,
        url=container.url,
        entry=entry.filename,
        offset=offset,
        length=entry.compress_size,
        compression=_METHODS[entry.compress_type],
        version=f"{entry.CRC:08x}",
        crc32=entry.CRC,
    )

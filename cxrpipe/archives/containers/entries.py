"""Tar, tar.gz and zip: every entry found once, to be read at random by `reader`. Names are data, never followed.

Damage costs what it hits and no more: entries that are whole are found, and what is lost is said.
"""

import errno
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from cxrpipe import storage
from cxrpipe.archives.containers import gzips
from cxrpipe.archives.containers.files import TAR_GZ, File, Link, Lost, is_container
from cxrpipe.archives.containers.formats import advice, format_by_content
from cxrpipe.archives.containers.tars import BLOCK_BYTES, is_header, tar_entries
from cxrpipe.archives.containers.zips import zip_entries
from cxrpipe.errors import StoreError

__all__ = ["TAR_GZ", "File", "Link", "Lost", "entries", "is_container"]


def entries(container: storage.Object, seek_points: Path) -> Iterator[File | Link | Lost]:
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
        yield Lost(container.url, None, "missing", f"{container.url}: listed, but not found when it was opened")
    except PermissionError:
        yield Lost(container.url, None, "denied", f"{container.url}: access denied; all that is in it is left out")
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise StoreError(f"{container.url}: cannot be read ({error}); run the command again") from error
        yield _loss(container, error, last)


# EINVAL: the container names a place before its begin. MemoryError: it names an entry larger than any memory.
_DAMAGE = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError,
    ValueError, OverflowError, NotImplementedError, MemoryError,
)  # fmt: skip


def _walk(container: storage.Object, seek_points: Path) -> Iterator[File | Link | Lost]:
    """By the first bytes: a browser may unpack a tar.gz and leave its name. A zip may begin with anything."""
    with storage.open_seekable(container.url) as stream:
        head = stream.read(BLOCK_BYTES)
        stream.seek(0)
        name, packed = container.url.lower(), format_by_content(head)
        if not head:
            told = f"{container.url} is empty: nothing in it can be read; fetch it again"
            yield Lost(container.url, None, "empty", told)
        elif is_header(head):
            yield from tar_entries(container, stream, "none")
        elif packed:
            yield Lost(container.url, None, packed.reason, advice(packed, container.url))
        elif head.startswith(b"\x1f\x8b"):
            yield from _tar_gz_entries(container, stream, seek_points)
        elif head.startswith(b"PK\x03\x04") or name.endswith(".zip"):
            yield from zip_entries(container, stream)
        else:
            yield from (
                _tar_gz_entries(container, stream, seek_points)
                if name.endswith(TAR_GZ)
                else tar_entries(container, stream, "none")
            )


def _loss(container: storage.Object, error: BaseException, last: str | None) -> Lost:
    cut = isinstance(error, EOFError)
    what = f"is cut short at byte {container.size:,}" if cut else f"is damaged ({error})"
    lost = "nothing in it can be read" if last is None else f"what follows {last} is lost"
    return Lost(
        container.url, None, "truncated" if cut else "corrupt", f"{container.url} {what}: {lost}; fetch it again"
    )


def _unchecked(url: str, fault: Exception) -> tuple[str, str]:
    """A whole tar in a gzip that is not."""
    what = "its checksum is cut off" if isinstance(fault, EOFError) else f"it is damaged ({fault})"
    reason = "truncated" if isinstance(fault, EOFError) else "corrupt"
    return reason, f"{url}: every entry is there, but {what}, so any of them may be broken; fetch it again"


def _nested(file: File) -> Lost:
    detail = f"{file.url}!{file.entry}: an archive inside an archive; unpack the outer one and index what comes out"
    return Lost(file.url, file.entry, "nested_archive", detail)


def _tar_gz_entries(container: storage.Object, stream: BinaryIO, seek_points: Path) -> Iterator[File | Link | Lost]:
    """The stream is read twice: to find the entries, and for seek points.

    `indexed_gzip` reads 4 MB ahead of what it is asked for, so it does not get to the last entries before a cut.
    """
    inflated = gzips.Inflated(stream)
    fault: Exception | None = None
    try:
        yield from tar_entries(container, inflated, "gzip")  # type: ignore[arg-type]  # it reads, tells and seeks
    except (tarfile.TarError, EOFError, ValueError, OverflowError, MemoryError) as error:
        fault = error
    readable = inflated.to_end()
    gzips.write_seek_points(stream, container.size, readable, seek_points, container.url)
    if fault is None and inflated.fault:
        yield Lost(container.url, None, *_unchecked(container.url, inflated.fault))
    elif fault:
        raise inflated.fault or fault

"""Lists the entries of a tar, tar.gz or zip, so that `reader` can read them at random. Names are data, never followed.

Damage costs only the entries that it hits: entries that are whole are listed, and so is what is lost.
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
    """List the regular files and links of one container, in its order, and what is lost. `name` is that of the entry.

    seek_points  local folder that receives the seek points of a tar.gz, once it has been read as far as possible

    StoreError where the store is at fault. Not handled: sparse tar entries, entries packed other than by deflate.
    """
    last = None
    try:
        for item in _walk(container, seek_points):
            if isinstance(item, File) and is_container(item.name):
                item = _nested(item)
            elif isinstance(item, File):
                last = item.entry
            yield item
    except FileNotFoundError:
        yield Lost(container.url, None, "missing", f"{container.url}: listed, but not found when it was opened")
    except PermissionError:
        yield Lost(container.url, None, "denied", f"{container.url}: access denied; all that is in it is left out")
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise StoreError(f"{container.url}: cannot be read ({error}); run the command again") from error
        yield _rest_lost(container, error, last)


# EINVAL: the container names a place before its start. MemoryError: it names an entry larger than the memory.
_DAMAGE = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError,
    ValueError, OverflowError, NotImplementedError, MemoryError,
)  # fmt: skip


def _walk(container: storage.Object, seek_points: Path) -> Iterator[File | Link | Lost]:
    """List a container by the format that its first bytes show, not by its name.

    A browser may unpack a tar.gz and keep the name. A zip may begin with anything, so its name counts too.
    """
    with storage.open_seekable(container.url) as stream:
        head = stream.read(BLOCK_BYTES)
        stream.seek(0)
        name, packed = container.url.lower(), format_by_content(head)
        if not head:
            empty = f"{container.url} is empty: nothing in it can be read; fetch it again"
            yield Lost(container.url, None, "empty", empty)
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


def _rest_lost(container: storage.Object, error: BaseException, last: str | None) -> Lost:
    """Say that everything behind the entry `last` is lost, and why; None: everything is lost."""
    cut = isinstance(error, EOFError)
    what = f"is cut short at byte {container.size:,}" if cut else f"is damaged ({error})"
    lost = "nothing in it can be read" if last is None else f"what follows {last} is lost"
    return Lost(
        container.url, None, "truncated" if cut else "corrupt", f"{container.url} {what}: {lost}; fetch it again"
    )


def _unchecked(url: str, fault: Exception) -> tuple[str, str]:
    """Reason and detail of a whole tar in a gzip that is cut or damaged behind it."""
    what = "its checksum is cut off" if isinstance(fault, EOFError) else f"it is damaged ({fault})"
    reason = "truncated" if isinstance(fault, EOFError) else "corrupt"
    return reason, f"{url}: every entry is there, but {what}, so any of them may be broken; fetch it again"


def _nested(file: File) -> Lost:
    detail = f"{file.url}!{file.entry}: an archive inside an archive; unpack the outer one and index what comes out"
    return Lost(file.url, file.entry, "nested_archive", detail)


def _tar_gz_entries(container: storage.Object, stream: BinaryIO, seek_points: Path) -> Iterator[File | Link | Lost]:
    """List the entries of a tar.gz. The stream is read twice: for the entries, and for the seek points.

    `indexed_gzip` reads 4 MB ahead, so it does not reach the last entries before a cut.
    """
    inflated = gzips.Inflated(stream)
    fault: Exception | None = None
    try:
        yield from tar_entries(container, inflated, "gzip")  # type: ignore[arg-type]  # it can read, tell and seek
    except (tarfile.TarError, EOFError, ValueError, OverflowError, MemoryError) as error:
        fault = error
    readable = inflated.to_end()
    gzips.write_seek_points(stream, container.size, readable, seek_points, container.url)
    if fault is None and inflated.fault:
        yield Lost(container.url, None, *_unchecked(container.url, inflated.fault))
    elif fault:
        raise inflated.fault or fault

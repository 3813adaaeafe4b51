"""The functions of `cxrpipe.storage` for local files. A file appears under its name once it is written whole."""

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import BinaryIO

import pyarrow.fs as pafs

from cxrpipe.storage.names import BUFFER_BYTES, Object


def listing(url: str, everything: bool = False) -> Iterator[Object]:
    """List files. Links to files are followed, links to folders are not.

    A link that leads nowhere is listed with 0 bytes and no version, so that reading it says what is missing.
    """
    path = Path(url)
    if path.is_file():
        yield _object(path)
    elif path.is_dir():
        for listed in _below(path):
            if everything or not listed.kind:
                yield listed
            elif listed.kind == "denied":
                raise PermissionError(f"{listed.url}: access denied")


def _below(folder: Path) -> Iterator[Object]:
    with os.scandir(folder) as scanned:
        entries = sorted(scanned, key=lambda entry: entry.name + "/" * entry.is_dir(follow_symlinks=False))
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            try:
                yield from _below(Path(entry.path))
            except PermissionError:
                yield Object(entry.path, 0, "", "denied")
            except FileNotFoundError:
                pass  # removed since the folder was scanned
        else:
            yield from _file(entry)


def _file(entry: os.DirEntry[str]) -> Iterator[Object]:
    try:
        status = entry.stat()
    except OSError as error:  # a link to nothing, to itself, or into a forbidden folder; or a file removed meanwhile
        if entry.is_symlink() or isinstance(error, PermissionError):
            yield Object(entry.path, 0, "")
        return
    if S_ISREG(status.st_mode):
        yield Object(entry.path, status.st_size, str(status.st_mtime_ns))
    else:
        yield Object(entry.path, 0, "", "link" if S_ISDIR(status.st_mode) else "special_file")


def folders(url: str) -> list[str]:
    path = Path(url)
    return sorted(entry.name for entry in path.iterdir() if entry.is_dir()) if path.is_dir() else []


def stat(url: str) -> Object | None:
    path = Path(url)
    return _object(path) if path.is_file() else None


def read(url: str, offset: int, length: int | None) -> bytes:
    with open_seekable(url) as file:
        file.seek(offset)
        return file.read(-1 if length is None else length)


def open_seekable(url: str) -> BinaryIO:
    try:
        return open(url, "rb", buffering=BUFFER_BYTES)
    except (IsADirectoryError, NotADirectoryError):
        raise FileNotFoundError(f"{url}: not a file") from None


def filesystem(url: str) -> tuple[pafs.FileSystem, str]:
    return pafs.LocalFileSystem(), url


def write(url: str, data: bytes) -> None:
    with filling(url) as temporary:
        temporary.write_bytes(data)


def write_new(url: str, data: bytes) -> bool:
    with _temporary(url) as temporary:
        temporary.write_bytes(data)
        try:
            os.link(temporary, url)  # unlike O_EXCL, a link never shows a file that is still being written
        except FileExistsError:
            return False
    return True


@contextlib.contextmanager
def filling(url: str) -> Iterator[Path]:
    with _temporary(url) as temporary:
        yield temporary
        temporary.replace(url)


def upload_file(path: Path, url: str) -> None:
    with filling(url) as temporary:
        shutil.copyfile(path, temporary)


def delete(url: str) -> None:
    Path(url).unlink(missing_ok=True)


def delete_below(url: str) -> None:
    """Remove a folder. Links in it are removed, the files that they lead to stay."""
    if Path(url).is_dir():
        shutil.rmtree(url)


def _object(path: Path) -> Object:
    status = path.stat()
    return Object(str(path), status.st_size, str(status.st_mtime_ns))


@contextlib.contextmanager
def _temporary(url: str) -> Iterator[Path]:
    """Give a hidden name beside the file to be written. Its folder is made; the hidden file is removed at the end."""
    path = Path(url)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)

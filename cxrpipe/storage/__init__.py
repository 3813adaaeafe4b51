"""Opens URLs: `s3://bucket/key`, `file:///path` or a plain path. Nothing else in the package opens one.

Reading an absent object raises FileNotFoundError and a forbidden one PermissionError, on disk and on S3 alike.
A store that does not answer after retries, or refuses our credentials, raises StoreError. Objects are written whole
or not at all. `disk` and `s3` are siblings of one shape (`store.Store`); nobody else imports them.
"""

import contextlib
import errno
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from cxrpipe.errors import ConfigError, StoreError
from cxrpipe.storage import disk
from cxrpipe.storage.names import BUFFER_BYTES, Object, is_s3, join, last_part, normalise
from cxrpipe.storage.store import Store

__all__ = [
    "BUFFER_BYTES",
    "Object",
    "batches",
    "delete",
    "delete_below",
    "filesystem",
    "filling",
    "folders",
    "is_s3",
    "join",
    "last_part",
    "listing",
    "normalise",
    "open_seekable",
    "read",
    "read_table",
    "schema",
    "stat",
    "upload",
    "upload_file",
    "write",
    "write_new",
    "write_table",
]


_NO_PLACE = (errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL)


def _store(url: str) -> Store:
    if not is_s3(url):
        return disk
    from cxrpipe.storage import s3  # boto3 takes 0.15 s to import, in each of a dozen processes

    return s3


def listing(url: str, everything: bool = False) -> Iterator[Object]:
    """List the object at `url`, or every object below it, in S3's order of names. An absent `url` lists nothing.

    everything  also list what is not a file; `Object.kind` says what it is
    """
    return _store(url).listing(url, everything)


def folders(url: str) -> list[str]:
    """List the names of the folders right below `url`, sorted. The folders are not opened."""
    return _store(url).folders(url)


def stat(url: str) -> Object | None:
    """Describe the object at `url`; None where no object is there."""
    return _store(url).stat(url)


def read(url: str, offset: int = 0, length: int | None = None) -> bytes:
    """Read `length` bytes from `offset` on, or all of them to the end. An object that ends earlier gives fewer."""
    return b"" if length == 0 else _store(url).read(url, offset, length)


def open_seekable(url: str) -> BinaryIO:
    """Open the object as a buffered, seekable stream of bytes."""
    return _store(url).open_seekable(url)


def read_table(url: str, columns: list[str] | None = None, only: tuple[str, str] | None = None) -> pa.Table:
    """Read a Parquet object, or some of its columns.

    only  (column, value): read only the rows with that value in the column
    """
    with open_seekable(url) as stream:
        return pq.read_table(stream, columns=columns, filters=[(only[0], "=", only[1])] if only else None)


def schema(url: str) -> pa.Schema:
    """Read the schema of a Parquet object."""
    with open_seekable(url) as stream:
        return pq.read_schema(stream)


def batches(url: str, columns: list[str] | None = None, rows: int = 1_000) -> Iterator[pa.Table]:
    """Read a Parquet object, or some of its columns, `rows` rows at a time."""
    with open_seekable(url) as stream:
        for batch in pq.ParquetFile(stream).iter_batches(rows, columns=columns):
            yield pa.Table.from_batches([batch])


def filesystem(url: str) -> tuple[pafs.FileSystem, str]:
    """Open the store as pyarrow, Ray Data and Ray Train expect it: a filesystem, and the path of `url` in it."""
    return _store(url).filesystem(url)


@contextlib.contextmanager
def _writing(url: str) -> Iterator[None]:
    """Raise StoreError where a place is full or may not be written: no study is to blame for that.

    Raise ConfigError where nothing can ever be written: a file stands where a folder must be, or the name is too long.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, NotADirectoryError | FileExistsError | IsADirectoryError) or error.errno in _NO_PLACE:
            raise ConfigError(f"{url}: no place for a file ({error.strerror or error}); name another") from error
        if isinstance(error, PermissionError) or error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise StoreError(f"{url}: cannot be written ({error.strerror or error}); what was written stays") from error
        raise


def write(url: str, data: bytes) -> None:
    """Write the object whole: on disk by renaming, on S3 by one PUT."""
    with _writing(url):
        _store(url).write(url, data)


def write_table(url: str, table: pa.Table) -> None:
    """Write a small table as one Parquet object, whole.

    Where a column has a few hundred values, most of the cost of zstd, and of a dictionary, is to begin: snappy without
    dictionaries takes half the time to write and 0.4 of it to read, for 2% more bytes (parts of 256 rows).
    """
    data = io.BytesIO()
    pq.write_table(table, data, compression="snappy", use_dictionary=False)
    write(url, data.getvalue())


def write_new(url: str, data: bytes) -> bool:
    """Write the object unless one is there already, and say whether it was written.

    Where several processes try at once, each with different data, exactly one of them succeeds.
    """
    with _writing(url):
        return _store(url).write_new(url, data)


@contextlib.contextmanager
def filling(url: str) -> Iterator[Path]:
    """Give the path of a local file to fill. The file appears at `url` when the block ends.

    A block that ends in an error leaves nothing at `url`.
    """
    with _writing(url), _store(url).filling(url) as path:
        yield path


def upload_file(path: Path, url: str) -> None:
    """Copy one local file to `url`, whole."""
    with _writing(url):
        _store(url).upload_file(path, url)


def upload(folder: Path, url: str, last: Sequence[str] = ()) -> None:
    """Copy every file below a local folder to below `url`. Files named in `last` are copied last, in that order."""
    order = {name: place for place, name in enumerate(last, start=1)}
    for path in sorted(folder.rglob("*"), key=lambda path: (order.get(path.name, 0), path)):
        if path.is_file():
            upload_file(path, join(url, path.relative_to(folder).as_posix()))


def delete(url: str) -> None:
    """Remove one object. Removing an absent object is no error."""
    _store(url).delete(url)


def delete_below(url: str) -> None:
    """Remove every object below `url`."""
    _store(url).delete_below(url)

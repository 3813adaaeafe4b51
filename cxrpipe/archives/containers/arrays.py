"""NumPy's .npz, a zip of .npy arrays. The images of an array are read at random, whether it is stored or deflated.

A deflated array is read through seek points, which are made while it is first read. No array is held in memory.
"""

import contextlib
import io
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, BinaryIO, NamedTuple

import indexed_gzip
import numpy as np

from cxrpipe import storage
from cxrpipe.archives.containers import zips
from cxrpipe.errors import ConfigError, StoreError, StudyError
from cxrpipe.records import View

_SEEK_POINT_SPACING_BYTES = 1 << 20
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, KeyError, NotImplementedError, RuntimeError)


class Array(NamedTuple):
    """The header of an array (NumPy's format 1.0 and 2.0)."""

    entry: str
    """Name in the npz: `train_images.npy`."""
    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int
    """Place of the first image in the uncompressed entry, in bytes."""
    version: str
    """CRC of the entry."""

    @property
    def image_bytes(self) -> int:
        return int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize


def headers(url: str) -> dict[str, Array]:
    """Read the headers of all arrays of an npz, by name (`train_images`). ConfigError where the file is no npz."""
    with _readable(url), storage.open_seekable(url) as stream, zipfile.ZipFile(stream) as npz:
        return {entry.filename.removesuffix(".npy"): _header(npz, entry) for entry in npz.infolist()}


def load(url: str, array: Array) -> np.ndarray:
    """Read a whole array, such as the labels."""
    with _readable(url), storage.open_seekable(url) as stream, zipfile.ZipFile(stream) as npz:
        return np.lib.format.read_array(io.BytesIO(npz.read(array.entry)), allow_pickle=False)


@contextlib.contextmanager
def _readable(url: str) -> Iterator[None]:
    """Raise ConfigError where an npz cannot be read. Errors of the store pass."""
    try:
        yield
    except StoreError:
        raise
    except _DAMAGE as error:
        raise ConfigError(f"{url}: cannot be read as an npz of arrays ({error})") from error


def _header(npz: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Array:
    with npz.open(entry) as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, by_columns, dtype = read(stream)
        if by_columns or dtype.hasobject or not shape:
            raise ValueError(f"{entry.filename} holds objects, a single number, or its columns first")
        return Array(entry.filename, shape, dtype, stream.tell(), f"{entry.CRC:08x}")


class OpenArray:
    """One array of an npz, opened to read its images at random. Threads must not share it."""

    def __init__(self, view: View) -> None:
        with contextlib.ExitStack() as opened, _at_fault(view):
            stream: BinaryIO = opened.enter_context(storage.open_seekable(view.url))
            npz = zipfile.ZipFile(stream)
            entry = npz.getinfo(view.entry or "")
            self._array = _header(npz, entry)
            self._stream: IO[bytes] = stream
            self._start = 0
            if entry.compress_type == zipfile.ZIP_STORED:
                self._start = zips.data_offset(stream, entry)
            else:
                gzip = io.BufferedReader(zips.AsGzip(stream, entry), storage.BUFFER_BYTES)
                self._stream = opened.enter_context(
                    indexed_gzip.IndexedGzipFile(fileobj=gzip, spacing=_SEEK_POINT_SPACING_BYTES)
                )
            self.close = opened.pop_all().close

    def image(self, view: View) -> bytes:
        """Read one image of the array, as the bytes of an .npy file that holds this image alone."""
        with _at_fault(view):
            self._stream.seek(self._start + view.offset)
            data = self._stream.read(view.length)
        if len(data) < view.length:
            raise StudyError("truncated", f"{view.name}: {len(data)} bytes of {view.length} can be read")
        if view.length != self._array.image_bytes:
            raise StudyError("corrupt", f"{view.name}: the images have another size than when they were indexed")
        saved = io.BytesIO()
        pixels = np.frombuffer(data, self._array.dtype).reshape(self._array.shape[1:])
        np.lib.format.write_array(saved, pixels, version=(1, 0), allow_pickle=False)
        return saved.getvalue()


@contextlib.contextmanager
def _at_fault(view: View) -> Iterator[None]:
    """Raise StudyError where an npz is damaged. Errors of the store pass."""
    try:
        yield
    except (FileNotFoundError, PermissionError, StoreError):
        raise
    except _DAMAGE as error:
        if isinstance(error.__cause__, (StoreError, FileNotFoundError, PermissionError)):
            raise error.__cause__ from None  # indexed_gzip wraps the errors of its file
        raise StudyError("corrupt", f"{view.name}: its array cannot be read here ({error})") from error

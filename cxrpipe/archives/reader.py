"""Reads the views of a study table at random, wherever they lie.

A file, an entry of a tar and an entry of a zip are byte ranges. An entry of a tar.gz is found by seek points, an image
of an npz by its array. An entry that is read whole is checked to be the one that was indexed (`containers.moved`), and
to have the CRC-32 of its zip. A tar has no checksum of contents, and a gzip only one of everything it holds: damage
there shows when an image is decoded, or not at all.
"""

import contextlib
import threading
import zlib
from collections import OrderedDict
from dataclasses import replace
from typing import BinaryIO, Self

from isal import isal_zlib

from cxrpipe import storage
from cxrpipe.archives.containers import gzips, moved
from cxrpipe.archives.containers.arrays import OpenArray
from cxrpipe.errors import StoreError, StudyError
from cxrpipe.records import View

_OPEN_TAR_GZ = 4  # most tar.gz files that stay open
_OPEN_ARRAYS = 3  # most arrays that stay open: train, valid and test of one npz
_MAX_INFLATED_BYTES = 1 << 30


class Reader:
    """Reads views where the study table says they lie. Threads may share it. Its files are closed at the end of `with`.

    seek_points  url of the folder with the seek points of this table's tar.gz files
    """

    def __init__(self, seek_points: str) -> None:
        self._seek_points = seek_points
        self._streams: OrderedDict[str, tuple[gzips.OpenGzip, BinaryIO]] = OrderedDict()
        self._arrays: OrderedDict[tuple[str, str | None], OpenArray] = OrderedDict()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for url in list(self._streams):
            self._close(url)
        for array in self._arrays.values():
            array.close()

    def read(self, view: View) -> bytes:
        """Read the bytes of a file as it was before it was packed, or an image of an array as an .npy file.

        StudyError (`missing`, `denied`, `truncated`, `corrupt`) where the object is at fault; StoreError where
        the store is.
        """
        try:
            return self._read_whole(view)
        except FileNotFoundError:
            raise StudyError("missing", f"{view.name}: not found, though the study table lists it") from None
        except PermissionError:
            raise StudyError("denied", f"{view.name}: access denied") from None

    def head(self, view: View, size: int) -> bytes:
        """Read the first `size` bytes of a file, or all of a shorter one. Errors as of `read`.

        Of a deflated zip entry the first `size` compressed bytes are read, which may give a few bytes less.
        """
        try:
            return self._read(replace(view, length=min(size, view.length)), whole=False)[:size]
        except FileNotFoundError:
            raise StudyError("missing", f"{view.name}: not found, though it was listed") from None
        except PermissionError:
            raise StudyError("denied", f"{view.name}: access denied") from None

    def _read_whole(self, view: View) -> bytes:
        try:
            data = self._read_from_tar(view) if moved.in_tar(view) else self._read(view)
            if len(data) < view.length and view.compression != "deflate":
                raise StudyError("truncated", f"{view.name}: {len(data)} bytes of {view.length} can be read")
            if view.crc32 is not None and isal_zlib.crc32(data) != view.crc32:
                raise StudyError("corrupt", f"{view.name}: its checksum is not the one that its zip had when indexed")
        except StudyError as error:
            if view.crc32 is not None and not moved.lies_in_zip(view):
                raise moved.moved(view) from error
            raise
        return data

    def _read_from_tar(self, view: View) -> bytes:
        for room_bytes in moved.TAR_HEADERS_BYTES:
            data = self._read(moved.with_tar_headers(view, room_bytes))
            if (content := moved.after_tar_headers(data, view, room_bytes)) is not None:
                return content
            if view.offset <= room_bytes:
                break
        raise moved.moved(view)

    def _read(self, view: View, whole: bool = True) -> bytes:
        if view.compression == "gzip":
            with self._lock:  # threads would move the one position of the stream
                return self._read_tar_gz(view)
        if view.compression == "npy":
            with self._lock:
                return self._read_npy(view)
        if view.entry is None:
            return storage.read(view.url) if whole else storage.read(view.url, 0, view.length)
        data = storage.read(view.url, view.offset, view.length)
        return _inflate(data, view, whole) if view.compression == "deflate" else data

    def _read_tar_gz(self, view: View) -> bytes:
        stream = self._stream(view.url)
        try:
            return stream.read(view.offset, view.length)
        except (zlib.error, EOFError, OSError) as error:
            self._close(view.url)
            if isinstance(error.__cause__, (StoreError, FileNotFoundError, PermissionError)):
                raise error.__cause__ from None
            raise StudyError("corrupt", f"{view.name}: its tar.gz cannot be read here ({error})") from error

    def _read_npy(self, view: View) -> bytes:
        array = self._array(view)
        try:
            return array.image(view)
        except (StudyError, StoreError, OSError):
            self._arrays.pop((view.url, view.entry)).close()  # the position of its stream is unknown now
            raise

    def _array(self, view: View) -> OpenArray:
        """Return an open array of an npz. The least recently used one may be closed for it."""
        key = view.url, view.entry
        if key not in self._arrays:
            self._arrays[key] = OpenArray(view)
            if len(self._arrays) > _OPEN_ARRAYS:
                self._arrays.popitem(last=False)[1].close()
        self._arrays.move_to_end(key)
        return self._arrays[key]

    def _stream(self, url: str) -> gzips.OpenGzip:
        """Return an open tar.gz with its seek points. The least recently used one may be closed for it."""
        if url not in self._streams:
            self._streams[url] = _open_tar_gz(url, self._seek_points)
            if len(self._streams) > _OPEN_TAR_GZ:
                self._close(next(iter(self._streams)))
        self._streams.move_to_end(url)
        return self._streams[url][0]

    def _close(self, url: str) -> None:
        for stream in self._streams.pop(url):
            stream.close()


def _open_tar_gz(url: str, seek_points: str) -> tuple[gzips.OpenGzip, BinaryIO]:
    """Open the uncompressed stream, and the file below it, which `indexed_gzip` does not close."""
    with contextlib.ExitStack() as opened:
        raw = opened.enter_context(storage.open_seekable(url))
        stream = gzips.open_at_random(url, raw, seek_points)
        opened.pop_all()
    return stream, raw


def _inflate(data: bytes, view: View, whole: bool) -> bytes:
    inflater = isal_zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated: bytes = inflater.decompress(data, _MAX_INFLATED_BYTES + 1)
    except isal_zlib.error as error:  # type: ignore[misc]  # its stubs declare an instance
        raise StudyError("corrupt", f"{view.name}: cannot be inflated ({error})") from error
    if len(inflated) > _MAX_INFLATED_BYTES:
        raise StudyError("too_large", f"{view.name}: inflates to more than {_MAX_INFLATED_BYTES:,} bytes")
    if whole and not inflater.eof:
        raise StudyError("truncated", f"{view.name}: its compressed data ends early")
    return inflated

"""Gzip read at random: a stream that ends where the file is damaged, and the seek points up to that place.

Seek points are those of `indexed_gzip`: 32 KB for about each 4 MB of uncompressed data. `indexed_gzip` knows whole
files only, so the seek points of a damaged file are given an end where the readable data end.
"""

import bisect
import contextlib
import hashlib
import io
import math
import struct
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import indexed_gzip

from cxrpipe import storage
from cxrpipe.errors import ConfigError, StudyError
from cxrpipe.records.study_table import SEEK_POINTS

SPACING_BYTES = 4 << 20
_NEAR_BYTES = 2 * SPACING_BYTES
"""A read that begins this near to the end of the last one follows it: threads read neighbours in almost their order."""
_STRETCHES = 2  # kept in memory for each open gzip
_GZIP = zlib.MAX_WBITS | 16
_PIECE_BYTES = 1 << 20
_KEPT_BYTES = 1 << 10
_SIZES = struct.Struct("<5sxxQQ")  # GZIDX, version, flags, compressed and uncompressed size
_NUMBERS = struct.Struct("<III")  # spacing, window and number of points
_POINT = struct.Struct("<QQBB")  # compressed and uncompressed offset, bits, whether it has a window


class Inflated(io.RawIOBase):
    """The uncompressed stream of a gzip, read once from front to back. Several gzip members in a row are one stream.

    The stream ends where the data can no longer be inflated; `fault` then says why. It can seek back 1 KB.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._inflater = zlib.decompressobj(_GZIP)
        self._input = b""
        self._buffer = b""
        self._start = 0  # of the buffer, in the uncompressed stream
        self._position = 0
        self._ended = False
        self.fault: EOFError | zlib.error | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to an offset. Reading at an offset beyond the end gives nothing."""
        if whence != io.SEEK_SET or offset < self._start:
            raise ValueError(f"cannot seek from {self._position} to {offset} in a stream that goes forward")
        while offset > self._end and self._fill():
            pass
        self._position = offset
        return offset

    def to_end(self) -> int:
        """Inflate the rest, and return the size of the readable stream."""
        while self._fill():
            pass
        return self._end

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:
            raise ValueError("cannot read all the rest at once")
        while self._position + size > self._end and self._fill(keep=self._position):
            pass
        at = self._position - self._start
        data = self._buffer[at : at + size]
        self._position += len(data)
        return data

    @property
    def _end(self) -> int:
        return self._start + len(self._buffer)

    def _fill(self, keep: int | None = None) -> bool:
        """Inflate the next piece, and keep the buffer from the position `keep` on; False at the end of the stream."""
        data = b""
        while not data and not self._ended:
            data = self._next()
        kept = min(len(self._buffer), max(_KEPT_BYTES, 0 if keep is None else self._end - keep))
        self._start = self._end - kept
        self._buffer = self._buffer[len(self._buffer) - kept :] + data
        return bool(data)

    def _next(self) -> bytes:
        """Inflate some bytes. Empty at the end of a member and at the end of the stream."""
        if not self._input:
            self._input = self._stream.read(_PIECE_BYTES)
            if not self._input:
                return self._stop(EOFError("its compressed data end early"))
        before = self._inflater.copy()
        try:
            data = self._inflater.decompress(self._input, _PIECE_BYTES)
        except zlib.error as error:
            data = _salvaged(before, self._input)
            self._stop(error)
            return data
        self._input = self._inflater.unconsumed_tail
        if self._inflater.eof:
            self._next_member()
        return data

    def _next_member(self) -> None:
        """Go to the next member. Zeros between members, as tapes leave them, are skipped, as gzip skips them."""
        rest = self._inflater.unused_data.lstrip(b"\0")
        while not rest and (piece := self._stream.read(_PIECE_BYTES)):
            rest = piece.lstrip(b"\0")
        if rest:
            self._input, self._inflater = rest, zlib.decompressobj(_GZIP)
        else:
            self._stop(None)

    def _stop(self, fault: EOFError | zlib.error | None) -> bytes:
        self._ended, self.fault = True, fault
        return b""


def _salvaged(inflater: Any, data: bytes) -> bytes:
    """Inflate as much as possible of `data`, which zlib refuses as a whole: in steps of 1 KB, then byte by byte."""
    salvaged = []
    for step in (1 << 10, 1):
        with contextlib.suppress(zlib.error):
            while True:
                before = inflater.copy()
                if not (piece := inflater.decompress(data, step)):
                    break
                salvaged.append(piece)
                data = inflater.unconsumed_tail
        inflater = before
    return b"".join(salvaged)


def write_seek_points(stream: BinaryIO, size: int, readable: int, folder: Path, url: str) -> None:
    """Write the seek points of a gzip of `size` bytes, of which `readable` uncompressed bytes can be read."""
    with indexed_gzip.IndexedGzipFile(fileobj=stream, spacing=SPACING_BYTES, buffer_size=1) as gzip:
        try:
            gzip.build_full_index()
            whole = True
        except indexed_gzip.ZranError as error:
            if error.__cause__:  # an error of the file below is no damage
                raise error.__cause__ from None
            whole = False
        exported = io.BytesIO()
        gzip.export_index(fileobj=exported)
    points = exported.getvalue()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _name(url)).write_bytes(points if whole else _ended_at(points, size, readable))


def _ended_at(points: bytes, size: int, readable: int) -> bytes:
    """Give the seek points of a damaged gzip the end that those of a whole one have.

    Without an end, `indexed_gzip` reads nothing behind the last point. (Format: `zran_export_index` in zran.c of
    indexed_gzip, version 1.)
    """
    spacing, window, number = _NUMBERS.unpack_from(points, _SIZES.size)
    table = _SIZES.size + _NUMBERS.size
    windows = table + number * _POINT.size
    return b"".join(
        (
            points[:7],
            struct.pack("<QQ", size, readable),
            _NUMBERS.pack(spacing, window, number + 1),
            points[table:windows],
            _POINT.pack(size, readable, 0, 0),
            points[windows:],
        )
    )


class OpenGzip:
    """The uncompressed stream of an indexed gzip, opened to be read at random. Threads must not share it.

    For every read, `indexed_gzip` inflates from the last seek point before a place, which is 2 MB too much on average.
    Entries that are read in their order are therefore cut from stretches, which lie between two seek points.
    """

    def __init__(self, gzip: indexed_gzip.IndexedGzipFile) -> None:
        self._gzip = gzip
        self._points = [place for place, _ in gzip.seek_points()]
        self._stretches: OrderedDict[int, bytes] = OrderedDict()
        self._last_end = -math.inf

    def read(self, offset: int, length: int) -> bytes:
        """Read `length` bytes from `offset` on; fewer at the end of what can be read."""
        follows = abs(offset - self._last_end) <= _NEAR_BYTES and length <= _NEAR_BYTES
        self._last_end = offset + length
        if follows:
            with contextlib.suppress(OSError):  # damage in the rest of a stretch may be no matter
                return self._cut(offset, offset + length)
        return self._read(offset, length)

    def close(self) -> None:
        self._gzip.close()

    def _cut(self, start: int, end: int) -> bytes:
        """The bytes from `start` to `end`, out of as many stretches as hold them."""
        first = bisect.bisect_right(self._points, start) - 1
        last = bisect.bisect_left(self._points, end) - 1
        pieces = []
        for number in range(first, min(last, len(self._points) - 2) + 1):
            place = self._points[number]
            pieces.append(self._stretch(number)[max(0, start - place) : end - place])
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _stretch(self, number: int) -> bytes:
        """What lies between one seek point and the next. The stretches that were last needed are kept."""
        if number not in self._stretches:
            place = self._points[number]
            self._stretches[number] = self._read(place, self._points[number + 1] - place)
            if len(self._stretches) > _STRETCHES:
                self._stretches.popitem(last=False)
        self._stretches.move_to_end(number)
        return self._stretches[number]

    def _read(self, offset: int, length: int) -> bytes:
        """Read below the buffer of `indexed_gzip`, which inflates 16 MB for every read and fails if any are damaged."""
        self._gzip.raw.seek(offset)
        data: bytes = self._gzip.raw.read(length)
        return data


def open_at_random(url: str, stream: BinaryIO, seek_points: str) -> OpenGzip:
    """Open the gzip `stream` to be read at random, with its seek points from the folder at `seek_points`.

    ConfigError where its seek points are missing or damaged, StudyError where the gzip has changed.
    """
    points = _load(seek_points, url)
    _check_unchanged(url, stream.seek(0, io.SEEK_END), points)
    gzip = indexed_gzip.IndexedGzipFile(fileobj=stream, buffer_size=1)
    try:
        gzip.import_index(fileobj=io.BytesIO(points))
    except indexed_gzip.ZranError as error:
        gzip.close()
        raise ConfigError(f"{url}: its seek points are damaged ({error}); index it again") from error
    return OpenGzip(gzip)


def _load(seek_points: str, url: str) -> bytes:
    place = storage.join(seek_points, _name(url))
    try:
        return storage.read(place)
    except FileNotFoundError:
        raise ConfigError(
            f"{place}: no seek points for {url}; keep {SEEK_POINTS}/ beside the study table, or index it again"
        ) from None


def _name(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()[:32] + ".gzidx"


def keep_seek_points(url: str, old: str, new: Path) -> bool:
    """Copy the seek points of a tar.gz from the folder of an earlier index; False where that has none."""
    name = _name(url)
    try:
        data = storage.read(storage.join(old, name))
    except FileNotFoundError:
        return False
    storage.write(str(new / name), data)
    return True


def _check_unchanged(url: str, size: int, points: bytes) -> None:
    indexed = _SIZES.unpack_from(points.ljust(_SIZES.size))[1]
    if size != indexed:
        raise StudyError("missing", f"{url}: {size:,} bytes, but {indexed:,} when it was indexed; index it again")

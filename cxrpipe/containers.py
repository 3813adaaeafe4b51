"""Tar, tar.gz and zip: every entry found once, then read at random. Names are data and are never followed.

A tar or a zip is read by byte range. A tar.gz is read through seek points (`indexed_gzip`), which lie beside the
study table: about 32 KB for each 4 MB of uncompressed data.
"""

import contextlib
import hashlib
import io
import stat
import tarfile
import threading
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Self

import indexed_gzip

from cxrpipe import storage, zips
from cxrpipe.arrays import OpenArray
from cxrpipe.errors import ConfigError, StoreError, StudyError
from cxrpipe.records import View

TAR_GZ = (".tar.gz", ".tgz")
SEEK_POINTS = "seek_points"
"""Folder beside a study table that holds the seek points of its tar.gz files."""
_OPEN_TAR_GZ = 4
_OPEN_ARRAYS = 3  # train, valid and test of one npz
_MAX_INFLATED_BYTES = 1 << 30


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

    @property
    def stem(self) -> str:
        return self.name.rpartition("/")[2].rpartition(".")[0]

    @property
    def suffix(self) -> str:
        """Lower case, with its dot; empty where there is none."""
        stem, _, suffix = self.name.rpartition("/")[2].rpartition(".")
        return f".{suffix.lower()}" if stem and suffix else ""


def is_container(url: str) -> bool:
    return url.lower().endswith((".tar", ".zip", *TAR_GZ))


def entries(container: storage.Object, seek_points: Path) -> Iterator[File]:
    """The regular files of one container, in its own order; `name` is the entry's.

    Seek points of a tar.gz are written into the folder `seek_points` once it has been read to its end. ConfigError
    where the container is damaged or cut short: what it has lost cannot be told. Not handled: sparse tar entries.
    """
    url = container.url.lower()
    with _whole(container.url):
        if url.endswith(".zip"):
            yield from _zip_entries(container)
        elif url.endswith(TAR_GZ):
            yield from _tar_gz_entries(container, seek_points)
        else:
            with storage.open_seekable(container.url) as stream:
                yield from _tar_entries(container, stream, "none")


_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, UnicodeDecodeError, NotImplementedError)


@contextlib.contextmanager
def _whole(url: str) -> Iterator[None]:
    """What a broken container makes its readers raise, as one ConfigError."""
    try:
        yield
    except _DAMAGE as error:
        if isinstance(error.__cause__, StoreError):  # indexed_gzip wraps what its file raises
            raise error.__cause__ from None
        raise ConfigError(f"{url}: cannot be read to its end ({error}); fetch it again") from error


def _tar_entries(container: storage.Object, stream: BinaryIO, compression: str) -> Iterator[File]:
    with tarfile.open(fileobj=stream, mode="r:") as tar:
        while entry := tar.next():
            tar.members = []  # type: ignore[attr-defined]  # tarfile keeps every header it has seen
            if entry.isreg():
                name = entry.name.encode(errors="surrogateescape").decode(errors="backslashreplace")
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


def _tar_gz_entries(container: storage.Object, seek_points: Path) -> Iterator[File]:
    with (
        storage.open_seekable(container.url) as raw,
        indexed_gzip.IndexedGzipFile(fileobj=raw) as stream,
    ):
        yield from _tar_entries(container, stream, "gzip")
        stream.build_full_index()
        seek_points.mkdir(parents=True, exist_ok=True)
        stream.export_index(str(seek_points / _seek_points_name(container.url)))


def _seek_points_name(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()[:32] + ".gzidx"


def keep_seek_points(url: str, old: str, new: Path) -> bool:
    """Copy the seek points of a container from beside another study table; False where it needs some and has none."""
    if not url.lower().endswith(TAR_GZ):
        return True
    name = _seek_points_name(url)
    try:
        data = storage.read(storage.join(old, name))
    except FileNotFoundError:
        return False
    storage.write(str(new / name), data)
    return True


def _zip_entries(container: storage.Object) -> Iterator[File]:
    compressions = {zipfile.ZIP_STORED: "none", zipfile.ZIP_DEFLATED: "deflate"}
    with storage.open_seekable(container.url) as stream:
        for entry in zipfile.ZipFile(stream).infolist():
            if entry.is_dir() or stat.S_ISLNK(entry.external_attr >> 16):
                continue
            if entry.flag_bits & 0x1 or entry.compress_type not in compressions:
                raise ConfigError(
                    f"{container.url}!{entry.filename}: encrypted, or compressed by method {entry.compress_type}; "
                    "expected stored or deflated entries: pack it again"
                )
            yield File(
                name=entry.filename,
                url=container.url,
                entry=entry.filename,
                offset=zips.data_offset(stream, container.url, entry),
                length=entry.compress_size,
                compression=compressions[entry.compress_type],
                version=f"{entry.CRC:08x}",
            )


class Reader:
    """Reads views where the study table says they lie. Safe to share between threads; leave it to close its files.

    seek_points  url of the folder with the seek points of this table's tar.gz files
    """

    def __init__(self, seek_points: str) -> None:
        self._seek_points = seek_points
        self._streams: OrderedDict[str, tuple[indexed_gzip.IndexedGzipFile, BinaryIO]] = OrderedDict()
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
        """The bytes of the file as it was before it was packed; of an array's image those of an .npy file.

        StudyError (`missing`, `denied`, `truncated`, `corrupt`) where the object is at fault; StoreError where
        the store is.
        """
        try:
            data = self._read(view)
        except FileNotFoundError:
            raise StudyError("missing", f"{view.name}: not found, though the study table lists it") from None
        except PermissionError:
            raise StudyError("denied", f"{view.name}: access denied") from None
        if len(data) < view.length and view.compression != "deflate":
            raise StudyError("truncated", f"{view.name}: {len(data)} bytes of {view.length} can be read")
        return data

    def head(self, view: View, size: int) -> bytes:
        """The first `size` bytes of the file, or all of a shorter one; errors as of `read`.

        Of a deflated zip entry as much as its first `size` compressed bytes give, which is never less.
        """
        try:
            return self._read(replace(view, length=min(size, view.length)), whole=False)[:size]
        except FileNotFoundError:
            raise StudyError("missing", f"{view.name}: not found, though it was listed") from None
        except PermissionError:
            raise StudyError("denied", f"{view.name}: access denied") from None

    def _read(self, view: View, whole: bool = True) -> bytes:
        if view.compression == "gzip":
            with self._lock:  # one position in one stream
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
            stream.seek(view.offset)
            return stream.read(view.length)
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
            self._arrays.pop((view.url, view.entry)).close()  # where its stream stands now is not known
            raise

    def _array(self, view: View) -> OpenArray:
        """An open array of an npz; the least recently used one is closed."""
        key = view.url, view.entry
        if key not in self._arrays:
            self._arrays[key] = OpenArray(view)
            if len(self._arrays) > _OPEN_ARRAYS:
                self._arrays.popitem(last=False)[1].close()
        self._arrays.move_to_end(key)
        return self._arrays[key]

    def _stream(self, url: str) -> indexed_gzip.IndexedGzipFile:
        """An open tar.gz with its seek points; the least recently used one is closed."""
        if url not in self._streams:
            self._streams[url] = _open_tar_gz(url, self._load_seek_points(url))
            if len(self._streams) > _OPEN_TAR_GZ:
                self._close(next(iter(self._streams)))
        self._streams.move_to_end(url)
        return self._streams[url][0]

    def _close(self, url: str) -> None:
        for stream in self._streams.pop(url):
            stream.close()

    def _load_seek_points(self, url: str) -> bytes:
        place = storage.join(self._seek_points, _seek_points_name(url))
        try:
            return storage.read(place)
        except FileNotFoundError:
            raise ConfigError(
                f"{place}: no seek points for {url}; keep {SEEK_POINTS}/ beside the study table, or index it again"
            ) from None


def _open_tar_gz(url: str, seek_points: bytes) -> tuple[indexed_gzip.IndexedGzipFile, BinaryIO]:
    """The uncompressed stream, and the file below it, which `indexed_gzip` leaves to us to close."""
    with contextlib.ExitStack() as opened:
        raw = opened.enter_context(storage.open_seekable(url))
        _check_unchanged(url, raw.seek(0, io.SEEK_END), seek_points)
        stream = opened.enter_context(indexed_gzip.IndexedGzipFile(fileobj=raw))
        try:
            stream.import_index(fileobj=io.BytesIO(seek_points))
        except indexed_gzip.ZranError as error:
            raise ConfigError(f"{url}: its seek points are damaged ({error}); index it again") from error
        opened.pop_all()
    return stream, raw


def _check_unchanged(url: str, size: int, seek_points: bytes) -> None:
    """Seek points begin with `GZIDX`, two bytes and the size of their tar.gz."""
    indexed = int.from_bytes(seek_points[7:15], "little")
    if size != indexed:
        reason = "truncated" if size < indexed else "corrupt"
        raise StudyError(reason, f"{url}: {size:,} bytes, but {indexed:,} when it was indexed; index it again")


def _inflate(data: bytes, view: View, whole: bool) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(data, _MAX_INFLATED_BYTES)
    except zlib.error as error:
        raise StudyError("corrupt", f"{view.name}: cannot be inflated ({error})") from error
    if inflater.unconsumed_tail:
        raise StudyError("too_large", f"{view.name}: inflates to more than {_MAX_INFLATED_BYTES:,} bytes")
    if whole and not inflater.eof:
        raise StudyError("truncated", f"{view.name}: its compressed data ends early")
    return inflated

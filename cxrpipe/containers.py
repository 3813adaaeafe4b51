"""Tar, tar.gz and zip: every entry found once, then read at random. Names are data and are never followed.

A tar or a zip is read by byte range. A tar.gz is read through seek points (`indexed_gzip`), which lie beside the
study table: about 32 KB for each 4 MB of uncompressed data.
"""

import hashlib
import io
import struct
import tarfile
import threading
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

import indexed_gzip

from cxrpipe import storage
from cxrpipe.errors import ConfigError, StudyError
from cxrpipe.records import View

TAR_GZ = (".tar.gz", ".tgz")
SEEK_POINTS = "seek_points"
"""Folder beside a study table that holds the seek points of its tar.gz files."""
_OPEN_TAR_GZ = 4
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
        return Path(self.name).suffix.lower()


def is_container(url: str) -> bool:
    return url.lower().endswith((".tar", ".zip", *TAR_GZ))


def entries(container: storage.Object, seek_points: Path) -> Iterator[File]:
    """The regular files of one container, in its own order; `name` is the entry's.

    Seek points of a tar.gz are written into the folder `seek_points` once it has been read to its end.
    """
    url = container.url.lower()
    if url.endswith(".zip"):
        yield from _zip_entries(container)
    elif url.endswith(TAR_GZ):
        yield from _tar_gz_entries(container, seek_points)
    else:
        with storage.open_seekable(container.url) as stream:
            yield from _tar_entries(container, stream, "none")


def _tar_entries(container: storage.Object, stream: BinaryIO, compression: str) -> Iterator[File]:
    try:
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            while entry := tar.next():
                tar.members = []  # type: ignore[attr-defined]  # tarfile keeps every header it has seen
                if entry.isreg():
                    yield File(
                        name=entry.name,
                        url=container.url,
                        entry=entry.name,
                        offset=entry.offset_data,
                        length=entry.size,
                        compression=compression,
                        version=str(int(entry.mtime)),
                    )
    except (tarfile.TarError, EOFError, zlib.error, indexed_gzip.ZranError) as error:
        raise ConfigError(f"{container.url}: not a whole tar file ({error}); fetch it again") from error


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


def _zip_entries(container: storage.Object) -> Iterator[File]:
    compressions = {zipfile.ZIP_STORED: "none", zipfile.ZIP_DEFLATED: "deflate"}
    with storage.open_seekable(container.url) as stream:
        try:
            directory = zipfile.ZipFile(stream)
        except zipfile.BadZipFile as error:
            raise ConfigError(f"{container.url}: not a whole zip file ({error}); fetch it again") from error
        for entry in directory.infolist():
            if entry.is_dir():
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
                offset=_zip_data_offset(stream, container.url, entry),
                length=entry.compress_size,
                compression=compressions[entry.compress_type],
                version=f"{entry.CRC:08x}",
            )


def _zip_data_offset(stream: BinaryIO, url: str, entry: zipfile.ZipInfo) -> int:
    """The directory gives the place of the local header; only that says where the data begins (APPNOTE 4.3.7)."""
    stream.seek(entry.header_offset)
    header = stream.read(30)
    if header[:4] != b"PK\x03\x04":
        raise ConfigError(f"{url}!{entry.filename}: its directory points to no entry; fetch the zip again")
    name_bytes, extra_bytes = struct.unpack("<HH", header[26:30])
    return entry.header_offset + 30 + name_bytes + extra_bytes


class Reader:
    """Reads views where the study table says they lie. Safe to share between threads; leave it to close its files.

    seek_points  url of the folder with the seek points of this table's tar.gz files
    """

    def __init__(self, seek_points: str) -> None:
        self._seek_points = seek_points
        self._streams: OrderedDict[str, tuple[indexed_gzip.IndexedGzipFile, BinaryIO]] = OrderedDict()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        while self._streams:
            self._close_oldest()

    def read(self, view: View) -> bytes:
        """The bytes of the file as it was before it was packed.

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

    def _read(self, view: View) -> bytes:
        if view.compression == "gzip":
            with self._lock:  # one position in one stream
                return self._read_tar_gz(view)
        if view.entry is None:
            return storage.read(view.url)
        data = storage.read(view.url, view.offset, view.length)
        return _inflate(data, view) if view.compression == "deflate" else data

    def _read_tar_gz(self, view: View) -> bytes:
        try:
            stream = self._stream(view.url)
            stream.seek(view.offset)
            return stream.read(view.length)
        except (zlib.error, indexed_gzip.ZranError, EOFError) as error:
            raise StudyError("corrupt", f"{view.name}: its tar.gz cannot be read here ({error})") from error

    def _stream(self, url: str) -> indexed_gzip.IndexedGzipFile:
        """An open tar.gz with its seek points; the least recently used one is closed."""
        if url not in self._streams:
            points = io.BytesIO(self._load_seek_points(url))
            raw = storage.open_seekable(url)
            stream = indexed_gzip.IndexedGzipFile(fileobj=raw)
            self._streams[url] = stream, raw
            stream.import_index(fileobj=points)
            if len(self._streams) > _OPEN_TAR_GZ:
                self._close_oldest()
        self._streams.move_to_end(url)
        return self._streams[url][0]

    def _close_oldest(self) -> None:
        for stream in self._streams.popitem(last=False)[1]:
            stream.close()

    def _load_seek_points(self, url: str) -> bytes:
        place = storage.join(self._seek_points, _seek_points_name(url))
        try:
            return storage.read(place)
        except FileNotFoundError:
            raise ConfigError(
                f"{place}: no seek points for {url}; keep {SEEK_POINTS}/ beside the study table, or index it again"
            ) from None


def _inflate(data: bytes, view: View) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(data, _MAX_INFLATED_BYTES)
    except zlib.error as error:
        raise StudyError("corrupt", f"{view.name}: cannot be inflated ({error})") from error
    if inflater.unconsumed_tail:
        raise StudyError("too_large", f"{view.name}: inflates to more than {_MAX_INFLATED_BYTES:,} bytes")
    if not inflater.eof:
        raise StudyError("truncated", f"{view.name}: its compressed data ends early")
    return inflated

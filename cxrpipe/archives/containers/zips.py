"""Zip: lists the entries of its directory, finds where their data begin, and presents a deflated entry as a gzip file.

Names, sizes and checksums are taken from the directory. The local header before the data only tells where the data
begin; its name may differ from the directory's in slashes or encoding.
"""

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

from cxrpipe import storage
from cxrpipe.archives.containers.files import File, Link, Lost, plain_name, symbolic_target
from cxrpipe.archives.containers.zip_directory import LOCAL, UTF_8, directory, extra_fields

_LOCAL_BYTES = 30  # of a local header, before its name and its extra fields
_ENCRYPTED, _SIZES_FOLLOW = 0x1, 0x8  # bits of the flags; checksum and sizes behind the data: APPNOTE 4.3.9
_UNICODE_PATH = 0x7075  # extra field of Info-ZIP: the name in UTF-8 beside one in another encoding (APPNOTE 4.6.9)
_METHODS = {zipfile.ZIP_STORED: "none", zipfile.ZIP_DEFLATED: "deflate"}
_METHOD_NAMES = {1: "shrink", 6: "implode", 9: "deflate64", 12: "bzip2", 14: "lzma", 20: "zstd", 93: "zstd", 95: "xz",
                 96: "jpeg", 97: "wavpack", 98: "ppmd"}  # fmt: skip
_MAX_LINK_BYTES = 4096
_GZIP_HEADER = b"\x1f\x8b\x08" + bytes(6) + b"\xff"  # deflate, no name, no time, unknown system (RFC 1952)


def zip_entries(container: storage.Object, stream: BinaryIO) -> Iterator[File | Link | Lost]:
    """List every entry but folders. Errors as of `directory`."""
    for entry in directory(stream):
        name = _name(entry)
        if stat.S_ISLNK(entry.external_attr >> 16):
            yield _link(container, stream, entry, name)
        elif not name.endswith(("/", "\\")) and not entry.filename.endswith("/"):  # is_dir fails for an empty name
            yield _file(container, stream, entry, name)


def _name(entry: zipfile.ZipInfo) -> str:
    """The name in UTF-8 from an extra field, where that belongs to this entry; else the name in the directory."""
    for kind, field in extra_fields(entry.extra):
        if kind == _UNICODE_PATH and field[1:5] == struct.pack("<I", zlib.crc32(_raw_name(entry))):
            return field[5:].decode(errors="replace")
    return entry.filename


def _raw_name(entry: zipfile.ZipInfo) -> bytes:
    return entry.orig_filename.encode("utf-8" if entry.flag_bits & UTF_8 else "cp437")


def _file(container: storage.Object, stream: BinaryIO, entry: zipfile.ZipInfo, name: str) -> File | Lost:
    full = f"{container.url}!{name}"
    if entry.flag_bits & _ENCRYPTED:
        return Lost(container.url, name, "encrypted", f"{full}: encrypted; pack it again without a password")
    if entry.compress_type not in _METHODS:
        method = _METHOD_NAMES.get(entry.compress_type, f"method {entry.compress_type}")
        detail = f"{full}: compressed by {method}; unpack the zip and pack it again, stored or deflated"
        return Lost(container.url, name, "unsupported_compression", f"{detail}: zip -r NEW.zip .")
    try:
        offset = data_offset(stream, entry)
    except zipfile.BadZipFile as error:
        return Lost(container.url, name, "corrupt", f"{full}: {error}; fetch the zip again")
    if offset + entry.compress_size > container.size:
        return Lost(container.url, name, "truncated", f"{full}: reaches beyond its zip; fetch the zip again")
    return File(
        name=plain_name(name),
        url=container.url,
        entry=name,
        offset=offset,
        length=entry.compress_size,
        compression=_METHODS[entry.compress_type],
        version=f"{entry.CRC:08x}",
        crc32=entry.CRC,
    )


def _link(container: storage.Object, stream: BinaryIO, entry: zipfile.ZipInfo, name: str) -> Link | Lost:
    """Read a symbolic link: its content is the name of its target."""
    file = _file(container, stream, entry, name)
    if isinstance(file, Lost):
        return file
    stream.seek(file.offset)
    data = stream.read(min(file.length, _MAX_LINK_BYTES))
    try:
        target = zlib.decompress(data, -zlib.MAX_WBITS) if file.compression == "deflate" else data
    except zlib.error:
        target = b""
    return Link(file.name, name, symbolic_target(file.name, target.decode(errors="replace")) if target else None)


def data_offset(stream: BinaryIO, entry: zipfile.ZipInfo) -> int:
    """Find where the data of an entry begin. Only its local header, to which the directory points, says so (APPNOTE
    4.3.7).

    BadZipFile where the directory points to no local header, or to one of another name and content.
    """
    stream.seek(max(0, entry.header_offset))
    header = _Local.at(stream.read(_LOCAL_BYTES)) if entry.header_offset >= 0 else None
    if header is None:
        raise zipfile.BadZipFile(f"its directory points to no entry at byte {entry.header_offset:,}")
    if stream.read(header.name_bytes) != _raw_name(entry) and not header.may_have(entry):
        raise zipfile.BadZipFile(f"its directory points to an entry of another name at byte {entry.header_offset:,}")
    return entry.header_offset + _LOCAL_BYTES + header.name_bytes + header.extra_bytes


class _Local(NamedTuple):
    """The fields of a local header that are used."""

    flags: int
    method: int
    crc32: int
    name_bytes: int
    extra_bytes: int

    @classmethod
    def at(cls, data: bytes) -> "_Local | None":
        if len(data) < _LOCAL_BYTES or not data.startswith(LOCAL):
            return None
        return cls(*struct.unpack_from("<6xHH4xI8xHH", data))

    def may_have(self, entry: zipfile.ZipInfo) -> bool:
        """Whether method and checksum may be the entry's. A header may leave the checksum to what follows the data."""
        crc32 = entry.CRC if self.flags & _SIZES_FOLLOW and not self.crc32 else self.crc32
        return (self.method, crc32) == (entry.compress_type, entry.CRC)


def ends_in_header_of(data: bytes, name: str, crc32: int) -> bool:
    """Whether `data` end in the local header of the entry with this name or this checksum."""
    at = len(data)
    while (at := data.rfind(LOCAL, 0, at)) >= 0:
        header = _Local.at(data[at : at + _LOCAL_BYTES])
        if header and at + _LOCAL_BYTES + header.name_bytes + header.extra_bytes == len(data):
            raw = data[at + _LOCAL_BYTES :][: header.name_bytes]
            spelled = raw.decode("utf-8" if header.flags & UTF_8 else "cp437", errors="replace")
            return plain_name(spelled) == plain_name(name) or header.crc32 == crc32 != 0
    return False


class AsGzip(io.RawIOBase):
    """A deflated entry presented as a gzip file, for readers that know gzip only.

    stream  the zip, which must stay open while this is read; closing this leaves it open
    """

    def __init__(self, stream: BinaryIO, entry: zipfile.ZipInfo) -> None:
        self._stream = stream
        self._start = data_offset(stream, entry)
        self._data_end = len(_GZIP_HEADER) + entry.compress_size
        self._trailer = struct.pack("<II", entry.CRC, entry.file_size % (1 << 32))
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        end = self._data_end + len(self._trailer)
        self._position = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: end}[whence])
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        at, wanted = self._position, len(buffer)
        if at < len(_GZIP_HEADER):
            data = _GZIP_HEADER[at : at + wanted]
        elif at < self._data_end:
            self._stream.seek(self._start + at - len(_GZIP_HEADER))
            data = self._stream.read(min(wanted, self._data_end - at))
        else:
            data = self._trailer[at - self._data_end :][:wanted]
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

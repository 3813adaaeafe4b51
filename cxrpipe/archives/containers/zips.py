"""Zip below its directory: where an entry's data begin, and a deflated entry as the gzip file that it would be."""

import io
import struct
import zipfile
from typing import Any, BinaryIO

_LOCAL = b"PK\x03\x04"
_UTF_8 = 0x800  # bit of the flags: the name is not in code page 437
_GZIP_HEADER = b"\x1f\x8b\x08" + bytes(6) + b"\xff"  # deflate, no name, no time, unknown system (RFC 1952)


def data_offset(stream: BinaryIO, entry: zipfile.ZipInfo) -> int:
    """The directory gives the place of the local header; only that says where the data begin (APPNOTE 4.3.7).

    BadZipFile where no entry begins there, or one of another name.
    """
    stream.seek(max(0, entry.header_offset))
    header = stream.read(30)
    if entry.header_offset < 0 or len(header) < 30 or header[:4] != _LOCAL:
        raise zipfile.BadZipFile(f"its directory points to no entry at byte {entry.header_offset:,}")
    name_bytes, extra_bytes = struct.unpack("<HH", header[26:30])
    if stream.read(name_bytes) != entry.orig_filename.encode("utf-8" if entry.flag_bits & _UTF_8 else "cp437"):
        raise zipfile.BadZipFile(f"its directory points to an entry of another name at byte {entry.header_offset:,}")
    return entry.header_offset + 30 + name_bytes + extra_bytes


def header_before(data: bytes) -> str:
    """The name in the local header that ends where `data` end; BadZipFile where none does."""
    at = len(data)
    while (at := data.rfind(_LOCAL, 0, at)) >= 0:
        flags, name_bytes, extra_bytes = struct.unpack("<6xH18xHH", data[at : at + 30].ljust(30, b"\0"))
        name = data[at + 30 :][:name_bytes]
        if at + 30 + name_bytes + extra_bytes == len(data):
            return name.decode("utf-8" if flags & _UTF_8 else "cp437", errors="replace")
    raise zipfile.BadZipFile("no entry begins here")


class AsGzip(io.RawIOBase):
    """A deflated entry between the header and the trailer of gzip, for readers that know gzip only.

    stream  the zip; it is read while this is, and stays open when this is closed
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

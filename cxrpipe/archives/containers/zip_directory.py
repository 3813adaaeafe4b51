"""Reads the directory of a zip with zipfile, and mends entries for which zipfile would refuse the whole directory."""

import io
import struct
import zipfile
from collections.abc import Iterator
from typing import BinaryIO

LOCAL, _CENTRAL = b"PK\x03\x04", b"PK\x01\x02"
UTF_8 = 0x800  # bit of the flags: the name is in UTF-8 and not in code page 437
_CENTRAL_BYTES = 46  # size of a directory entry before its name and its extra fields
_NEWEST_VERSION = 63  # newest version of the format that zipfile reads (APPNOTE 4.4.3)


def directory(stream: BinaryIO) -> list[zipfile.ZipInfo]:
    """List the entries of a zip.

    EOFError where the file begins as a zip and has no directory; BadZipFile where the directory is damaged, or in
    another part of a split zip.
    """
    try:
        try:
            entries = zipfile.ZipFile(stream).infolist()
        except (UnicodeDecodeError, NotImplementedError, zipfile.BadZipFile):
            entries = zipfile.ZipFile(_Mended(stream)).infolist()
    except zipfile.BadZipFile as error:
        stream.seek(0)
        if stream.read(4) == LOCAL:
            raise EOFError("no directory") from error
        raise
    if any(entry.volume for entry in entries):
        raise zipfile.BadZipFile("one of the parts of a split zip; join them: zip -s 0 IN.zip --out WHOLE.zip")
    return entries


class _Mended(io.RawIOBase):
    """A zip with its directory mended, so that zipfile reads all entries.

    A name that is marked as UTF-8 and is not is read in code page 437. An extra field of a wrong length gets a kind
    that nobody knows. A version beyond the newest becomes the newest.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def read(self, size: int | None = -1) -> bytes:
        data = self._stream.read(-1 if size is None else size)
        return _mended(data) if data.startswith(_CENTRAL) else data


def _mended(directory: bytes) -> bytes:
    data, at = bytearray(directory), 0
    while data[at : at + 4] == _CENTRAL and at + _CENTRAL_BYTES <= len(data):
        version, flags = struct.unpack_from("<HH", data, at + 6)
        name_bytes, extra_bytes, comment_bytes = struct.unpack_from("<HHH", data, at + 28)
        name_end = at + _CENTRAL_BYTES + name_bytes
        extra = slice(name_end, name_end + extra_bytes)
        if flags & UTF_8 and not _is_utf8(bytes(data[at + _CENTRAL_BYTES : name_end])):
            flags &= ~UTF_8
        struct.pack_into("<HH", data, at + 6, min(version, _NEWEST_VERSION), flags)
        if extra_bytes - sum(4 + len(field) for _, field in extra_fields(bytes(data[extra]))) >= 4:
            data[extra] = struct.pack("<HH", 0xFFFF, extra_bytes - 4) + bytes(extra_bytes - 4)
        at = extra.stop + comment_bytes
    return bytes(data)


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def extra_fields(extra: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield kind and content of the extra fields, up to the first with an impossible length."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if at + 4 + length > len(extra):
            return
        yield kind, extra[at + 4 : at + 4 + length]
        at += 4 + length

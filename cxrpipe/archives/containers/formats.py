"""Formats that cannot be read at random, and the commands that convert them.

A container that is opened is judged by its first bytes; one that is only listed, by its suffix.
"""

import re
import shlex
from typing import NamedTuple


class Format(NamedTuple):
    """A format, how it is recognised, and the command that converts it."""

    reason: str
    """`unsupported_container` for an archive, `compressed_file` for a single file."""
    what: str
    """The format in words, for a person."""
    command: str
    """Converts the file: `{file}` is its name, `{stem}` the name without suffix, `{whole}` without its last part."""
    suffix: str
    """Regular expression for the end of a name in lower case."""
    begins: bytes | None = None
    """First bytes of the file."""


_IMAGE = r"\.(?:dcm|dicom|png|jpe?g|jpe|jfif|tiff?|bmp|webp)"


def _packed_tar(tool: str, suffix: str, begins: bytes) -> Format:
    command = f"{tool} -dc {{file}} | gzip > {{stem}}.tar.gz"
    return Format("unsupported_container", f"packed by {tool}", command, suffix, begins)


FORMATS = (
    _packed_tar("bzip2", r"\.(?:tar\.bz2?|tbz2?|tb2)", b"BZh"),
    _packed_tar("xz", r"\.(?:tar\.xz|txz)", b"\xfd7zXZ\0"),
    _packed_tar("zstd", r"\.(?:tar\.zst|tzst)", b"\x28\xb5\x2f\xfd"),
    _packed_tar("lz4", r"\.tar\.lz4", b"\x04\x22\x4d\x18"),
    _packed_tar("lzip", r"\.(?:tar\.lz|tlz)", b"LZIP"),
    _packed_tar("gzip", r"\.(?:tar\.z|taz)", b"\x1f\x9d"),
    Format("unsupported_container", "a 7-Zip archive", "7z x {file} -o{stem}", r"\.7z", b"7z\xbc\xaf\x27\x1c"),
    Format("unsupported_container", "an image of a disc", "7z x {file} -o{stem}", r"\.(?:iso|dmg)"),
    Format("unsupported_container", "a part of a split zip", "zip -s 0 {stem}.zip --out {stem}_whole.zip", r"\.z\d\d"),
    Format(
        "unsupported_container",
        "a part of a split archive",
        "cat {whole}.* > {whole}",
        r"\.(?:zip|7z|rar|tar|tgz|gz)\.(?:\d{2,3}|a[a-z]|part\w*)",
    ),
    Format(
        "unsupported_container",
        "a RAR archive",
        "unrar x {file} {stem}/",
        r"(?:\.part\d+)?\.rar|\.r\d\d",
        b"Rar!\x1a\x07",
    ),
    Format("compressed_file", "a NIfTI volume", "export PNG or DICOM from it", r"\.nii(?:\.gz)?"),
    Format("compressed_file", "compressed by gzip", "gunzip {file}", _IMAGE + r"\.gz"),
    Format("compressed_file", "compressed by bzip2", "bunzip2 {file}", _IMAGE + r"\.bz2"),
    Format("compressed_file", "compressed by xz", "unxz {file}", _IMAGE + r"\.xz"),
    Format("compressed_file", "compressed by zstd", "unzstd {file}", _IMAGE + r"\.zst"),
)
_SUFFIX = re.compile("|".join(f"({known.suffix})$" for known in FORMATS))


def format_by_name(name: str) -> Format | None:
    match = _SUFFIX.search(name.lower())
    return FORMATS[match.lastindex - 1] if match and match.lastindex else None


def format_by_content(head: bytes) -> Format | None:
    return next((known for known in FORMATS if known.begins and head.startswith(known.begins)), None)


def advice(packed: Format, place: str) -> str:
    """Say in one line what the file at `place` is, and which command converts it."""
    file = place.rpartition("!")[2].rpartition("/")[2]
    stem = re.sub(packed.suffix + "$", "", file, flags=re.IGNORECASE)
    if stem == file:  # the file has the suffix of another format, so its output needs another name
        stem = file.partition(".")[0] + "_unpacked"
    names = {"file": file, "stem": stem, "whole": file.rpartition(".")[0]}
    command = packed.command.format(**{key: shlex.quote(name) for key, name in names.items()})
    return f"{place}: {packed.what}, which cannot be read at random; convert it: {command}"

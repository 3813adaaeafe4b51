"""Files that are packed in a way which is not read at random, and the command that makes them readable.

A container is judged by its first bytes where it is opened, and by its suffix where it is only listed.
"""

import re
import shlex
from typing import NamedTuple


class Format(NamedTuple):
    reason: str
    """`unsupported_container`, or `compressed_file`: one file."""
    what: str
    command: str
    """What a person types. `{file}` is its name, `{stem}` that without the suffix, `{whole}` without the last part."""
    suffix: str
    """Regular expression of the end of a lower-case name."""
    begins: bytes | None = None


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
_SUFFIX = re.compile("|".join(f"({each.suffix})$" for each in FORMATS))


def format_by_name(name: str) -> Format | None:
    found = _SUFFIX.search(name.lower())
    return FORMATS[found.lastindex - 1] if found and found.lastindex else None


def format_by_content(head: bytes) -> Format | None:
    return next((each for each in FORMATS if each.begins and head.startswith(each.begins)), None)


def advice(packed: Format, place: str) -> str:
    """One line: what the file at `place` is, and the command to type where it lies."""
    file = place.rpartition("!")[2].rpartition("/")[2]
    stem = re.sub(packed.suffix + "$", "", file, flags=re.IGNORECASE)
    if stem == file:  # called by another format's suffix: what comes out of it needs another name
        stem = file.partition(".")[0] + "_unpacked"
    names = {"file": file, "stem": stem, "whole": file.rpartition(".")[0]}
    command = packed.command.format(**{key: shlex.quote(name) for key, name in names.items()})
    return f"{place}: {packed.what}, which cannot be read at random; convert it: {command}"

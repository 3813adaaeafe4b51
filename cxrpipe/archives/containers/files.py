"""The entries of containers: files, links to files, and entries that are lost. Names are data, never followed."""

import posixpath
import re
from dataclasses import dataclass
from typing import NamedTuple

TAR_GZ = (".tar.gz", ".tgz")
CONTAINERS = (".tar", ".zip", *TAR_GZ)
_DRIVE = re.compile(r"[A-Za-z]:")
_UNUSUAL = re.compile(r"^[./]|\\|//|/\.|:/")
"""Matches every name that `plain_name` changes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One file of an archive, plain or inside a container."""

    name: str
    """Relative to the archive, `/` between folders; through a container: `images_001.tar.gz/images/x.png`."""
    url: str
    entry: str | None = None
    """Name of the entry as the container writes it. Through a link: the entry that the link leads to."""
    offset: int = 0
    length: int
    compression: str = "none"
    version: str
    crc32: int | None = None
    """Checksum of the file before it was packed, where the container has one."""

    @property
    def stem(self) -> str:
        return self.name.rpartition("/")[2].rpartition(".")[0]

    @property
    def suffix(self) -> str:
        """The suffix in lower case, with its dot; empty where the name has none."""
        stem, _, suffix = self.name.rpartition("/")[2].rpartition(".")
        return f".{suffix.lower()}" if stem and suffix else ""


class Lost(NamedTuple):
    """An entry of a container that cannot be read."""

    url: str
    entry: str | None
    """None: several entries are lost, and `detail` says which."""
    reason: str
    detail: str | None = None
    """A line for a person that says what to do; None where the reason says everything."""


class Link(NamedTuple):
    """An entry that leads to another entry of its container."""

    name: str
    """Name of the link, in the form of `File.name`."""
    entry: str
    target: str | None
    """Name of the file that the link leads to; None: the link leads out of the container."""


def is_container(name: str) -> bool:
    return name.lower().endswith(CONTAINERS)


def plain_name(name: str) -> str:
    r"""Write a name with `/` between folders and no way out of the archive: `C:\x\y`, `./x/y`, `//x/../y` → `x/y`.

    Steps up (`..`) are dropped, as unzip drops them. The name may end up empty.
    """
    if not _UNUSUAL.search(name):
        return name
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    return "/".join(parts[1:] if parts and _DRIVE.fullmatch(parts[0]) else parts)


def as_text(name: str) -> str:
    """Make a name storable: bytes that are not UTF-8 are written out, such as `\\xf6`."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def symbolic_target(name: str, target: str) -> str | None:
    """Find the file that a symbolic link called `name` leads to; None: it leads out of the container."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(name), target.replace("\\", "/")))
    return None if path.startswith(("/", "..")) else path

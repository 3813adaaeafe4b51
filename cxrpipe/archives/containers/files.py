"""What a container holds: files, links to them, and what cannot be catalogued. Names are data, never followed."""

import posixpath
import re
from dataclasses import dataclass
from typing import NamedTuple

TAR_GZ = (".tar.gz", ".tgz")
CONTAINERS = (".tar", ".zip", *TAR_GZ)
_DRIVE = re.compile(r"[A-Za-z]:")
_UNUSUAL = re.compile(r"^[./]|\\|//|/\.|:/")
"""What all names have in which `plain_name` changes anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One file of an archive, plain or inside a container."""

    name: str
    """Relative to the archive, `/` between folders; through a container: `images_001.tar.gz/images/x.png`."""
    url: str
    entry: str | None = None
    """As the container writes it. That of a link is the entry which the link leads to."""
    offset: int = 0
    length: int
    compression: str = "none"
    version: str
    crc32: int | None = None
    """Of the file as it was before it was packed, where the container says it."""

    @property
    def stem(self) -> str:
        return self.name.rpartition("/")[2].rpartition(".")[0]

    @property
    def suffix(self) -> str:
        """Lower case, with its dot; empty where there is none."""
        stem, _, suffix = self.name.rpartition("/")[2].rpartition(".")
        return f".{suffix.lower()}" if stem and suffix else ""


class Lost(NamedTuple):
    """What a container holds, or held, and cannot be catalogued."""

    url: str
    entry: str | None
    """None: more than one entry, as `detail` says."""
    reason: str
    detail: str | None = None
    """A line for a person, with what to do; none where the reason says all."""


class Link(NamedTuple):
    """An entry that has the content of another one of its container."""

    name: str
    """As of a file."""
    entry: str
    target: str | None
    """Name of the file that the link leads to; None: it leads out of the container."""


def is_container(name: str) -> bool:
    return name.lower().endswith(CONTAINERS)


def plain_name(name: str) -> str:
    r"""A name with `/` between folders and no way out of the archive: `C:\x\y`, `./x/y`, `//x/../y` → `x/y`.

    Steps up are dropped, as unzip drops them. Empty where nothing is left.
    """
    if not _UNUSUAL.search(name):
        return name
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    return "/".join(parts[1:] if parts and _DRIVE.fullmatch(parts[0]) else parts)


def as_text(name: str) -> str:
    """A name that can be stored: bytes that are no UTF-8 are written out, as `\\xf6`."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def symbolic_target(name: str, target: str) -> str | None:
    """The file that a symbolic link called `name` leads to; None where that is not in the container."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(name), target.replace("\\", "/")))
    return None if path.startswith(("/", "..")) else path

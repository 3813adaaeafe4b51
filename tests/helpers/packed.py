"""Small containers of every kind, their entries, and a reader for them."""

import gzip
import random
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import tar, tar_gz, zipped

from cxrpipe import storage
from cxrpipe.archives.catalogue import view_of
from cxrpipe.archives.containers.entries import File, Lost, entries
from cxrpipe.archives.reader import Reader
from cxrpipe.errors import StudyError
from cxrpipe.records import View

CONTENTS = {
    f"images/{number:03}.png": random.Random(number).randbytes(number * 300) + b"x" * 900 for number in range(12)
}
Pack = Callable[[dict[str, bytes]], bytes]
PACKS: dict[str, tuple[str, Pack]] = {
    "tar": ("a.tar", tar),
    "pax": ("a.tar", lambda files: tar(files, form=tarfile.PAX_FORMAT)),
    "tar.gz": ("a.tar.gz", tar_gz),
    "tgz": ("a.TGZ", tar_gz),
    "tar.gz of several members": ("a.tar.gz", lambda files: several_members(tar(files))),
    "zip, stored": ("a.zip", lambda files: zipped(files, method=zipfile.ZIP_STORED)),
    "zip, deflated": ("a.zip", zipped),
    "zip behind a program": ("a.zip", lambda files: b"#!/bin/sh\n" * 9 + zipped(files)),
}
every_pack = pytest.mark.parametrize("pack", PACKS)
one_of_each = pytest.mark.parametrize("pack", ["tar", "tar.gz", "zip, stored", "zip, deflated"])


def several_members(data: bytes) -> bytes:
    """As pigz and bgzip write."""
    return b"".join(gzip.compress(data[start : start + 5000], 1) for start in range(0, len(data), 5000))


def packed(folder: str, pack: str, files: dict[str, bytes] = CONTENTS) -> str:
    """The url of a container with these files."""
    name, made = PACKS[pack]
    storage.write(storage.join(folder, name), made(files))
    return storage.join(folder, name)


def found(url: str | Path, seek_points: Path) -> tuple[list[File], list[Lost]]:
    """The entries of a container, and what it has lost; it has no links."""
    every = list(entries(storage.stat(str(url)), seek_points))
    files = [each for each in every if isinstance(each, File)]
    losses = [each for each in every if isinstance(each, Lost)]
    assert len(files) + len(losses) == len(every)
    return files, losses


def listed(url: str | Path, seek_points: Path) -> list[File]:
    """The entries of a container that has lost nothing."""
    files, losses = found(url, seek_points)
    assert not losses
    return files


def views_of(files: list[File]) -> list[View]:
    return [view_of(file) for file in files]


def opened(url: str, seek_points: Path) -> tuple[list[View], Reader]:
    """The views of a container, and a reader for them."""
    return views_of(listed(url, seek_points)), Reader(str(seek_points))


def reason(reader: Reader, view: View) -> str:
    with pytest.raises(StudyError) as raised:
        reader.read(view)
    return raised.value.reason

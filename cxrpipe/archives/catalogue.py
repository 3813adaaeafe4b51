"""The files of an archive, whatever holds them: what every layout reads from."""

import csv
import gzip
import io
import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from cxrpipe import storage
from cxrpipe.containers import File, Loss, entries, is_container
from cxrpipe.errors import ConfigError, StoreError, StudyError
from cxrpipe.reader import Reader
from cxrpipe.records import MaskView, View

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
_HEADS_AT_ONCE = 16
"""A store answers a small read in some 20 ms, however many are under way."""


class Catalogue:
    """An archive's files, listed once. Hidden ones (`.DS_Store`, `__MACOSX/._x.png`, unfinished writes) are left out.

    archive      url of a folder, a prefix, a container or a table
    seek_points  local folder that receives the seek points of tar.gz files as they are read
    opening      told of every container before it is read, which can take minutes
    """

    def __init__(self, archive: str, seek_points: Path, opening: Callable[[str], None] = lambda _: None) -> None:
        self.archive = archive
        self._opening = opening
        self._seek_points = seek_points
        self._objects = [found for found in _listing(archive) if not _is_hidden(self._name(found))]
        self._files: list[File] | None = None
        self.losses: dict[Loss, None] = {}
        """What containers have lost, as far as they have been opened; each once, in order."""
        if not self._objects:
            raise ConfigError(f"{archive}: nothing there; expected an archive: a folder, a prefix, a tar or a zip")

    def object_names(self) -> list[str]:
        """Names of the objects themselves, no container opened."""
        return [self._name(found) for found in self._objects]

    def files(self) -> list[File]:
        """Every file, containers opened, in the order of names and of entries."""
        if self._files is None:
            self._files = list(self._walk())
        return self._files

    def names(self) -> list[str]:
        return [file.name for file in self.files()]

    def images(self) -> Iterator[File]:
        return (file for file in self.files() if file.suffix in IMAGE_SUFFIXES)

    def find(self, basename: str) -> File | None:
        """The first file of that name, wherever it lies; `*` at the end of the stem matches a rest."""
        return next((file for file in self.files() if Path(file.name).match(basename)), None)

    def read(self, file: File) -> bytes:
        with Reader(str(self._seek_points)) as reader:
            return reader.read(view_of(file))

    def heads(self, files: Iterable[File], size: int) -> Iterator[tuple[File, bytes | StudyError]]:
        """The first bytes of each file, in their order, or why they cannot be read. Several are asked for at once."""
        with Reader(str(self._seek_points)) as reader, ThreadPoolExecutor(_HEADS_AT_ONCE) as threads:
            rest = iter(files)
            while some := list(itertools.islice(rest, 8 * _HEADS_AT_ONCE)):
                yield from zip(some, threads.map(lambda file: _head(reader, file, size), some), strict=True)

    def rows(self, file: File, *needed: str) -> Iterator[dict[str, str]]:
        """The rows of a CSV or CSV.gz file; ConfigError where one lacks a column that is needed."""
        data: io.BytesIO | gzip.GzipFile = io.BytesIO(self.read(file))
        if file.suffix == ".gz":
            data = gzip.GzipFile(fileobj=data)
        try:
            for row in csv.DictReader(io.TextIOWrapper(data, "utf-8-sig", newline="")):
                if missing := [column for column in needed if row.get(column) is None]:
                    raise ConfigError(f"{file.url}: a row without {' and without '.join(missing)}")
                yield row
        except (UnicodeDecodeError, csv.Error, gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ConfigError(f"{file.url}: not a CSV file in UTF-8 ({error})") from None

    def _walk(self) -> Iterator[File]:
        for found in self._objects:
            if not is_container(found.url):
                yield File(name=self._name(found), url=found.url, length=found.size, version=found.version)
                continue
            self._opening(found.url)
            for file in entries(found, self._seek_points):
                if isinstance(file, Loss):
                    self._lose(file)
                elif not _is_hidden(file.name):
                    yield self._inside(found, file)

    def told_losses(self) -> str:
        """The first of them in words, and how many more there are."""
        first, *more = self.losses
        told = first.detail or f"{first.url}!{first.entry}: {first.reason}"
        return told + (f" (and {len(more):,} more)" if more else "")

    def _lose(self, loss: Loss) -> None:
        if not _is_hidden(loss.entry or ""):
            self.losses[loss] = None

    def _inside(self, container: storage.Object, file: File) -> File:
        """An archive that is one container has the names of its entries; in a folder they follow the container's."""
        if container.url == self.archive:
            return file
        return replace(file, name=f"{self._name(container)}/{file.name}")

    def _name(self, found: storage.Object) -> str:
        if found.url == self.archive:
            return found.url.rpartition("/")[2]
        return found.url.removeprefix(self.archive.rstrip("/") + "/")


def _listing(archive: str) -> Iterator[storage.Object]:
    try:
        for found in storage.listing(archive):
            found.url.encode()
            yield found
    except UnicodeEncodeError as error:
        raise ConfigError(f"{error.object!a}: a name that is not UTF-8; rename the file") from None
    except PermissionError as error:
        raise StoreError(f"{archive}: cannot be listed ({error})") from error


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") and part not in (".", "..") for part in name.split("/"))


def _head(reader: Reader, file: File, size: int) -> bytes | StudyError:
    try:
        return reader.head(view_of(file), size)
    except StudyError as error:
        return error


def view_of(file: File, view_position: str | None = None) -> View:
    return View(
        url=file.url,
        entry=file.entry,
        offset=file.offset,
        length=file.length,
        compression=file.compression,
        view_position=view_position,
        version=file.version,
        crc32=file.crc32,
    )


def mask_of(file: File, view: int = 0) -> MaskView:
    return MaskView(
        url=file.url,
        entry=file.entry,
        offset=file.offset,
        length=file.length,
        compression=file.compression,
        version=file.version,
        crc32=file.crc32,
        view=view,
    )

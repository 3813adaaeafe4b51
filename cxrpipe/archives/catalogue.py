"""The files of an archive, whatever holds them: what every layout reads from."""

import gzip
import itertools
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from cxrpipe import console, storage
from cxrpipe.archives.containers.entries import TAR_GZ, File, Loss, entries, is_container
from cxrpipe.archives.containers.gzips import SEEK_POINTS, keep_seek_points
from cxrpipe.archives.csv_files import Row, read_names, read_rows
from cxrpipe.archives.listing import FILE, FILES, OBJECT, UNLEARNED, Listing, Names
from cxrpipe.archives.reader import Reader
from cxrpipe.errors import ConfigError, StoreError, StudyError
from cxrpipe.records import REASONS, MaskView, View
from cxrpipe.records.pseudonyms import Pseudonyms

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
_HEADS_AT_ONCE = 16
"""A store answers a small read in some 20 ms, however many are under way."""


class Catalogue:
    """An archive's files, listed once. Hidden ones (`.DS_Store`, `__MACOSX/._x.png`, unfinished writes) are left out.

    archive      url of a folder, a prefix, a container or a table
    seek_points  local folder that receives the seek points of tar.gz files as they are read
    opening      told of every container before it is read, which can take minutes
    pseudonyms   hide the ids of patients, studies and instances; what is kept of DICOM headers holds no others
    previous     url of the folder of a study table of this archive: what has not changed since is not opened again
    """

    def __init__(
        self,
        archive: str,
        seek_points: Path,
        opening: Callable[[str], None] = lambda _: None,
        previous: str | None = None,
        pseudonyms: Pseudonyms | None = None,
    ) -> None:
        self.archive = archive
        self.pseudonyms = pseudonyms
        self._opening = opening
        self._seek_points = seek_points
        self.losses: dict[Loss, None] = {}
        """What containers have lost, as far as they have been opened; each once, in order."""
        self._listing = Listing()
        self._opened = False
        self._previous = previous if previous and self._load_previous(previous) else None
        for found in console.counted(_listing(archive), f"listing {archive}"):
            if not _is_hidden(self._name(found)):
                self._listing.add_object(self._name(found), found, is_container(found.url))
        if not self.object_names():
            raise ConfigError(f"{archive}: nothing there; expected an archive: a folder, a prefix, a tar or a zip")
        if self._previous:
            self._listing.take_over_facts()

    def object_names(self) -> Names:
        """Names of the objects themselves, no container opened."""
        return Names(self._listing, OBJECT)

    def files(self) -> Iterator[File]:
        """Every file, containers opened, in the order of names and of entries."""
        self._open_containers()
        return self._listing.files()

    def names(self) -> Names:
        self._open_containers()
        return Names(self._listing, FILE)

    def images(self) -> Iterator[File]:
        return (file for file in self.files() if file.name.lower().endswith(IMAGE_SUFFIXES))

    def find(self, basename: str) -> File | None:
        """The first file of that name, wherever it lies; `*` at the end of the stem matches a rest."""
        self._open_containers()
        return self._listing.find(basename)

    def save(self, path: Path) -> None:
        """Keep the files, and what was learned of them, for the next index."""
        self._open_containers()
        self._listing.save(path)

    def learned(self, look: Callable[[File, bytes], str], size: int) -> Iterator[tuple[File, str]]:
        """What `look` makes of each file and its first bytes, by the names of the files.

        It is JSON; where `look` raises a StudyError, its reason. What an earlier index learned of a file that has not
        changed is taken for it.
        """
        self._open_containers()
        left = self._listing.count(UNLEARNED)
        numbers, files = itertools.tee(self._listing.unlearned())
        heads = console.counted(self.heads((file for _, file in files), size), "reading headers", left)
        for (number, _), (file, head) in zip(numbers, heads, strict=True):
            try:
                if isinstance(head, StudyError):
                    raise head
                self._listing.learn(number, look(file, head))
            except StudyError as error:
                self._listing.learn(number, json.dumps(error.reason), passing=REASONS[error.reason].retryable)
        return self._listing.learned()

    def read(self, file: File) -> bytes:
        with Reader(str(self._seek_points)) as reader:
            return reader.read(view_of(file))

    def heads(self, files: Iterable[File], size: int) -> Iterator[tuple[File, bytes | StudyError]]:
        """The first bytes of each file, in their order, or why they cannot be read. Several are asked for at once."""
        with Reader(str(self._seek_points)) as reader, ThreadPoolExecutor(_HEADS_AT_ONCE) as threads:
            rest = iter(files)
            while some := list(itertools.islice(rest, 8 * _HEADS_AT_ONCE)):
                yield from zip(some, threads.map(lambda file: _head(reader, file, size), some), strict=True)

    def rows(self, table: File, needed: Sequence[str], known: Sequence[str] = ()) -> Iterator[Row]:
        """The rows of a CSV or CSV.gz file by the names of its columns; ConfigError where it is none."""
        return read_rows(self._unpacked(table), table.url, needed, known)

    def list_of_names(self, listed: File) -> list[str]:
        """The names of files that a text file lists, without their folders."""
        return read_names(self._unpacked(listed), listed.url)

    def _unpacked(self, file: File) -> bytes:
        data = self.read(file)
        if file.suffix != ".gz":
            return data
        try:
            return gzip.decompress(data)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ConfigError(f"{file.url}: not a CSV file packed with gzip ({error})") from None

    def _open_containers(self) -> None:
        """List what is in the containers, once."""
        if self._opened:
            return
        self._opened = True
        for number, container in self._listing.containers():
            if self._is_as_before(container):
                self._listing.take_over_entries(number, container)
                continue
            self._opening(container.url)
            found = storage.Object(container.url, container.length, container.version)
            lost: list[Loss] = []
            every = console.counted(entries(found, self._seek_points), f"reading {container.url}")
            self._listing.add_entries(number, self._whole(container, every, lost))
            passing = any(loss.reason in REASONS and REASONS[loss.reason].retryable for loss in lost)
            self._listing.learn(number, json.dumps(lost), passing)
        for learned in self._listing.learned_of_containers():
            self.losses |= dict.fromkeys(Loss(*loss) for loss in json.loads(learned))

    def _whole(self, container: File, every: Iterable[File | Loss], lost: list[Loss]) -> Iterator[File]:
        """The files of a container; what it has lost goes into `lost`."""
        for found in every:
            if _is_hidden((found.entry if isinstance(found, Loss) else found.name) or ""):
                continue
            if isinstance(found, Loss):
                lost.append(found)
            else:
                yield self._inside(container, found)

    def told_losses(self) -> str:
        """The first of them in words, and how many more there are."""
        first, *more = self.losses
        told = first.detail or f"{first.url}!{first.entry}: {first.reason}"
        return told + (f" (and {len(more):,} more)" if more else "")

    def _inside(self, container: File, file: File) -> File:
        """An archive that is one container has the names of its entries; in a folder they follow the container's."""
        if container.url == self.archive:
            return file
        return replace(file, name=f"{container.name}/{file.name}")

    def _load_previous(self, folder: str) -> bool:
        try:
            known = self._listing.load_previous(storage.join(folder, FILES))
        except FileNotFoundError:
            raise ConfigError(
                f"{folder}: no {FILES} beside the study table; index without --previous, which writes one"
            ) from None
        if not known:
            console.log(f"{folder}/{FILES} was written by another version of cxrpipe: everything is opened again")
        return known

    def _is_as_before(self, container: File) -> bool:
        if self._previous is None or not self._listing.is_as_before(container):
            return False
        if not container.url.lower().endswith(TAR_GZ):
            return True
        return keep_seek_points(container.url, storage.join(self._previous, SEEK_POINTS), self._seek_points)

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
    return View(**_place(file), view_position=view_position)


def mask_of(file: File, view: int = 0) -> MaskView:
    return MaskView(**_place(file), view=view)


def _place(file: File) -> dict[str, Any]:
    """What a view has of its file: all but its name in the archive."""
    return {name: getattr(file, name) for name in _PLACE}


_PLACE = ("url", "entry", "offset", "length", "compression", "version", "crc32")

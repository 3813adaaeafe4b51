"""The files of an archive, whatever holds them: what every layout reads from."""

import gzip
import itertools
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from cxrpipe import console, storage
from cxrpipe.archives.aside import IMAGE_SUFFIXES, detail, why_aside
from cxrpipe.archives.containers.entries import entries
from cxrpipe.archives.containers.files import File, Link, Loss, as_text, is_container, plain_name
from cxrpipe.archives.containers.formats import format_by_name
from cxrpipe.archives.containers.gzips import SEEK_POINTS, keep_seek_points
from cxrpipe.archives.copies import set_aside
from cxrpipe.archives.csv_files import Row, read_names, read_rows
from cxrpipe.archives.listing import FILE, FILES, OBJECT, READ, UNLEARNED, Listing, Names
from cxrpipe.archives.reader import Reader
from cxrpipe.errors import ConfigError, StoreError, StudyError
from cxrpipe.records import REASONS, MaskView, View
from cxrpipe.records.pseudonyms import Pseudonyms

_HEADS_AT_ONCE = 16
"""A store answers a small read in some 20 ms, however many are under way."""


class Catalogue:
    """An archive's files, listed once. No layout sees those that stand aside, such as hidden ones: `aside` has why.

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
            self._add(found)
        if not self.object_names():
            raise ConfigError(
                f"{archive}: nothing there{self.told_aside()}; expected an archive: a folder, a prefix, a tar or a zip"
            )
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

    def is_only(self, name: str) -> bool:
        """Whether one file alone has that name."""
        return self._listing.is_only(name)

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
        """The bytes of a file, which is noted as read: a table or a list, unless it turns out to be in a study."""
        self._listing.use([(file.url, file.entry)], READ)
        return self._bytes(file)

    def use(self, files: Iterable[tuple[str, str | None]], use: int) -> None:
        """Note what becomes of files (`listing.IN_A_STUDY` or `LEFT_OUT`), by their url and entry."""
        self._listing.use(files, use)

    def left(self) -> Iterator[tuple[File, str | None, str | None]]:
        """Files of which nothing is noted: why they are in no study, and what to do; None: a table that was read."""
        self._open_containers()
        return ((file, why, detail(why, file) if why else None) for file, why in self._listing.left())

    def _bytes(self, file: File) -> bytes:
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
            links: list[Link] = []
            every = console.counted(entries(found, self._seek_points), f"reading {container.url}")
            self._listing.add_entries(number, self._whole(container, every, lost, links))
            self._listing.add_entries(number, self._linked(number, container, lost, links))
            passing = any(loss.reason in REASONS and REASONS[loss.reason].retryable for loss in lost)
            self._listing.learn(number, json.dumps(lost), passing)
        for learned in self._listing.learned_of_containers():
            self.losses |= dict.fromkeys(Loss(*loss) for loss in json.loads(learned))
        for copy in set_aside(self._listing, self._is_same):
            named = "a folder repeats another" if self.pseudonyms else f"{copy.folder} repeats {copy.original}"
            console.log(f"{named}: {copy.files:,} files are left out (copy_of_archive)")

    def _is_same(self, one: File, other: File) -> bool:
        try:
            return self._bytes(one) == self._bytes(other)
        except StudyError:
            return False

    def _whole(
        self, container: File, every: Iterable[File | Link | Loss], lost: list[Loss], links: list[Link]
    ) -> Iterator[tuple[File, str | None]]:
        """The files of a container, and why they stand aside; what it has lost, and its links, go into lists."""
        for found in every:
            if isinstance(found, File):
                yield self._inside(container, found)
            elif isinstance(found, Link):
                links.append(found)
            elif found.entry is not None and why_aside(plain_name(found.entry)):
                yield self._inside(container, _without_content(container, found.entry))
            else:
                lost.append(found)

    def _linked(
        self, number: int, container: File, lost: list[Loss], links: list[Link]
    ) -> Iterator[tuple[File, str | None]]:
        """What links lead to, under their own names; the others are lost."""
        inside = [
            link._replace(
                name=self._name_inside(container, link.name),
                target=self._name_inside(container, link.target) if link.target else None,
            )
            for link in links
        ]
        for link, file in list(self._listing.linked(number, inside)):
            aside = why_aside(link.name)
            if file or aside:
                yield file or _without_content(container, link.entry), aside
            else:
                lost.append(Loss(container.url, link.entry, "link"))

    def told_losses(self) -> str:
        """The first of them in words, and how many more there are."""
        first, *more = self.losses
        told = first.detail or f"{first.url}!{first.entry}: {first.reason}"
        return told + (f" (and {len(more):,} more)" if more else "")

    def told_aside(self) -> str:
        """`; left out: 2 hidden, 1 unsupported_container`, and what to do with the first of which that can be said."""
        counts: Counter[str] = Counter()
        told = ""
        for file, why in self._listing.aside():
            counts[why] += 1
            told = told or detail(why, file) or ""
        left_out = ", ".join(f"{count:,} {why}" for why, count in counts.most_common())
        return (f"; left out: {left_out}" if counts else "") + (f"; {told}" if told else "")

    def _add(self, found: storage.Object) -> None:
        name, url = self._name(found), as_text(found.url)
        aside = why_aside(name)
        if found.url == self.archive and not format_by_name(name):
            aside = None  # it was asked for by its name
        if found.kind == "denied" and not aside:
            raise StoreError(f"{found.url}: a folder that cannot be listed (access denied)")
        if not name or url != found.url:
            aside = "unusable_name"
        place = found._replace(url=url)
        container = is_container(url) and not (aside or found.kind)
        self._listing.add_object(as_text(name), place, container, aside or found.kind or None)

    def _inside(self, container: File, file: File) -> tuple[File, str | None]:
        named = replace(file, name=self._name_inside(container, file.name))
        return named, why_aside(file.name) if file.name else "unusable_name"

    def _name_inside(self, container: File, name: str) -> str:
        """An archive that is one container has the names of its entries; in a folder they follow the container's."""
        return name if container.url == self.archive else f"{container.name}/{name}"

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
        if not self._listing.had_seek_points(container):
            return True
        return keep_seek_points(container.url, storage.join(self._previous, SEEK_POINTS), self._seek_points)

    def _name(self, found: storage.Object) -> str:
        if found.url == self.archive:
            return found.url.rpartition("/")[2]
        return plain_name(found.url.removeprefix(self.archive.rstrip("/") + "/"))


def _listing(archive: str) -> Iterator[storage.Object]:
    """Every object once: a store whose pages overlap says one twice."""
    last = None
    try:
        for found in storage.listing(archive, everything=True):
            if found.url != last:
                yield found
            last = found.url
    except PermissionError as error:
        raise StoreError(f"{archive}: cannot be listed ({error})") from error


def _without_content(container: File, entry: str) -> File:
    """An entry that is only counted."""
    return File(name=plain_name(entry), url=container.url, entry=entry, length=0, version="")


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

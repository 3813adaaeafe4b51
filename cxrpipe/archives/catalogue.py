"""The files of an archive, whatever holds them. Every layout reads from here."""

import gzip
import itertools
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cxrpipe import console, storage
from cxrpipe.archives import kept
from cxrpipe.archives.aside import IMAGE_SUFFIXES, detail, why_aside
from cxrpipe.archives.containers.files import File, Lost, as_text, is_container, plain_name
from cxrpipe.archives.containers.formats import format_by_name
from cxrpipe.archives.contents import Contents
from cxrpipe.archives.copies import set_aside
from cxrpipe.archives.csv_files import Row, read_names, read_rows
from cxrpipe.archives.listing import FILE, OBJECT, READ, UNLEARNED, Listing, Names
from cxrpipe.archives.reader import Reader
from cxrpipe.errors import ConfigError, StoreError, StudyError
from cxrpipe.records import REASONS, MaskView, View
from cxrpipe.records.pseudonyms import Pseudonyms

_HEADS_AT_ONCE = 16
"""A store answers a small read in some 20 ms, however many are under way."""


class Catalogue:
    """The files of an archive, listed once. Layouts do not see files that stand aside, such as hidden ones.

    archive      url of a folder, a prefix, a container or a table
    seek_points  local folder that receives the seek points of tar.gz files as they are read
    opening      called with the url of every container before it is read, which can take minutes
    previous     url of the folder of an earlier study table of this archive; unchanged files are not opened again
    pseudonyms   hide the ids of patients, studies and instances, also in the facts kept from DICOM headers
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
        self._seek_points = seek_points
        self.lost: dict[Lost, None] = {}
        """What is lost of the containers opened so far; each once, in order."""
        self._listing = Listing()
        self._opened = False
        unchanged = kept.Previous.load(self._listing, previous) if previous else None
        self._contents = Contents(self._listing, archive, seek_points, opening, unchanged)
        for listed in console.counted(_listing(archive), f"listing {archive}"):
            self._add(listed)
        if not self.object_names():
            raise ConfigError(
                f"{archive}: nothing there{self.describe_aside()}; "
                "expected an archive: a folder, a prefix, a tar or a zip"
            )
        if unchanged:
            unchanged.take_over_facts()

    # ---- names and files ----

    def object_names(self) -> Names:
        """Names of the store's objects. No container is opened."""
        return Names(self._listing, OBJECT)

    def names(self) -> Names:
        """Names of all files, those in containers included."""
        self._open_containers()
        return Names(self._listing, FILE)

    def files(self) -> Iterator[File]:
        """All files, those in containers included, in the order of names and of entries."""
        self._open_containers()
        return self._listing.files()

    def images(self) -> Iterator[File]:
        """The files that have the suffix of an image."""
        return (file for file in self.files() if file.name.lower().endswith(IMAGE_SUFFIXES))

    def find(self, basename: str) -> File | None:
        """The first file with that name, in any folder. A `*` in the name matches anything."""
        self._open_containers()
        return self._listing.find(basename)

    def table(self, basename: str, layout: str, holds: str) -> File:
        """The table that a layout cannot do without, as of `find`; ConfigError where there is none."""
        table = self.find(basename)
        if table is None:
            raise ConfigError(f"{self.archive}: no {basename}; the {layout} layout needs it for {holds}")
        return table

    def is_only(self, name: str) -> bool:
        """Whether exactly one file has that name."""
        return self._listing.is_only(name)

    def save(self, path: Path) -> None:
        """Write the files, and what was learned of them, for the next index."""
        self._open_containers()
        kept.save(self._listing, path)

    # ---- what becomes of files ----

    def use(self, files: Iterable[tuple[str, str | None]], use: int) -> None:
        """Note what becomes of files (`listing.IN_A_STUDY` or `LEFT_OUT`), given by their url and entry."""
        self._listing.use(files, use)

    def left(self) -> Iterator[tuple[File, str | None, str | None]]:
        """Files of which nothing was noted: why they are in no study, and what to do; None: a table that was read."""
        self._open_containers()
        return ((file, why, detail(why, file) if why else None) for file, why in self._listing.left())

    def describe_lost(self) -> str:
        """Describe the first lost entry, and say how many more there are."""
        first, *more = self.lost
        described = first.detail or f"{first.url}!{first.entry}: {first.reason}"
        return described + (f" (and {len(more):,} more)" if more else "")

    def describe_aside(self) -> str:
        """Count the files that stand aside: `; left out: 2 hidden, 1 unsupported_container`, and say what to do."""
        counts: Counter[str] = Counter()
        what_to_do = ""
        for file, why in self._listing.aside():
            counts[why] += 1
            what_to_do = what_to_do or detail(why, file) or ""
        left_out = ", ".join(f"{count:,} {why}" for why, count in counts.most_common())
        return (f"; left out: {left_out}" if counts else "") + (f"; {what_to_do}" if what_to_do else "")

    # ---- reading ----

    def read(self, file: File) -> bytes:
        """Read a file, and note it as a table that was read, unless it turns out to be in a study."""
        self._listing.use([(file.url, file.entry)], READ)
        return self._bytes(file)

    def _bytes(self, file: File) -> bytes:
        with Reader(str(self._seek_points)) as reader:
            return reader.read(view_of(file))

    def heads(self, files: Iterable[File], size: int) -> Iterator[tuple[File, bytes | StudyError]]:
        """Read the first bytes of files, or say why they cannot be read, in order. Several are read at once."""
        with Reader(str(self._seek_points)) as reader, ThreadPoolExecutor(_HEADS_AT_ONCE) as threads:
            rest = iter(files)
            while some := list(itertools.islice(rest, 8 * _HEADS_AT_ONCE)):
                yield from zip(some, threads.map(lambda file: _head(reader, file, size), some), strict=True)

    def learned(self, look: Callable[[File, bytes], str], size: int) -> Iterator[tuple[File, str]]:
        """Apply `look` to each file and its first `size` bytes; yields files and facts, by name.

        Facts are JSON. Where `look` raises a StudyError, they are its reason. The facts of an unchanged file are taken
        from the earlier index.
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

    def rows(self, table: File, needed: Sequence[str], known: Sequence[str] = ()) -> Iterator[Row]:
        """Read the rows of a CSV or CSV.gz file by column name. ConfigError where it is no such file."""
        return read_rows(self._unpacked(table), table.url, needed, known)

    def list_of_names(self, listed: File) -> list[str]:
        """Read a text file that lists names of files; their folders are dropped."""
        return read_names(self._unpacked(listed), listed.url)

    def _unpacked(self, file: File) -> bytes:
        data = self.read(file)
        if file.suffix != ".gz":
            return data
        try:
            return gzip.decompress(data)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ConfigError(f"{file.url}: not a CSV file packed with gzip ({error})") from None

    # ---- listing ----

    def _open_containers(self) -> None:
        """List the contents of containers, once, and set copies aside."""
        if self._opened:
            return
        self._opened = True
        self.lost = self._contents.add()
        for copy in set_aside(self._listing, self._is_same):
            repeats = "a folder repeats another" if self.pseudonyms else f"{copy.folder} repeats {copy.original}"
            console.log(f"{repeats}: {copy.files:,} files are left out (copy_of_archive)")

    def _is_same(self, first: File, second: File) -> bool:
        try:
            return self._bytes(first) == self._bytes(second)
        except StudyError:
            return False

    def _add(self, listed: storage.Object) -> None:
        name, url = self._name(listed), as_text(listed.url)
        aside = why_aside(name)
        if listed.url == self.archive and not format_by_name(name):
            aside = None  # a person has named this file
        if listed.kind == "denied" and not aside:
            raise StoreError(f"{listed.url}: a folder that cannot be listed (access denied)")
        if not name or url != listed.url:
            aside = "unusable_name"
        container = is_container(url) and not (aside or listed.kind)
        self._listing.add_object(as_text(name), listed._replace(url=url), container, aside or listed.kind or None)

    def _name(self, listed: storage.Object) -> str:
        if listed.url == self.archive:
            return listed.url.rpartition("/")[2]
        return plain_name(listed.url.removeprefix(self.archive.rstrip("/") + "/"))


def _listing(archive: str) -> Iterator[storage.Object]:
    """List every object once. A store whose pages overlap lists one twice."""
    last = None
    try:
        for listed in storage.listing(archive, everything=True):
            if listed.url != last:
                yield listed
            last = listed.url
    except PermissionError as error:
        raise StoreError(f"{archive}: cannot be listed ({error})") from error


def _head(reader: Reader, file: File, size: int) -> bytes | StudyError:
    try:
        return reader.head(view_of(file), size)
    except StudyError as error:
        return error


def view_of(file: File, view_position: str | None = None) -> View:
    """Make the view that a file holds."""
    return View(**_place(file), view_position=view_position)


def mask_of(file: File, view: int = 0) -> MaskView:
    """Make the mask that a file holds, of the study's view number `view`."""
    return MaskView(**_place(file), view=view)


def _place(file: File) -> dict[str, Any]:
    """The fields that a view takes from its file: all but its name in the archive."""
    return {name: getattr(file, name) for name in _PLACE}


_PLACE = ("url", "entry", "offset", "length", "compression", "version", "crc32")

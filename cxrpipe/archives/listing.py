"""The files of an archive in a database on disk, where they are listed once, looked up and counted."""

import dataclasses
import operator
import weakref
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

from cxrpipe import storage
from cxrpipe.archives.aside import why_left
from cxrpipe.archives.containers.files import File, Link
from cxrpipe.storage import spill

FILES = "files.parquet"
"""Name of the file beside a study table in which `kept` saves a listing."""
BATCH_ROWS = 10_000
_NAMES = [field.name for field in dataclasses.fields(File)]
COLUMNS = ", ".join(_NAMES)
"""The fields of a `File`, as columns of a query."""
_TABLES = f"""
CREATE TABLE files (number INTEGER PRIMARY KEY, {COLUMNS}, is_container, aside);
CREATE TABLE facts (number INTEGER PRIMARY KEY, facts, passing);
CREATE TABLE uses (url, entry, use);
"""
OBJECT, FILE = "entry IS NULL AND aside IS NULL", "NOT is_container AND aside IS NULL"
"""Conditions on rows. OBJECT: objects of the store. FILE: files, without containers and without what stands aside."""
IN_A_STUDY, LEFT_OUT, READ = range(3)
"""What becomes of a file: it is a view or a mask; it is skipped; it is a table that was read."""
UNLEARNED = f"{FILE} AND number NOT IN (SELECT number FROM facts)"
_MOST_LINKS = 16
"""Most links in a chain of links that lead to links."""
_OBJECT = 1 << 32
"""Numbers of objects are multiples of this. The entries of a container follow its number, so rows keep their order."""


class Listing:
    """Files by number, and what becomes of them. Numbers follow the order of names and of entries."""

    def __init__(self) -> None:
        self.database = spill.database(_TABLES)
        self._objects = 0
        self._uses: list[tuple[str, str, int]] = []
        weakref.finalize(self, self.database.close)

    # ---- filling ----

    def add_object(self, name: str, place: storage.Object, is_container: bool, aside: str | None) -> None:
        """Add an object of the store under its name in the archive, with the reason why it stands aside."""
        self._objects += 1
        file = File(name=name, url=place.url, length=place.size, version=place.version)
        self._insert([_row(self._objects * _OBJECT, file, is_container, aside)])

    def add_entries(self, container: int, files: Iterable[tuple[File, str | None]]) -> None:
        """Add files, and why they stand aside, behind those that the container has already."""
        last = "SELECT ifnull(max(number), ?) FROM files WHERE number BETWEEN ? AND ?"
        first = self._value(last, container, *entries_of(container)) + 1
        self._insert(_row(number, file, False, aside) for number, (file, aside) in enumerate(files, start=first))

    def linked(self, container: int, links: Sequence[Link]) -> Iterator[tuple[Link, File | None]]:
        """Find the file that each link of a container leads to, under the name of the link; None: there is none."""
        if not links:
            return
        target_of = {link.name: link.target for link in links}
        wanted = set(target_of.values())
        inside = self._numbered("number BETWEEN ? AND ?", *entries_of(container))
        file_named = {file.name: file for _, file in inside if file.name in wanted}
        for link in links:
            target = link.target
            for _ in range(_MOST_LINKS):
                if target in target_of and target not in file_named:
                    target = target_of[target]
            file = file_named.get(target or "")
            yield link, dataclasses.replace(file, name=link.name) if file else None

    def _insert(self, rows: Iterable[tuple[Any, ...]]) -> None:
        self.database.executemany(f"INSERT INTO files VALUES (?, {placeholders(_NAMES)}, ?, ?)", rows)

    def use(self, files: Iterable[tuple[str, str | None]], use: int) -> None:
        """Note what becomes of files, given by their url and entry."""
        self._uses += [(url, entry or "", use) for url, entry in files]
        if len(self._uses) >= BATCH_ROWS:
            self._write_uses()

    def _write_uses(self) -> None:
        self.database.executemany("INSERT INTO uses VALUES (?, ?, ?)", self._uses)
        self._uses.clear()

    def learn(self, number: int, facts: str, passing: bool = False) -> None:
        """Note what opening a file has told. A passing fact may differ next time, so the next index does not get it."""
        self.database.execute("INSERT OR REPLACE INTO facts VALUES (?, ?, ?)", (number, facts, passing))

    # ---- asking ----

    def containers(self) -> list[tuple[int, File]]:
        return list(self._numbered("is_container"))

    def files(self) -> Iterator[File]:
        return (file for _, file in self._numbered(FILE))

    def file(self, number: int) -> File:
        return next(file for _, file in self._numbered("number = ?", number))

    def unlearned(self) -> Iterator[tuple[int, File]]:
        """Files that have not been opened yet, with their numbers."""
        return self._numbered(UNLEARNED)

    def learned(self) -> Iterator[tuple[File, str]]:
        """Files that have been opened, by name, and the facts learned of them."""
        query = f"SELECT {COLUMNS}, facts FROM files JOIN facts USING (number) WHERE {FILE} ORDER BY name, url"
        return ((file_of(row), row[-1]) for row in self.database.execute(query))

    def learned_of_containers(self) -> Iterator[str]:
        """The facts learned of containers, in their order: what each has lost."""
        query = "SELECT facts FROM files JOIN facts USING (number) WHERE is_container ORDER BY number"
        return (row[0] for row in self.database.execute(query))

    def aside(self) -> Iterator[tuple[File, str]]:
        """Files that stand aside, and why."""
        query = f"SELECT {COLUMNS}, aside FROM files WHERE aside IS NOT NULL ORDER BY number"
        return ((file_of(row), row[-1]) for row in self.database.execute(query))

    def left(self) -> Iterator[tuple[File, str | None]]:
        """Files that are in no study and not skipped yet, and why; None: a table that was read."""
        self._write_uses()
        self.database.execute("CREATE INDEX IF NOT EXISTS uses_of ON uses (url, entry, use)")
        use_of = "(SELECT min(use) FROM uses WHERE uses.url = files.url AND uses.entry = ifnull(files.entry, ''))"
        query = f"""SELECT * FROM (SELECT {COLUMNS}, aside, {use_of} AS use, number FROM files WHERE NOT is_container)
        WHERE ifnull(use, ?) >= ? ORDER BY number"""
        for row in self.database.execute(query, (READ, READ)):
            file = file_of(row)
            aside, use = row[len(_NAMES) : len(_NAMES) + 2]
            yield file, None if use == READ else aside or why_left(file)

    def names(self, which: str) -> Iterator[str]:
        return (row[0] for row in self.database.execute(f"SELECT name FROM files WHERE {which} ORDER BY number"))

    def count(self, which: str) -> int:
        return self._value(f"SELECT count(*) FROM files WHERE {which}")

    def index_names(self) -> None:
        """Prepare look-ups of files by name; takes a second for each million files."""
        self.database.execute("CREATE INDEX IF NOT EXISTS files_by_name ON files (name)")

    def is_only(self, name: str) -> bool:
        """Whether exactly one file has that name."""
        self.index_names()
        return self._value(f"SELECT count(*) FROM files WHERE name = ? AND {FILE}", name) == 1

    def find(self, basename: str, which: str = FILE) -> File | None:
        """The first file whose name ends in one like `train_*.csv`."""
        like = f"{which} AND (name GLOB ? OR name GLOB ?)"  # `*` of GLOB matches slashes too, so pathlib decides
        files = (file for _, file in self._numbered(like, basename, f"*/{basename}"))
        return next((file for file in files if PurePosixPath(file.name).match(basename)), None)

    def _numbered(self, which: str, *values: str | int) -> Iterator[tuple[int, File]]:
        query = f"SELECT {COLUMNS}, number FROM files WHERE {which} ORDER BY number"
        return ((row[-1], file_of(row)) for row in self.database.execute(query, values))

    def _value(self, query: str, *values: str | int) -> int:
        return int(self.database.execute(query, values).fetchone()[0])


class Names(Collection[str]):
    """Names of the objects or of the files in a listing, in their order."""

    def __init__(self, listing: Listing, which: str) -> None:
        self._listing, self._which = listing, which

    def __iter__(self) -> Iterator[str]:
        return self._listing.names(self._which)

    def __len__(self) -> int:
        return self._listing.count(self._which)

    def __contains__(self, name: object) -> bool:
        return any(name == listed for listed in self)

    def find(self, basename: str) -> str | None:
        """The first name that ends in one like `train_*.csv`."""
        file = self._listing.find(basename, self._which)
        return file.name if file else None


def entries_of(container: int) -> tuple[int, int]:
    """The smallest and the largest number that an entry of a container may have."""
    return container + 1, container + _OBJECT - 1


def _row(number: int, file: File, is_container: bool, aside: str | None) -> tuple[Any, ...]:
    return (number, *fields(file), is_container, aside)


fields = operator.attrgetter(*_NAMES)
"""Turns a file into a tuple, which is pickled in a third of the time."""


def file_of(row: Sequence[Any]) -> File:
    """Make a file from what `fields` gave. Further values in the row are ignored."""
    return File(**dict(zip(_NAMES, row, strict=False)))


def placeholders(columns: Sequence[str]) -> str:
    return ", ".join("?" * len(columns))

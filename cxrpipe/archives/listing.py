"""The files of an archive on disk: listed once, looked up and counted there, and kept beside the study table.

What is kept (`files.parquet`) is what the next index needs to open nothing that has not changed.
"""

import dataclasses
import operator
import typing
import weakref
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from cxrpipe import storage
from cxrpipe.archives.aside import why_left
from cxrpipe.archives.containers.files import File, Link
from cxrpipe.storage import spill

FILES = "files.parquet"
FILES_VERSION = "2"
"""Of its columns and of the facts in them; files that another version has kept are not used."""
_ROWS = 10_000
_TYPES = {str: pa.string(), int: pa.int64()}


def _column(field: dataclasses.Field) -> pa.Field:
    kind, *_ = typing.get_args(field.type) or (field.type,)
    return pa.field(field.name, _TYPES[kind], nullable=field.type is not kind)


FILES_SCHEMA = pa.schema(
    [
        *map(_column, dataclasses.fields(File)),
        pa.field("is_container", pa.bool_(), nullable=False),
        pa.field("aside", pa.string()),  # a word of `aside.MEANINGS`, where no layout is to see the file
        pa.field("facts", pa.string()),  # what was learned by opening the file, as JSON
    ],
    metadata={"files_version": FILES_VERSION},
)
_NAMES = [field.name for field in dataclasses.fields(File)]
_FIELDS = ", ".join(_NAMES)
_TABLES = f"""
CREATE TABLE files (number INTEGER PRIMARY KEY, {_FIELDS}, is_container, aside);
CREATE TABLE facts (number INTEGER PRIMARY KEY, facts, passing);
CREATE TABLE previous (number INTEGER PRIMARY KEY, {_FIELDS}, is_container, aside, facts);
CREATE TABLE uses (url, entry, use);
"""
OBJECT, FILE = "entry IS NULL AND aside IS NULL", "NOT is_container AND aside IS NULL"
"""Which rows are objects of the store, and which are files: not the containers themselves, nor what stands aside."""
IN_A_STUDY, LEFT_OUT, READ = range(3)
"""What becomes of a file: a view or a mask, a line of the skipped, or a table that was read."""
UNLEARNED = f"{FILE} AND number NOT IN (SELECT number FROM facts)"
_MOST_LINKS = 16
"""In a chain of links that lead to links."""
_OBJECT = 1 << 32
"""An object's number is a multiple of it; those of a container's entries follow, so that all stand in their order."""


class Listing:
    """Files by number. `previous` ones are those of the index before, to be taken over where nothing has changed."""

    def __init__(self) -> None:
        self.database = spill.database(_TABLES)
        self._objects = 0
        self._uses: list[tuple[str, str, int]] = []
        weakref.finalize(self, self.database.close)

    # ---- filling ----

    def add_object(self, name: str, found: storage.Object, is_container: bool, aside: str | None) -> None:
        self._objects += 1
        self._insert([_row(self._objects * _OBJECT, _plain(name, found), is_container, aside)])

    def add_entries(self, container: int, files: Iterable[tuple[File, str | None]]) -> None:
        """Files, and why they stand aside, behind those that the container has already."""
        last = "SELECT ifnull(max(number), ?) FROM files WHERE number BETWEEN ? AND ?"
        first = self.database.execute(last, (container, *entries_of(container))).fetchone()[0] + 1
        self._insert(_row(number, file, False, aside) for number, (file, aside) in enumerate(files, start=first))

    def linked(self, container: int, links: Sequence[Link]) -> Iterator[tuple[Link, File | None]]:
        """The files of a container that its links lead to, each under the name of the link."""
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

    def _insert(self, rows: Iterable[tuple]) -> None:
        self.database.executemany(f"INSERT INTO files VALUES (?, {_places(_NAMES)}, ?, ?)", rows)

    def use(self, files: Iterable[tuple[str, str | None]], use: int) -> None:
        """Note what becomes of files, by their url and entry."""
        self._uses += [(url, entry or "", use) for url, entry in files]
        if len(self._uses) >= _ROWS:
            self._write_uses()

    def _write_uses(self) -> None:
        self.database.executemany("INSERT INTO uses VALUES (?, ?, ?)", self._uses)
        self._uses.clear()

    def learn(self, number: int, facts: str, passing: bool = False) -> None:
        """What opening a file has told; a passing fact may be another next time, so it is not kept."""
        self.database.execute("INSERT OR REPLACE INTO facts VALUES (?, ?, ?)", (number, facts, passing))

    # ---- asking ----

    def containers(self) -> list[tuple[int, File]]:
        return list(self._numbered("is_container"))

    def files(self) -> Iterator[File]:
        return (file for _, file in self._numbered(FILE))

    def file(self, number: int) -> File:
        return next(file for _, file in self._numbered("number = ?", number))

    def unlearned(self) -> Iterator[tuple[int, File]]:
        """Files of which nothing is known yet."""
        return self._numbered(UNLEARNED)

    def learned(self) -> Iterator[tuple[File, str]]:
        """Files of which something is known, by name, and what."""
        query = f"SELECT {_FIELDS}, facts FROM files JOIN facts USING (number) WHERE {FILE} ORDER BY name, url"
        return ((file_of(row), row[-1]) for row in self.database.execute(query))

    def learned_of_containers(self) -> Iterator[str]:
        """What each of them has lost, in their order."""
        query = "SELECT facts FROM files JOIN facts USING (number) WHERE is_container ORDER BY number"
        return (row[0] for row in self.database.execute(query))

    def aside(self) -> Iterator[tuple[File, str]]:
        query = f"SELECT {_FIELDS}, aside FROM files WHERE aside IS NOT NULL ORDER BY number"
        return ((file_of(row), row[-1]) for row in self.database.execute(query))

    def left(self) -> Iterator[tuple[File, str | None]]:
        """Files that are in no study and not skipped yet, and why; None: a table that was read."""
        self._write_uses()
        self.database.execute("CREATE INDEX IF NOT EXISTS uses_of ON uses (url, entry, use)")
        use_of = "(SELECT min(use) FROM uses WHERE uses.url = files.url AND uses.entry = ifnull(files.entry, ''))"
        query = f"""SELECT * FROM (SELECT {_FIELDS}, aside, {use_of} AS use, number FROM files WHERE NOT is_container)
        WHERE ifnull(use, ?) >= ? ORDER BY number"""
        for row in self.database.execute(query, (READ, READ)):
            file = file_of(row)
            aside, use = row[len(_NAMES) : len(_NAMES) + 2]
            yield file, None if use == READ else aside or why_left(file)

    def names(self, which: str) -> Iterator[str]:
        return (row[0] for row in self.database.execute(f"SELECT name FROM files WHERE {which} ORDER BY number"))

    def count(self, which: str) -> int:
        return self.database.execute(f"SELECT count(*) FROM files WHERE {which}").fetchone()[0]

    def index_names(self) -> None:
        """Before files are looked up by their names: a second for each million."""
        self.database.execute("CREATE INDEX IF NOT EXISTS files_by_name ON files (name)")

    def is_only(self, name: str) -> bool:
        self.index_names()
        return (
            self.database.execute(f"SELECT count(*) FROM files WHERE name = ? AND {FILE}", (name,)).fetchone()[0] == 1
        )

    def find(self, basename: str, which: str = FILE) -> File | None:
        """The first whose name ends in one like `train_*.csv`."""
        like = f"{which} AND (name GLOB ? OR name GLOB ?)"  # whose `*` takes slashes too: pathlib has the last word
        found = (file for _, file in self._numbered(like, basename, f"*/{basename}"))
        return next((file for file in found if PurePosixPath(file.name).match(basename)), None)

    def _numbered(self, which: str, *values: str | int) -> Iterator[tuple[int, File]]:
        query = f"SELECT {_FIELDS}, number FROM files WHERE {which} ORDER BY number"
        return ((row[-1], file_of(row)) for row in self.database.execute(query, values))

    # ---- from one index to the next ----

    def load_previous(self, url: str) -> bool:
        """Read the files of another index; False where another version of this program has kept them."""
        with storage.open_seekable(url) as stream:
            kept = pq.ParquetFile(stream)
            if (kept.schema_arrow.metadata or {}).get(b"files_version") != FILES_VERSION.encode():
                return False
            number = 0
            for batch in kept.iter_batches(_ROWS):
                rows = zip(range(number, number + batch.num_rows), *batch.to_pydict().values(), strict=True)
                self.database.executemany(f"INSERT INTO previous VALUES (?, {_places(_NAMES)}, ?, ?, ?)", rows)
                number += batch.num_rows
        self.database.execute("CREATE INDEX previous_url ON previous (url)")
        return True

    def is_as_before(self, container: File) -> bool:
        rows = self.database.execute(
            """SELECT 1 FROM previous WHERE is_container AND facts IS NOT NULL
            AND url = ? AND length = ? AND version = ?""",
            (container.url, container.length, container.version),
        )
        return rows.fetchone() is not None

    def had_seek_points(self, container: File) -> bool:
        query = "SELECT 1 FROM previous WHERE url = ? AND compression = 'gzip' LIMIT 1"
        return self.database.execute(query, (container.url,)).fetchone() is not None

    def take_over_entries(self, number: int, container: File) -> None:
        """The entries of a container that is as it was before, and what was learned of them."""
        self.database.execute(
            f"""INSERT INTO files SELECT
                ? + row_number() OVER (ORDER BY number), {_FIELDS}, is_container, nullif(aside, 'copy_of_archive')
            FROM previous WHERE url = ? AND entry IS NOT NULL""",
            (number, container.url),
        )
        self.database.execute(
            """INSERT INTO facts SELECT ? + nth, facts, FALSE FROM (
                SELECT row_number() OVER (ORDER BY number) AS nth, facts FROM previous
                WHERE url = ? AND entry IS NOT NULL
            ) WHERE facts IS NOT NULL""",
            (number, container.url),
        )

    def take_over_facts(self) -> None:
        """What was learned of the objects that are as they were before."""
        self.database.execute(
            """INSERT INTO facts SELECT files.number, previous.facts, FALSE FROM files JOIN previous USING (url)
            WHERE files.entry IS NULL AND previous.entry IS NULL AND previous.facts IS NOT NULL
            AND files.length = previous.length AND files.version = previous.version"""
        )

    def save(self, path: Path) -> None:
        rows = self.database.execute(
            f"""SELECT {_FIELDS}, is_container, aside, iif(passing, NULL, facts)
            FROM files LEFT JOIN facts USING (number) ORDER BY number"""
        )
        with pq.ParquetWriter(path, FILES_SCHEMA, compression="zstd") as file:
            while some := rows.fetchmany(_ROWS):
                columns = [pa.array(column) for column in zip(*some, strict=True)]
                table = pa.Table.from_arrays(columns, names=FILES_SCHEMA.names)
                file.write_table(table.cast(FILES_SCHEMA))


class Names(Collection[str]):
    """Names of a listing's objects or of its files, in their order."""

    def __init__(self, listing: Listing, which: str) -> None:
        self._listing, self._which = listing, which

    def __iter__(self) -> Iterator[str]:
        return self._listing.names(self._which)

    def __len__(self) -> int:
        return self._listing.count(self._which)

    def __contains__(self, name: object) -> bool:
        return any(name == each for each in self)

    def find(self, basename: str) -> str | None:
        """The first that ends in a name like `train_*.csv`."""
        found = self._listing.find(basename, self._which)
        return found.name if found else None


def entries_of(container: int) -> tuple[int, int]:
    """The least and the greatest number that an entry of a container may have."""
    return container + 1, container + _OBJECT - 1


def _plain(name: str, found: storage.Object) -> File:
    return File(name=name, url=found.url, length=found.size, version=found.version)


def _row(number: int, file: File, is_container: bool, aside: str | None) -> tuple:
    return (number, *fields(file), is_container, aside)


fields = operator.attrgetter(*_NAMES)
"""A file → a tuple, which is pickled in a third of the time."""


def file_of(row: Sequence) -> File:
    """A file of what `fields` gave, and whatever stands behind it."""
    return File(**dict(zip(_NAMES, row, strict=False)))


def _places(values: Sequence) -> str:
    return ", ".join("?" * len(values))

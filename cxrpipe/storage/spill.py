"""Collections that may not fit into memory: keys seen before, groups and sorted rows, in temporary SQLite databases.

A temporary database lives in memory while it is small and in a nameless file (TMPDIR) when it is not. Its content is
gone once it is closed. 32 MB are cached.
"""

import contextlib
import itertools
import pickle
import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any

_SETTINGS = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA temp_store = FILE;
PRAGMA cache_size = -32768;
"""


def database(tables: str) -> sqlite3.Connection:
    """Make a temporary database with these tables. One transaction never ends, since nothing is to be kept."""
    connection = sqlite3.connect("", isolation_level=None, check_same_thread=False)
    connection.executescript(f"{_SETTINGS} {tables} BEGIN;")
    return connection


class Seen:
    """A set of texts that only grows."""

    def __init__(self) -> None:
        self._database = database("CREATE TABLE seen (key TEXT PRIMARY KEY) WITHOUT ROWID;")
        self._count = 0

    def add(self, key: str) -> bool:
        """Add a text, and say whether it is new."""
        new = self._database.execute("INSERT OR IGNORE INTO seen VALUES (?)", (key,)).rowcount == 1
        self._count += new
        return new

    def __len__(self) -> int:
        return self._count

    def close(self) -> None:
        self._database.close()


class Groups:
    """Values grouped by key. Keys keep the order of their first appearance, values their order. Values are pickled."""

    def __init__(self) -> None:
        self._database = database(
            """
            CREATE TABLE keys (first INTEGER PRIMARY KEY, key TEXT UNIQUE);
            CREATE TABLE members (first INTEGER, number INTEGER, value BLOB, PRIMARY KEY (first, number)) WITHOUT ROWID;
            """
        )
        self._count = 0

    def add(self, key: str, value: Any) -> None:
        self._count += 1
        self._database.execute("INSERT OR IGNORE INTO keys VALUES (?, ?)", (self._count, key))
        row = (self._count, pickle.dumps(value), key)
        self._database.execute("INSERT INTO members SELECT first, ?, ? FROM keys WHERE key = ?", row)

    def __iter__(self) -> Iterator[tuple[str, list[Any]]]:
        rows = self._database.execute("SELECT key, value FROM members JOIN keys USING (first) ORDER BY first, number")
        for key, group in itertools.groupby(rows, key=lambda row: row[0]):
            yield key, [pickle.loads(value) for _, value in group]

    def close(self) -> None:
        self._database.close()


def in_order(rows: Iterable[tuple[str, str]]) -> Iterator[tuple[Any, ...]]:
    """Sort pairs of texts as Python sorts them: by code point."""
    with contextlib.closing(database("CREATE TABLE pairs (a TEXT, b TEXT);")) as pairs:
        pairs.executemany("INSERT INTO pairs VALUES (?, ?)", rows)
        yield from pairs.execute("SELECT a, b FROM pairs ORDER BY a, b")

"""Sets files aside that an archive holds twice because somebody packed, unpacked or copied it once too often.

Three kinds of copies are known: a folder inside a folder of the same name (`chest_xray/chest_xray`, as in a zip of
Kaggle), a container beside the folder that it was unpacked to, and a folder that a desktop names as a copy
(`xray - Copy`, `xray (1)`). A file of the copy is set aside where the original has a twin: a file of the same name,
with the same checksum, or with the same size where a checksum is missing. Before that, some pairs are read and
compared. Files without a twin stay.
"""

import functools
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from cxrpipe.archives.containers.files import CONTAINERS, File
from cxrpipe.archives.listing import FILE, Listing, entries_of

_READ = 8
"""Pairs that are read and compared."""
_PROBED = 3
"""Entries of a container that are looked up beside the container."""
_CALLED_COPY = re.compile(
    r"(?:Copy of (?P<of>.+?)|(?P<name>.+?)(?: - Copy(?: \(\d+\))?| copy(?: \d+)?| ?\(\d+\)))"
    r"(?P<suffix>\.(?:tar\.gz|tgz|tar|zip))?"
)
_TABLES = """
CREATE TABLE IF NOT EXISTS twins (number INTEGER, folder, original, name);
CREATE TABLE IF NOT EXISTS pairs (number INTEGER, twin INTEGER, folder, original);
"""


class Copy(NamedTuple):
    """A folder or container that repeats another one."""

    folder: str
    original: str
    files: int


def set_aside(listing: Listing, is_same: Callable[[File, File], bool]) -> Iterator[Copy]:
    """Set aside the files of copies, and yield the copies."""
    database = listing.database
    for statement in _TABLES.split(";"):
        database.execute(statement)
    database.executemany("INSERT INTO twins VALUES (?, ?, ?, ?)", _candidates(listing))
    if not database.execute("SELECT 1 FROM twins LIMIT 1").fetchone():
        return
    listing.index_names()
    database.execute(
        f"""INSERT INTO pairs SELECT copy.number, min(original.number), folder, twins.original
        FROM twins JOIN files copy USING (number) JOIN files original ON original.name = twins.name
        WHERE NOT original.is_container AND original.aside IS NULL AND {_ALIKE} GROUP BY copy.number, folder"""
    )
    counts = "SELECT folder, original, count(*) FROM pairs GROUP BY folder, original"
    for folder, original, paired in database.execute(counts).fetchall():
        if all(is_same(*pair) for pair in _some(listing, folder, paired)):
            aside = "SET aside = 'copy_of_archive' WHERE number IN (SELECT number FROM pairs WHERE folder = ?)"
            database.execute(f"UPDATE files {aside}", (folder,))
            yield Copy(folder, original, paired)


_ALIKE = """CASE
    WHEN copy.crc32 IS NOT NULL AND original.crc32 IS NOT NULL THEN copy.crc32 = original.crc32
    WHEN 'deflate' IN (copy.compression, original.compression) THEN TRUE
    ELSE copy.length = original.length
END"""
"""Condition for twins. The length of a deflated entry is not that of its file, so only checksums can be compared."""


def _candidates(listing: Listing) -> Iterator[tuple[int, str, str, str]]:
    """Yield files that may be copies: their number, folder, original folder, and the name that a twin would have."""
    for number, name in listing.database.execute(f"SELECT number, name FROM files WHERE {FILE} ORDER BY number"):
        folder, _, last = name.rpartition("/")
        if folder and (pair := _original_of(folder)):
            copy, original, twin = pair
            yield number, copy, original, f"{twin}/{last}"
    yield from _unpacked(listing)


@functools.lru_cache(maxsize=1024)
def _original_of(folder: str) -> tuple[str, str, str] | None:
    """Return the copy that a folder may lie in, its original, and the same folder in the original, as paths."""
    parts = folder.split("/")
    for place, part in enumerate(parts):
        above = parts[:place]
        if place and parts[place - 1] == part:
            return "/".join([*above, part]), "/".join(above), "/".join([*above, *parts[place + 1 :]])
        if named := _CALLED_COPY.fullmatch(part):
            real = (named["of"] or named["name"]) + (named["suffix"] or "")
            return "/".join([*above, part]), "/".join([*above, real]), "/".join([*above, real, *parts[place + 1 :]])
    return None


def _unpacked(listing: Listing) -> Iterator[tuple[int, str, str, str]]:
    """Yield entries of containers that may lie unpacked beside them, in a folder of the container's name or in none."""
    database = listing.database
    containers = [container for container in listing.containers() if container[1].name]
    if not containers or not database.execute(f"SELECT 1 FROM files WHERE entry IS NULL AND {FILE} LIMIT 1").fetchone():
        return
    listing.index_names()
    for number, container in containers:
        stem = next(container.name[: -len(end)] for end in CONTAINERS if container.name.lower().endswith(end))
        for original in (f"{stem}/", container.name.rpartition("/")[0] + "/"):
            original = original.removeprefix("/")
            if any(_is_plain(listing, original + name) for _, name in _entries(listing, number, container, _PROBED)):
                inside = _entries(listing, number, container, -1)
                yield from ((entry, container.name, original, original + name) for entry, name in inside)
                break


def _entries(listing: Listing, place: int, container: File, most: int) -> Iterator[tuple[int, str]]:
    """Yield the number of an entry, and its name inside the container."""
    query = f"SELECT number, name FROM files WHERE number BETWEEN ? AND ? AND {FILE} ORDER BY number LIMIT ?"
    for number, name in listing.database.execute(query, (*entries_of(place), most)):
        yield number, name.removeprefix(f"{container.name}/")


def _is_plain(listing: Listing, name: str) -> bool:
    query = f"SELECT 1 FROM files WHERE name = ? AND entry IS NULL AND {FILE}"
    return listing.database.execute(query, (name,)).fetchone() is not None


def _some(listing: Listing, folder: str, paired: int) -> Iterator[tuple[File, File]]:
    """Yield pairs spread over all `paired` files of a copy."""
    step = max(1, paired // _READ)
    query = """SELECT number, twin FROM (SELECT number, twin, row_number() OVER (ORDER BY number) - 1 AS nth FROM pairs
    WHERE folder = ?) WHERE nth % ? = 0 LIMIT ?"""
    for numbers in listing.database.execute(query, (folder, step, _READ)).fetchall():
        copy, original = map(listing.file, numbers)
        yield copy, original

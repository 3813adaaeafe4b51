"""`files.parquet`: the files of an archive, kept beside the study table. The next index opens only what has changed."""

import dataclasses
import typing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cxrpipe import console, storage
from cxrpipe.archives.containers.files import File
from cxrpipe.archives.containers.gzips import keep_seek_points
from cxrpipe.archives.listing import BATCH_ROWS, COLUMNS, FILES, Listing, placeholders
from cxrpipe.errors import ConfigError
from cxrpipe.records.study_table import SEEK_POINTS

FILES_VERSION = "2"
"""Version of the columns and of the facts in them. A file of another version is not used."""
_TYPES = {str: pa.string(), int: pa.int64()}


def _column(field: "dataclasses.Field[typing.Any]") -> pa.Field:
    kind, *_ = typing.get_args(field.type) or (field.type,)
    return pa.field(field.name, _TYPES[kind], nullable=field.type is not kind)


FILES_SCHEMA = pa.schema(
    [
        *map(_column, dataclasses.fields(File)),
        pa.field("is_container", pa.bool_(), nullable=False),
        pa.field("aside", pa.string()),  # a word of `aside.MEANINGS`, where layouts do not see the file
        pa.field("facts", pa.string()),  # what was learned by opening the file, as JSON
    ],
    metadata={"files_version": FILES_VERSION},
)


def save(listing: Listing, path: Path) -> None:
    """Write the files of a listing, and what was learned of them, for the next index."""
    rows = listing.database.execute(
        f"""SELECT {COLUMNS}, is_container, aside, iif(passing, NULL, facts)
        FROM files LEFT JOIN facts USING (number) ORDER BY number"""
    )
    with pq.ParquetWriter(path, FILES_SCHEMA, compression="zstd") as file:
        while batch := rows.fetchmany(BATCH_ROWS):
            columns = [pa.array(column) for column in zip(*batch, strict=True)]
            table = pa.Table.from_arrays(columns, names=FILES_SCHEMA.names)
            file.write_table(table.cast(FILES_SCHEMA))


class Previous:
    """The files of an earlier index, loaded into the database of a listing. What has not changed is taken over.

    folder  url of the folder of the earlier study table
    """

    def __init__(self, listing: Listing, folder: str) -> None:
        self._database = listing.database
        self._folder = folder

    @classmethod
    def load(cls, listing: Listing, folder: str) -> "Previous | None":
        """Read `files.parquet` in a folder; None where another version of this program has written it."""
        try:
            stream = storage.open_seekable(storage.join(folder, FILES))
        except FileNotFoundError:
            raise ConfigError(
                f"{folder}: no {FILES} beside the study table; index without --previous, which writes one"
            ) from None
        with stream:
            kept = pq.ParquetFile(stream)
            if (kept.schema_arrow.metadata or {}).get(b"files_version") != FILES_VERSION.encode():
                console.log(f"{folder}/{FILES} was written by another version of cxrpipe: everything is opened again")
                return None
            listing.database.execute(
                f"CREATE TABLE previous (number INTEGER PRIMARY KEY, {COLUMNS}, is_container, aside, facts)"
            )
            insert = f"INSERT INTO previous VALUES (?, {placeholders(FILES_SCHEMA.names)})"
            number = 0
            for batch in kept.iter_batches(BATCH_ROWS):
                rows = zip(range(number, number + batch.num_rows), *batch.to_pydict().values(), strict=True)
                listing.database.executemany(insert, rows)
                number += batch.num_rows
        listing.database.execute("CREATE INDEX previous_url ON previous (url)")
        return cls(listing, folder)

    def has_unchanged(self, container: File, seek_points: Path) -> bool:
        """Whether a container has not changed. The seek points of such a tar.gz are copied to the folder `seek_points`.

        A tar.gz whose seek points are gone counts as changed, so that they are made again.
        """
        unchanged = """SELECT 1 FROM previous WHERE is_container AND facts IS NOT NULL
            AND url = ? AND length = ? AND version = ?"""
        if not self._database.execute(unchanged, (container.url, container.length, container.version)).fetchone():
            return False
        by_seek_points = "SELECT 1 FROM previous WHERE url = ? AND compression = 'gzip' LIMIT 1"
        if not self._database.execute(by_seek_points, (container.url,)).fetchone():
            return True
        return keep_seek_points(container.url, storage.join(self._folder, SEEK_POINTS), seek_points)

    def take_over_entries(self, number: int, container: File) -> None:
        """Copy the entries of an unchanged container, and what was learned of them, behind the container's `number`."""
        self._database.execute(
            f"""INSERT INTO files SELECT
                ? + row_number() OVER (ORDER BY number), {COLUMNS}, is_container, nullif(aside, 'copy_of_archive')
            FROM previous WHERE url = ? AND entry IS NOT NULL""",
            (number, container.url),
        )
        self._database.execute(
            """INSERT INTO facts SELECT ? + nth, facts, FALSE FROM (
                SELECT row_number() OVER (ORDER BY number) AS nth, facts FROM previous
                WHERE url = ? AND entry IS NOT NULL
            ) WHERE facts IS NOT NULL""",
            (number, container.url),
        )

    def take_over_facts(self) -> None:
        """Copy what was learned of objects that have not changed."""
        self._database.execute(
            """INSERT INTO facts SELECT files.number, previous.facts, FALSE FROM files JOIN previous USING (url)
            WHERE files.entry IS NULL AND previous.entry IS NULL AND previous.facts IS NOT NULL
            AND files.length = previous.length AND files.version = previous.version"""
        )

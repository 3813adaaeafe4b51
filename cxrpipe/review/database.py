"""Opens the DuckDB database of the reading room: in memory, with room to spill, and without access to anything else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.dataset as ds

from cxrpipe import storage
from cxrpipe.errors import ConfigError
from cxrpipe.records import with_columns_of

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

MEMORY = "600MB"
"""Of DuckDB. Tables that are larger are spilled to a temporary folder."""
_HOLE_BYTES, _RANGE_BYTES = 64 << 10, 8 << 20
"""One request to S3 also reads what lies between wanted columns, up to so many bytes: one for the rows of a group."""
_BATCH = 16_000
Source = tuple[str, list[Any]]
"""What stands after FROM, and the parameters in it."""


def open_database(scratch: Path) -> DuckDBPyConnection:
    """An empty database. `scratch`: folder for what does not fit in memory."""
    try:
        import duckdb
    except ImportError:
        raise ConfigError("review needs the package duckdb: pip install 'cxrpipe[review]'") from None
    return duckdb.connect(
        ":memory:",
        config={
            "memory_limit": MEMORY,
            "temp_directory": str(scratch),
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "python_enable_replacements": False,  # a query cannot name a variable of Python
            "preserve_insertion_order": False,
        },
    )


def close_doors(connection: DuckDBPyConnection) -> None:
    """From now on no query can read or write a file, and none can undo that."""
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def parquet(connection: DuckDBPyConnection, name: str, urls: Sequence[str], schema: pa.Schema, scratch: Path) -> Source:
    """Parquet files as one table for `connection`: the columns of `schema`, null where a file lacks one, and of each
    row `file_index`, the place of its file in `urls`, and `file_row_number` in the file.

    On disk DuckDB reads the files. On S3 pyarrow does, since no extension of DuckDB can be installed offline; the
    table can then be read once.
    """
    schema = pa.schema([field.with_nullable(True) for field in schema])  # a version may not have written it
    if any(map(storage.is_s3, urls)):
        connection.register(name, _reader(urls, schema))
        return name, []
    # An empty file gives every column, also where no other file has it. It is the last: places stay as they are.
    empty = scratch / f"{name}.parquet"
    scratch.mkdir(parents=True, exist_ok=True)
    storage.write_table(str(empty), schema.empty_table())
    options = "union_by_name = true, file_row_number = true, hive_partitioning = false"
    return f"(SELECT *, file_index FROM read_parquet(?, {options}))", [[_literal(url) for url in (*urls, str(empty))]]


def _literal(path: str) -> str:
    """A path in which DuckDB sees no pattern."""
    return "".join(f"[{letter}]" if letter in "[*?" else letter for letter in path)


def _reader(urls: Sequence[str], schema: pa.Schema) -> pa.RecordBatchReader:
    places = pa.schema([("file_index", pa.int64()), ("file_row_number", pa.int64())])
    everything = pa.schema([*schema, *places])
    return pa.RecordBatchReader.from_batches(everything, _batches(urls, everything))


def _batches(urls: Sequence[str], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    options = ds.ParquetFragmentScanOptions(
        cache_options=pa.CacheOptions(hole_size_limit=_HOLE_BYTES, range_size_limit=_RANGE_BYTES)
    )
    form = ds.ParquetFileFormat(default_fragment_scan_options=options)
    for file, url in enumerate(urls):
        filesystem, path = storage.filesystem(url)
        dataset = ds.dataset(path, filesystem=filesystem, format=form)
        columns = [name for name in dataset.schema.names if name in schema.names]
        start = 0
        for batch in dataset.scanner(columns=columns, batch_size=_BATCH).to_batches():
            numbers = range(start, start + batch.num_rows)
            table = pa.Table.from_batches([batch])
            table = table.append_column("file_index", pa.array([file] * batch.num_rows, pa.int64()))
            table = table.append_column("file_row_number", pa.array(numbers, pa.int64()))
            yield from with_columns_of(schema, table).select(schema.names).cast(schema).to_batches()
            start += batch.num_rows

"""Reads single rows of the published files: one row group each, at most 1,000 rows, and only the wanted columns."""

from __future__ import annotations

import bisect
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from cxrpipe import storage


class Place(NamedTuple):
    """Where the row of a study lies."""

    study_id: str
    url: str
    row: int
    """Its number in the file."""


class Moved(Exception):  # noqa: N818
    """A file was written anew since its rows were counted: another study stands there now."""


def read_rows(places: Iterable[Place], wants: Callable[[str], bool]) -> dict[str, pa.Table]:
    """Study id → its row, a table of one row, without the columns that are not wanted; Moved where it is not there.

    wants  whether a column is read. `study_id` always is
    """
    of_file = defaultdict[str, list[Place]](list)
    for place in places:
        of_file[place.url].append(place)
    return {study_id: row for url, there in of_file.items() for study_id, row in _read(url, there, wants)}


def _read(url: str, places: Sequence[Place], wants: Callable[[str], bool]) -> Iterable[tuple[str, pa.Table]]:
    try:
        stream = storage.open_seekable(url)
    except FileNotFoundError as error:
        raise Moved(url) from error
    with stream:
        file = pq.ParquetFile(stream)
        columns = [name for name in file.schema_arrow.names if name == "study_id" or wants(name)]
        groups = [file.metadata.row_group(number).num_rows for number in range(file.metadata.num_row_groups)]
        ends = list(itertools.accumulate(groups))
        for place in sorted(places, key=lambda place: place.row):
            number = bisect.bisect_right(ends, place.row)
            if number == len(ends):
                raise Moved(url)
            start = ends[number] - groups[number]
            # One thread: a row group is small, and other requests are answered meanwhile.
            row = file.read_row_group(number, columns, use_threads=False).slice(place.row - start, 1)
            if row["study_id"].to_pylist() != [place.study_id]:
                raise Moved(url)
            yield place.study_id, row

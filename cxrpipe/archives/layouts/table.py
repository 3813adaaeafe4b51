"""One's own table: a CSV or Parquet file that names the images. Several rows of one study are its views."""

import contextlib
import io
import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq

from cxrpipe import storage
from cxrpipe.archives.catalogue import Catalogue, mask_of, view_of
from cxrpipe.archives.containers.entries import File
from cxrpipe.archives.labels import finding, parse_age, parse_label
from cxrpipe.archives.layouts.base import Found, Unmatched
from cxrpipe.archives.listing import Names
from cxrpipe.errors import ConfigError
from cxrpipe.records import SPLITS, Study

NAME = "table"
_SUFFIXES = (".csv", ".parquet")
_COLUMNS = ("study_id", "path")
_PATHS = ("path", "mask_path")
_FEW = 100
"""Objects that are asked for one by one."""


def recognise(names: Names) -> str | None:
    if len(names) == 1 and (name := next(iter(names))).lower().endswith(_SUFFIXES):
        return f"{name} is a table"
    return None


def studies(catalogue: Catalogue) -> Iterator[Found]:
    table = next((file for file in catalogue.files() if file.suffix in _SUFFIXES), None)
    if table is None:
        raise ConfigError(f"{catalogue.archive}: no .csv or .parquet; name the table itself as the archive")
    rows_of: dict[str, list[dict[str, str]]] = {}
    for number, row in enumerate(_rows(catalogue, table), start=2):
        if missing := [column for column in _COLUMNS if not row.get(column)]:
            raise ConfigError(f"{table.url}: line {number} has no {' and no '.join(missing)}")
        rows_of.setdefault(row["study_id"], []).append(row)
    named = (row[column] for rows in rows_of.values() for row in rows for column in _PATHS if row.get(column))
    objects = _Objects(table.url, named)
    found = [_study(study_id, rows, table.url, objects) for study_id, rows in rows_of.items()]
    splits = _split_of_patients([study for study in found if isinstance(study, Study)], table.url)
    for study in found:
        yield replace(study, split=splits.get(_key(study))) if isinstance(study, Study) else study


def _rows(catalogue: Catalogue, table: File) -> Iterator[dict[str, str]]:
    """Every cell as text, empty where there is none."""
    if table.suffix == ".csv":
        rows = catalogue.rows(table)
    else:
        try:
            rows = iter(pq.read_table(io.BytesIO(catalogue.read(table))).to_pylist())
        except pa.ArrowInvalid as error:
            raise ConfigError(f"{table.url}: not a Parquet file ({error})") from None
    for number, row in enumerate(rows, start=2):
        if None in row:
            raise ConfigError(f"{table.url}: line {number} has more cells than the header")
        yield {key: "" if value is None else str(value) for key, value in row.items()}


def _study(study_id: str, rows: list[dict[str, str]], table_url: str, objects: "_Objects") -> Found:
    files = [objects.file(row["path"]) for row in rows]
    if not any(file.version for file in files):
        return Unmatched(study_id)
    masks = [
        mask_of(objects.file(row["mask_path"]), view=number) for number, row in enumerate(rows) if row.get("mask_path")
    ]
    where = f"{table_url}: study {study_id}"
    split = _agreed(rows, "split", where)
    if split not in (*SPLITS, ""):
        raise ConfigError(f"{where}: split {split!r}; expected train, valid or test")
    return Study(
        study_id=study_id,
        patient_id=_agreed(rows, "patient_id", where) or None,
        views=tuple(view_of(file, row.get("view_position") or None) for file, row in zip(files, rows, strict=True)),
        mask_views=tuple(masks),
        split=split or None,
        labels={
            finding(column.removeprefix("label_")): parse_label(_agreed(rows, column, where), where)
            for column in rows[0]
            if column.startswith("label_")
        },
        patient_age=parse_age(_agreed(rows, "patient_age", where)),
        patient_sex=_agreed(rows, "patient_sex", where) or None,
    )


def _agreed(rows: list[dict[str, str]], column: str, where: str) -> str:
    """What the rows of one study say in a column; empty where none says anything."""
    said = sorted({row[column] for row in rows if row.get(column)})
    if len(said) > 1:
        raise ConfigError(f"{where}: {column} is {' and '.join(said)}; expected the same in all rows of one study")
    return said[0] if said else ""


def _split_of_patients(studies: list[Study], table_url: str) -> dict[str, str]:
    """The split that the table gives to a patient, which holds for those of their studies that name none."""
    splits: dict[str, str] = {}
    for study in studies:
        if study.split and splits.setdefault(_key(study), study.split) != study.split:
            raise ConfigError(
                f"{table_url}: patient {study.patient_id} is in {splits[_key(study)]} and in {study.split}; "
                "expected one split for all studies of a patient"
            )
    return splits


def _key(study: Study) -> str:
    return study.patient_id or study.study_id


class _Objects:
    """Size and version of the objects that a table names, relative to it.

    One that is not there has no version: its view will be `missing`.

    A store answers a thousand names at once, where it is asked for a listing; one by one it takes 20 ms each. So the
    folder that holds all of them is listed, unless most of what it holds is something else.
    """

    def __init__(self, table_url: str, paths: Iterable[str]) -> None:
        self._folder = table_url.rpartition("/")[0]
        wanted = {self.url(path) for path in paths}
        self._listed: dict[str, storage.Object] = {}
        if len(wanted) < _FEW or not all(map(storage.is_s3, wanted)):
            return
        common = os.path.commonprefix(list(wanted)).rpartition("/")[0]  # noqa: RUF071  # commonpath breaks `s3://`
        with contextlib.suppress(PermissionError, ConfigError):  # no bucket in common, or one that may not be listed
            for found in itertools.islice(storage.listing(storage.normalise(common)), 10 * len(wanted)):
                if found.url in wanted:
                    self._listed[found.url] = found

    def url(self, path: str) -> str:
        return storage.normalise(path if "://" in path or path.startswith("/") else storage.join(self._folder, path))

    def file(self, path: str) -> File:
        url = self.url(path)
        try:
            found = self._listed.get(url) or storage.stat(url) or storage.Object(url, 0, "")
        except PermissionError:
            found = storage.Object(url, 0, "denied")
        return File(name=path, url=url, length=found.size, version=found.version)

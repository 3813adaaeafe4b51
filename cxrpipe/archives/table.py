"""One's own table: a CSV or Parquet file that names the images. Several rows of one study are its views."""

import io
from collections.abc import Iterator, Sequence

import pyarrow.parquet as pq

from cxrpipe import storage
from cxrpipe.archives.catalogue import Catalogue, mask_of, view_of
from cxrpipe.archives.layout import Found, Unmatched
from cxrpipe.containers import File
from cxrpipe.errors import ConfigError
from cxrpipe.labels import finding, parse_age, parse_label
from cxrpipe.records import SPLITS, Study

NAME = "table"
_SUFFIXES = (".csv", ".parquet")
_COLUMNS = ("study_id", "path")


def recognise(names: Sequence[str]) -> str | None:
    if len(names) == 1 and names[0].lower().endswith(_SUFFIXES):
        return f"{names[0]} is a table"
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
    for study_id, rows in rows_of.items():
        yield _study(study_id, rows, table.url)


def _rows(catalogue: Catalogue, table: File) -> Iterator[dict[str, str]]:
    """Every cell as text, empty where there is none."""
    if table.suffix == ".csv":
        rows = catalogue.rows(table)
    else:
        rows = iter(pq.read_table(io.BytesIO(catalogue.read(table))).to_pylist())
    for row in rows:
        yield {key: "" if value is None else str(value) for key, value in row.items()}


def _study(study_id: str, rows: list[dict[str, str]], table_url: str) -> Found:
    folder = table_url.rpartition("/")[0]
    files = [_file(folder, row["path"]) for row in rows]
    if not any(file.version for file in files):
        return Unmatched(study_id)
    masks = [
        mask_of(_file(folder, row["mask_path"]), view=number) for number, row in enumerate(rows) if row.get("mask_path")
    ]
    where = f"{table_url}: study {study_id}"
    first = rows[0]
    split = first.get("split") or None
    if split not in (*SPLITS, None):
        raise ConfigError(f"{where}: split {split!r}; expected train, valid or test")
    return Study(
        study_id=study_id,
        patient_id=first.get("patient_id") or None,
        views=tuple(view_of(file, row.get("view_position") or None) for file, row in zip(files, rows, strict=True)),
        mask_views=tuple(masks),
        split=split,
        labels={
            finding(column.removeprefix("label_")): parse_label(cell, where)
            for column, cell in first.items()
            if column.startswith("label_")
        },
        patient_age=parse_age(first.get("patient_age", "")),
        patient_sex=first.get("patient_sex") or None,
    )


def _file(folder: str, path: str) -> File:
    """A file named by the table, relative to it. One that is not there has no version: its view will be `missing`."""
    url = storage.normalise(path if "://" in path or path.startswith("/") else storage.join(folder, path))
    found = storage.stat(url) or storage.Object(url, 0, "")
    return File(name=path, url=url, length=found.size, version=found.version)

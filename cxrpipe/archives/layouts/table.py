"""A user's table: a CSV or Parquet file that names the images. Several rows of one study are its views."""

import io
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from cxrpipe.archives.catalogue import Catalogue, mask_of, view_of
from cxrpipe.archives.containers.entries import File
from cxrpipe.archives.csv_files import Row, named_columns
from cxrpipe.archives.labels import (
    NO_VALUE,
    is_nothing,
    names_a_view,
    parse_age,
    parse_label,
    parse_sex,
    parse_view_position,
)
from cxrpipe.archives.layouts.base import CONTRADICTION, KEPT_APART, Found, Layout, Remark, Unmatched, by_patient
from cxrpipe.archives.listing import Names
from cxrpipe.archives.table_objects import Objects, path_of
from cxrpipe.errors import ConfigError
from cxrpipe.models.spelling import finding
from cxrpipe.records import SPLITS, Study

T = TypeVar("T")

COLUMNS = ("study_id", "path")
MORE_COLUMNS = ("patient_id", "view_position", "split", "mask_path", "patient_age", "patient_sex")
_SUFFIXES = (".csv", ".csv.gz", ".tsv", ".parquet")
_TABLE = re.compile(r"table(\.csv|\.csv\.gz|\.tsv|\.parquet)", re.IGNORECASE)
_LABEL = re.compile(r"label[\s_-]+(.+)", re.IGNORECASE)
_NO_VIEW = {*NO_VALUE, "unk", "unknown", "?", "-"}


def recognise(names: Names) -> str | None:
    if len(names) == 1 and (name := next(iter(names))).lower().endswith(_SUFFIXES):
        return f"{name} is a table"
    name = next((name for name in names if _TABLE.fullmatch(name)), "")
    return f"found {name}" if name else None


def studies(catalogue: Catalogue) -> Iterator[Found]:
    table = _table_of(catalogue)
    rows_of: dict[str, list[Row]] = {}
    for row in _rows(catalogue, table):
        if missing := [column for column in COLUMNS if not row[column]]:
            raise ConfigError(f"{row.where} has no {' and no '.join(missing)}")
        for column in ("path", "mask_path"):
            if row.get(column):
                row[column] = path_of(row, column)
        rows_of.setdefault(row["study_id"], []).append(row)
    all_rows = [row for rows in rows_of.values() for row in rows]
    paths = (row[column] for row in all_rows for column in ("path", "mask_path") if row.get(column))
    objects = Objects(catalogue, table, paths)
    objects.refuse_another_machine(all_rows)
    findings = _findings(table, all_rows[0])
    items = [
        item
        for study_id, rows in rows_of.items()
        for item in _of_one_id(study_id, rows, lambda id, some: _study(id, some, findings, objects))
    ]
    splits = _split_of_patients([study for study in items if isinstance(study, Study)], table.url)
    for item in items:
        yield replace(item, split=splits.get(_key(item))) if isinstance(item, Study) else item
    yield from _in_several_studies(all_rows)


def _table_of(catalogue: Catalogue) -> File:
    """Find the table: the archive itself, or the `table.csv` in it, or its only table."""
    tables = [file for file in catalogue.files() if file.name.lower().endswith(_SUFFIXES)]
    tables = [file for file in tables if _TABLE.fullmatch(file.name)] or tables
    if not tables:
        raise ConfigError(f"{catalogue.archive}: no .csv or .parquet; name the table itself as the archive")
    if len(tables) > 1:
        names = ", ".join(file.name for file in tables[:3])
        raise ConfigError(f"{catalogue.archive}: {len(tables)} tables ({names}); name one of them as the archive")
    return tables[0]


def _rows(catalogue: Catalogue, table: File) -> Iterator[Row]:
    """Read the rows. Every cell is text, empty where it has no value."""
    if table.suffix != ".parquet":
        rows = catalogue.rows(table, COLUMNS, MORE_COLUMNS)
    else:
        try:
            rows = _parquet_rows(pq.read_table(io.BytesIO(catalogue.read(table))), table.url)
        except pa.ArrowInvalid as error:
            raise ConfigError(f"{table.url}: not a Parquet file ({error})") from None
    for row in rows:
        row.update({column: "" for column, cell in row.items() if cell.lower() in NO_VALUE})
        yield row


def _parquet_rows(table: pa.Table, name: str) -> Iterator[Row]:
    columns = named_columns(table.column_names, [*COLUMNS, *MORE_COLUMNS], name)
    if missing := [column for column in COLUMNS if column not in columns]:
        raise ConfigError(f"{name}: no column {' and no column '.join(missing)}; its columns are {', '.join(columns)}")
    if not table.num_rows:
        raise ConfigError(f"{name}: a table without rows; expected a row for every image")
    for number, row in enumerate(itertools.chain.from_iterable(b.to_pylist() for b in table.to_batches()), start=1):
        cells = ("" if value is None else str(value).strip() for value in row.values())
        yield Row(zip(columns, cells, strict=True), f"{name}: row {number}")


def _findings(table: File, row: Row) -> dict[str, str]:
    """Map the columns `label_<finding>` to their findings, without "No Finding"."""
    findings: dict[str, str] = {}
    for column in row:
        label = _LABEL.fullmatch(column)
        if label and not is_nothing(label[1]):
            if finding(label[1]).lower() in map(str.lower, findings.values()):
                raise ConfigError(f"{table.url}: two columns of labels for {finding(label[1])}; expected one")
            findings[column] = finding(label[1])
    return findings


def _of_one_id(study_id: str, rows: list[Row], study: Callable[[str, list[Row]], list[Found]]) -> Iterator[Found]:
    """Make the study of an id, or several studies where the rows name several patients."""
    apart = by_patient(study_id, rows, lambda row: row.get("patient_id"))
    for name, some in apart.items():
        yield from study(name, some)
        if len(apart) > 1:
            yield Remark(KEPT_APART, name)


def _study(study_id: str, rows: list[Row], findings: dict[str, str], objects: Objects) -> list[Found]:
    rows_of: dict[str, list[Row]] = {}  # path → its rows: a view that is named twice is one view
    for row in rows:
        rows_of.setdefault(row["path"], []).append(row)
    files = [objects.file(path) for path in rows_of]
    twice: list[Found] = [
        Remark("rows name a view of their study again: one view, masks united", row.where)
        for of_view in rows_of.values()
        for row in of_view[1:]
    ]
    if not any(file.version for file in files):
        return [Unmatched(study_id), *twice]
    masks = {
        (row["mask_path"], view)
        for view, of_view in enumerate(rows_of.values())
        for row in of_view
        if row.get("mask_path")
    }
    labels = {name: _values(rows, column, parse_label) for column, name in findings.items()}
    ages = _values(rows, "patient_age", lambda text, _: parse_age(text))
    sexes = _values(rows, "patient_sex", lambda text, _: parse_sex(text))
    study = Study(
        study_id=study_id,
        patient_id=next((row["patient_id"] for row in rows if row.get("patient_id")), None),
        views=tuple(view_of(file, _position(of_view)) for file, of_view in zip(files, rows_of.values(), strict=True)),
        mask_views=tuple(
            mask_of(objects.file(path), view=view) for path, view in sorted(masks, key=lambda m: (m[1], m[0]))
        ),
        split=_split(rows),
        labels={name: _only(values) for name, values in labels.items()},
        patient_age=_only(ages),
        patient_sex=_only(sexes),
    )
    contradict = len(ages) > 1 or len(sexes) > 1 or any(len(values) > 1 for values in labels.values())
    return [study, *twice, *([Remark(CONTRADICTION, study_id)] if contradict else [])]


def _values(rows: Iterable[Row], column: str, parse: Callable[[str, str], T | None]) -> set[T]:
    """Parse a column of the rows of one study into the set of its values; empty cells have none."""
    values = (parse(row[column], f"{row.where}: study {row['study_id']}") for row in rows if row.get(column))
    return {value for value in values if value is not None}


def _only(values: set[T]) -> T | None:
    """The value on which all rows agree; None where they contradict each other or have none."""
    return next(iter(values)) if len(values) == 1 else None


def _position(rows: Sequence[Row]) -> str | None:
    """The view position of one view, on which all of its rows must agree."""
    positions = set()
    for row in rows:
        text = row.get("view_position") or ""
        if text.lower() in _NO_VIEW:
            continue
        if not names_a_view(text):
            raise ConfigError(
                f"{row.where}: view_position {text!r}; expected PA, AP, LL, RL or LATERAL, or words for them such as "
                "Frontal, AP supine, left lateral, oblique; or nothing"
            )
        positions.add(parse_view_position(text))
    if len(positions) > 1:
        raise ConfigError(f"{rows[-1].where}: another view_position for {rows[0]['path']} than in {rows[0].where}")
    return positions.pop() if positions else None


def _split(rows: Sequence[Row]) -> str | None:
    """The split of a study, on which all of its rows must agree."""
    splits = {row["split"].lower(): row for row in rows if row.get("split")}
    for split, row in splits.items():
        if split not in SPLITS:
            raise ConfigError(
                f"{row.where}: study {row['study_id']}: split {row['split']!r}; expected train, valid or test"
            )
    if len(splits) > 1:
        first, second, *_ = splits
        raise ConfigError(f"{splits[second].where}: study {rows[0]['study_id']} is in {first} and in {second}")
    return next(iter(splits), None)


def _split_of_patients(studies: list[Study], table_url: str) -> dict[str, str]:
    """Find the split of each patient. It holds for all studies of the patient, also those whose rows name no split."""
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


def _in_several_studies(rows: Iterable[Row]) -> Iterator[Remark]:
    """Make a remark for every row whose image another study has too."""
    study_of: dict[str, str] = {}
    for row in rows:
        if study_of.setdefault(row["path"], row["study_id"]) != row["study_id"]:
            yield Remark("rows name an image of another study too: is it listed twice?", row.where)


LAYOUT = Layout(name="table", recognise=recognise, studies=studies)

"""Reads the narrow columns of a score root into one table in memory: every list is answered from there.

A million rows of 14 findings take 290 MB, and a page of them a few hundredths of a second. The columns are named by
number (`prob_0`, `label_3`), so that no name of a finding stands in a query.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from cxrpipe.records import CompleteRuns, score_schema, study_schema
from cxrpipe.records.study_table import StudyTable
from cxrpipe.review.database import Source, close_doors, open_database, parquet
from cxrpipe.runs.forgotten import Forgotten

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

NUMBERS = {"prob": "FLOAT", "votes": "TINYINT", "consensus": "BOOLEAN", "disagreement": "FLOAT"}
"""The columns of each finding, such as `prob_0`. `prob_any` and so on are the largest of all findings."""
_OF_STUDY = ("study_id", "patient_id", "status", "reason", "n_views", "n_views_ok", "flags")
_OF_PATIENT = ("split", "patient_age", "patient_sex")
_AT_ONCE = 50_000
"""Patients that are looked up in the list of forgotten ones at a time."""


class File(NamedTuple):
    """One published file."""

    url: str
    run: int
    """Place of its run among the complete ones, the oldest first."""


@dataclass(frozen=True)
class Loaded:
    """The table `rows`. Each row holds `file`, a place in `files`, and `row`, its number in that file."""

    connection: DuckDBPyConnection
    runs: CompleteRuns
    files: tuple[File, ...]
    labelled: tuple[str, ...]
    """The findings that are both scored and labelled by the study table."""
    has_table: bool

    @property
    def findings(self) -> tuple[str, ...]:
        return self.runs.newest.findings

    def files_of(self, run: int) -> tuple[int, int]:
        """The first and the last place of the files of a run; an empty range where it has none."""
        places = [place for place, file in enumerate(self.files) if file.run == run]
        return (places[0], places[-1]) if places else (0, -1)

    def answers(self, query: str, parameters: list[Any] | None = None) -> list[tuple[Any, ...]]:
        """Run a query on a cursor of its own, as every thread must."""
        with self.connection.cursor() as cursor:
            return cursor.execute(query, parameters or []).fetchall()


def load(runs: CompleteRuns, table: StudyTable | None, forgotten: Forgotten, scratch: Path) -> Loaded:
    """Read all rows of these runs, which have one fingerprint, but those of forgotten patients.

    scratch  folder for what does not fit in memory. The caller removes it
    """
    connection = open_database(scratch / "spilled")
    files = tuple(File(url, place) for place, report in enumerate(runs) for url in runs.files(report))
    labelled = tuple(finding for finding in runs.newest.findings if table and finding in table.findings)
    loaded = Loaded(connection, runs, files, labelled, table is not None)
    schema = score_schema(loaded.findings)
    names = [*_OF_STUDY, *(f"{name}_{finding}" for finding in loaded.findings for name in NUMBERS)]
    narrow = pa.schema([schema.field(name) for name in names])
    source, parameters = parquet(connection, "scores", [file.url for file in files], narrow, scratch)
    if table:
        studies, more = _studies(loaded, table, scratch)
        source, parameters = f"{source} AS scores LEFT JOIN {studies} USING (study_id)", [*parameters, *more]
    connection.execute(f"CREATE TABLE rows AS SELECT {', '.join(_columns(loaded))} FROM {source}", parameters)
    close_doors(connection)
    _drop_forgotten(loaded, forgotten)
    return loaded


def drop_older_rows(loaded: Loaded) -> None:
    """Keep the newest row of every study."""
    if len(loaded.runs) > 1:
        loaded.connection.execute(
            "DELETE FROM rows USING (SELECT study_id, max(file) AS newest FROM rows GROUP BY study_id "
            "HAVING count(*) > 1) AS twice WHERE rows.study_id = twice.study_id AND rows.file < twice.newest"
        )


def _columns(loaded: Loaded) -> list[str]:
    columns = [*_OF_STUDY, "file_index::USMALLINT AS file", "file_row_number::UINTEGER AS row"]
    for name, kind in NUMBERS.items():
        of_findings = [_identifier(f"{name}_{finding}") + f"::{kind}" for finding in loaded.findings]
        columns += [f"{column} AS {name}_{number}" for number, column in enumerate(of_findings)]
        columns.append(f"greatest({', '.join(of_findings) or f'NULL::{kind}'}) AS {name}_any")
    if loaded.has_table:
        columns += [*_OF_PATIENT, "place", *(f"label_{number}" for number in range(len(loaded.labelled)))]
    return columns


def _studies(loaded: Loaded, table: StudyTable, scratch: Path) -> Source:
    """Split, patient and labels of the studies in the table, and the place of each in it."""
    labels = [f"label_{finding}" for finding in loaded.labelled]
    schema = study_schema(loaded.labelled)
    narrow = pa.schema([schema.field(name) for name in ("study_id", *_OF_PATIENT, *labels)])
    source, parameters = parquet(loaded.connection, "studies", [table.url], narrow, scratch)
    columns = ["study_id", *_OF_PATIENT, "file_row_number::UINTEGER AS place"]
    columns += [f"{_identifier(name)}::TINYINT AS label_{number}" for number, name in enumerate(labels)]
    return f"(SELECT {', '.join(columns)} FROM {source}) AS studies", parameters


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _drop_forgotten(loaded: Loaded, forgotten: Forgotten) -> None:
    """`forget` removes the rows of a patient; this list also holds where it broke off, or a run has come since."""
    if not forgotten.rows:
        return
    patients = loaded.connection.execute("SELECT DISTINCT patient_id FROM rows WHERE patient_id IS NOT NULL")
    gone: list[str] = []
    while rows := patients.fetchmany(_AT_ONCE):
        ids = pa.table({"patient_id": pa.array([patient_id for (patient_id,) in rows], pa.string())})
        gone += ids.filter(pa.array(~forgotten.is_kept(ids)))["patient_id"].to_pylist()
    loaded.connection.execute("DELETE FROM rows WHERE patient_id IN (SELECT unnest(?))", [gone])

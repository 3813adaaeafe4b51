"""Reads a score root: the newest row of every study, from complete runs only.

The runs of a root may come from several versions of this package. Columns are therefore united by name: every table
that is read has at least the columns of today's schema and those of all its runs, null where a run did not write one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from cxrpipe import storage
from cxrpipe.errors import ConfigError
from cxrpipe.records.id_set import IdSet
from cxrpipe.records.run_report import RunReport
from cxrpipe.records.score import score_schema


def complete_runs(root: str) -> CompleteRuns:
    """Read every `run.json` of a score root, once. A root without a complete run, or an absent one, has no reports."""
    root = storage.normalise(root)
    runs = storage.join(root, "runs")
    urls = [storage.join(runs, run_id, "run.json") for run_id in storage.folders(runs)]
    return CompleteRuns(root, tuple(RunReport.from_json(storage.read(url)) for url in urls if storage.stat(url)))


def runs_of(root: str) -> tuple[RunReport, ...]:
    """The reports of the complete runs, oldest first; ConfigError where there is none."""
    return complete_runs(root).required().reports


def read_scores(root: str, fingerprint: str | None = None, *, without: Sequence[str] = ()) -> pa.Table:
    """The newest score row of every study.

    fingerprint  of the models whose rows are read. A root with rows of several models needs one, because rows of
                 different models are not comparable
    without      columns that are not read: `score.ASIDE` are most of a root
    """
    return complete_runs(root).of(fingerprint).scores(without)


def find_score(root: str, study_id: str, fingerprint: str | None = None) -> tuple[dict[str, Any], str]:
    """The newest score row of one study, and the id of its run; ConfigError where no run has one."""
    return complete_runs(root).of(fingerprint).find(study_id)


@dataclass(frozen=True)
class CompleteRuns:
    """The complete runs of a score root as they were when they were read, oldest first."""

    root: str
    reports: tuple[RunReport, ...]

    def __iter__(self) -> Iterator[RunReport]:
        return iter(self.reports)

    def __len__(self) -> int:
        return len(self.reports)

    @property
    def newest(self) -> RunReport:
        return self.reports[-1]

    def required(self) -> CompleteRuns:
        """These runs; ConfigError where there is none."""
        if not self.reports:
            raise ConfigError(f"{self.root}: no complete run there; expected the --out of cxrpipe score")
        return self

    def of(self, fingerprint: str | None) -> CompleteRuns:
        """The runs of one fingerprint, at least one. None: of the only fingerprint that the root has."""
        newest = {report.fingerprint: report for report in self.required()}
        known = ", ".join(f"{each} ({report.scored_by})" for each, report in newest.items())
        if fingerprint is None and len(newest) > 1:
            raise ConfigError(f"{self.root} holds scores of several models; name one --fingerprint: {known}")
        wanted = fingerprint or next(iter(newest))
        if wanted not in newest:
            raise ConfigError(f"{self.root} holds no scores with fingerprint {wanted}; it has {known}")
        return replace(self, reports=tuple(report for report in self if report.fingerprint == wanted))

    def files(self, report: RunReport) -> list[str]:
        """The Parquet files of one run."""
        folder = storage.join(self.root, "scores", f"run={report.run_id}")
        return sorted(entry.url for entry in storage.listing(folder) if entry.url.endswith(".parquet"))

    def rows(self, report: RunReport, without: Sequence[str] = ()) -> pa.Table:
        """All rows of one run, without some columns."""
        tables = [
            storage.read_table(url, [name for name in storage.schema(url).names if name not in without])
            for url in self.files(report)
        ]
        schema = _without(_united_schema(report, (table.schema for table in tables)), without)
        return pa.concat_tables([schema.empty_table(), *tables], promote_options="default")

    def scores(self, without: Sequence[str] = ()) -> pa.Table:
        """The newest row of every study, without some columns."""
        return pa.concat_tables(rows for _, rows in self.newest_rows(without))

    def newest_rows(
        self, without: Sequence[str] = (), at_once: int = 1_000, *, only: Sequence[str] | None = None
    ) -> Iterator[tuple[RunReport, pa.Table]]:
        """The newest row of every study while it is read: the report of a run with at most `at_once` of its rows.

        All tables have one schema.

        without  columns that are left out
        only     columns that are read, `study_id` among them, as far as there are such; None: all
        """
        runs = [(report, {url: storage.schema(url) for url in self.files(report)}) for report in reversed(self.reports)]
        everything = united(_united_schema(report, files.values()) for report, files in runs)
        if only is not None:
            without = [name for name in everything.names if name not in only]
        schema = _without(everything, without)
        taken = IdSet()
        for report, files in runs:
            with_this_run = [taken]
            for url, written in files.items():
                columns = [name for name in written.names if name not in without]
                for rows in storage.batches(url, columns, at_once):
                    ids = rows["study_id"].to_pylist()
                    with_this_run.append(IdSet(ids))
                    yield report, with_columns_of(schema, rows.filter(pa.array(~taken.contains(ids))))
            taken = IdSet.union(with_this_run)

    def find(self, study_id: str, only: Sequence[str] | None = None) -> tuple[dict[str, Any], str]:
        """The newest row of one study, and the id of its run; ConfigError where no run has one.

        only  columns that are read, as far as there are such; None: all
        """
        for report in reversed(self.reports):
            for url in self.files(report):
                columns = None if only is None else [name for name in storage.schema(url).names if name in only]
                rows = storage.read_table(url, columns, ("study_id", study_id))
                if rows.num_rows:
                    schema = _united_schema(report, [rows.schema])
                    schema = schema if only is None else _without(schema, [n for n in schema.names if n not in only])
                    return with_columns_of(schema, rows).to_pylist()[0], report.run_id
        raise ConfigError(f"{self.root}: no study {study_id!r} in its {len(self)} complete runs")


def united(schemas: Iterable[pa.Schema]) -> pa.Schema:
    """The columns of all schemas, by name, also inside structs; the columns of the first schema come first."""
    return pa.unify_schemas(list(schemas), promote_options="default")


def with_columns_of(schema: pa.Schema, rows: pa.Table) -> pa.Table:
    """The rows with all columns of a schema that unites theirs with others; null in the columns that the rows lack."""
    return pa.concat_tables([schema.empty_table(), rows], promote_options="default")


def _united_schema(report: RunReport, written: Iterable[pa.Schema]) -> pa.Schema:
    """Today's columns for the findings of a run, and the further columns of its files."""
    return united([score_schema(report.findings), *written])


def _without(schema: pa.Schema, names: Sequence[str]) -> pa.Schema:
    return pa.schema([column for column in schema if column.name not in names])

"""Reading a score root: the newest row of every study, from complete runs only.

The runs of a root may be of several versions of this package, so columns are united by name: every table that is read
has the columns of all its runs and at least those of today's schema, null where a run did not write one.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from cxrpipe import storage
from cxrpipe.errors import ConfigError
from cxrpipe.records.id_set import IdSet
from cxrpipe.records.score import score_schema


def runs_of(root: str) -> list[dict[str, Any]]:
    """The accounts (`run.json`) of the complete runs, oldest first; ConfigError where there is none."""
    accounts = complete_runs(root)
    if not accounts:
        raise ConfigError(f"{storage.normalise(root)}: no complete run there; expected the --out of cxrpipe score")
    return accounts


def complete_runs(root: str) -> list[dict[str, Any]]:
    """As `runs_of`, and nothing for a root where no run is complete, or that is not there yet."""
    runs = storage.join(storage.normalise(root), "runs")
    accounts = (storage.join(runs, run_id, "run.json") for run_id in storage.folders(runs))
    return [json.loads(storage.read(url)) for url in accounts if storage.stat(url)]


def published(root: str, run_id: str) -> list[str]:
    """The Parquet files of a complete run."""
    listing = storage.listing(storage.join(storage.normalise(root), "scores", f"run={run_id}"))
    return sorted(found.url for found in listing if found.url.endswith(".parquet"))


def united(schemas: Iterable[pa.Schema]) -> pa.Schema:
    """The columns of all of them, by name, also inside structs; those of the first come first."""
    return pa.unify_schemas(list(schemas), promote_options="default")


def with_columns_of(schema: pa.Schema, rows: pa.Table) -> pa.Table:
    """Rows with the columns of a schema that is united with theirs; null in those that they lack."""
    return pa.concat_tables([schema.empty_table(), rows], promote_options="default")


def read_scores(root: str, fingerprint: str | None = None) -> pa.Table:
    """The newest score row per study.

    fingerprint  which models' rows; must be named once the root holds several, since rows of different models are
                 not comparable
    """
    return pa.concat_tables(rows for _, rows in newest_rows(root, fingerprint))


def read_run(root: str, run: dict[str, Any]) -> pa.Table:
    """All rows of one complete run, by its account."""
    tables = [storage.read_table(url) for url in published(root, run["run_id"])]
    schema = _united_schema(run, (rows.schema for rows in tables))
    return pa.concat_tables([schema.empty_table(), *tables], promote_options="default")


def newest_rows(
    root: str, fingerprint: str | None = None, *, without: Sequence[str] = (), at_once: int = 1_000
) -> Iterator[tuple[dict[str, Any], pa.Table]]:
    """The newest score row per study as it is read: the account of a run, and at most `at_once` rows of it.

    All tables have one schema.

    fingerprint  as of `read_scores`
    without      columns that are left out: pictures are most of a root
    """
    runs = [
        (run, {url: storage.schema(url) for url in published(root, run["run_id"])})
        for run in reversed(_runs_under(root, fingerprint))
    ]
    every = united(_united_schema(run, files.values()) for run, files in runs)
    schema = pa.schema([column for column in every if column.name not in without])
    taken = IdSet()
    for run, files in runs:
        own = [taken]
        for url, written in files.items():
            columns = [name for name in written.names if name not in without]
            for rows in storage.batches(url, columns, at_once):
                ids = rows["study_id"].to_pylist()
                own.append(IdSet(ids))
                yield run, with_columns_of(schema, rows.filter(pa.array(~taken.contains(ids))))
        taken = IdSet.union(own)


def find_score(root: str, study_id: str, fingerprint: str | None = None) -> tuple[dict[str, Any], str]:
    """The newest score row of one study, and the id of its run; ConfigError where there is none."""
    runs = _runs_under(root, fingerprint)
    for run in reversed(runs):
        for url in published(root, run["run_id"]):
            rows = storage.read_table(url, only=("study_id", study_id))
            if rows.num_rows:
                return with_columns_of(_united_schema(run, [rows.schema]), rows).to_pylist()[0], run["run_id"]
    raise ConfigError(f"{storage.normalise(root)}: no study {study_id!r} in its {len(runs)} complete runs")


def _runs_under(root: str, fingerprint: str | None) -> list[dict[str, Any]]:
    """The complete runs of one fingerprint, oldest first; it must be named where there are several."""
    root = storage.normalise(root)
    runs = runs_of(root)
    known = sorted({run["fingerprint"] for run in runs})
    if fingerprint is None and len(known) > 1:
        raise ConfigError(f"{root} holds scores of several models; name one --fingerprint: {', '.join(known)}")
    wanted = fingerprint or known[0]
    if wanted not in known:
        raise ConfigError(f"{root} holds no scores with fingerprint {wanted}; it has {', '.join(known)}")
    return [run for run in runs if run["fingerprint"] == wanted]


def _united_schema(run: dict[str, Any], written: Iterable[pa.Schema]) -> pa.Schema:
    """Today's columns for the findings of a run, and what else its files have."""
    return united([score_schema(run.get("findings", ())), *written])

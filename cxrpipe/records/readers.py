"""Reading a score root: the newest row of every study, from complete runs only."""

import json
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cxrpipe import storage
from cxrpipe.errors import ConfigError


def runs_of(root: str) -> list[dict[str, Any]]:
    """The accounts (`run.json`) of the complete runs, oldest first; ConfigError where there is none."""
    root = storage.normalise(root)
    accounts = [found.url for found in storage.listing(storage.join(root, "runs")) if found.url.endswith("/run.json")]
    if not accounts:
        raise ConfigError(f"{root}: no complete run there; expected the --out of cxrpipe score")
    return [json.loads(storage.read(url)) for url in sorted(accounts)]


def read_scores(root: str, fingerprint: str | None = None) -> pa.Table:
    """The newest score row per study.

    fingerprint  which models' rows; must be named once the root holds several, since rows of different models are
                 not comparable
    """
    root = storage.normalise(root)
    runs = runs_of(root)
    known = sorted({run["fingerprint"] for run in runs})
    if fingerprint is None and len(known) > 1:
        raise ConfigError(f"{root} holds scores of several models; name one --fingerprint: {', '.join(known)}")
    wanted = fingerprint or known[0]
    if wanted not in known:
        raise ConfigError(f"{root} holds no scores with fingerprint {wanted}; it has {', '.join(known)}")
    tables = []
    for run in reversed([run for run in runs if run["fingerprint"] == wanted]):
        published = storage.listing(storage.join(root, "scores", f"run={run['run_id']}"))
        tables += [storage.read_table(found.url) for found in published if found.url.endswith(".parquet")]
    return _first_of_each(pa.concat_tables(tables))


def _first_of_each(rows: pa.Table) -> pa.Table:
    """The first row of every study id."""
    numbers = pa.table({"study_id": rows["study_id"], "number": pa.array(range(rows.num_rows))})
    first = numbers.group_by("study_id").aggregate([("number", "min")])["number_min"]
    return rows.take(first.take(pc.sort_indices(first)))

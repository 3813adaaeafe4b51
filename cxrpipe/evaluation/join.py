"""Scored studies with what the study table says of them, one row each."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cxrpipe.errors import ConfigError
from cxrpipe.records import runs_of
from cxrpipe.records.splits import keeps_apart
from cxrpipe.records.study_table import StudyTable

_OF_PATIENTS = ("patient_age", "patient_sex", "scanner")


def join(scores: pa.Table, table: StudyTable, split: str) -> pa.Table:
    """Scored studies of the split (or `all`) with labels, split and patient; ConfigError where there is none."""
    found = try_join(scores, table, split)
    if not found.num_rows:
        raise ConfigError(
            f"{table.url}: none of its studies of split {split} are among the {scores.num_rows:,} scored ones; "
            "choose --split, or the table that was scored"
        )
    return found


def try_join(scores: pa.Table, table: StudyTable, split: str) -> pa.Table:
    """As `join`, without rows where there is none."""
    known = [name for name in _OF_PATIENTS if name in table.schema.names]
    columns = ["study_id", "split", *(f"label_{name}" for name in table.findings), *known]
    labels = pa.concat_tables(table.batches(columns))
    if split != "all":
        labels = labels.filter(pc.equal(labels["split"], split))
    # Arrow cannot join beside list columns, so places are looked up.
    places = pc.index_in(scores["study_id"], value_set=labels["study_id"].combine_chunks())
    found = scores.filter(places.is_valid())
    labels = labels.take(places.drop_null()).drop_columns(["study_id"])
    for name in labels.column_names:
        found = found.append_column(name, labels[name])
    return found


def labelled(joined: pa.Table, table: StudyTable) -> list[str]:
    """The findings that are both scored and labelled, as the table has them."""
    names = joined.column_names
    return [
        finding
        for finding in table.findings
        if f"prob_{finding}" in names and joined[f"label_{finding}"].null_count < joined.num_rows
    ]


def account_of(root: str, fingerprint: str) -> dict[str, Any]:
    """The account of the newest complete run of these models."""
    return next(account for account in reversed(runs_of(root)) if account["fingerprint"] == fingerprint)


def members_of(account: dict[str, Any]) -> list[dict[str, Any]]:
    """What the account says of the classifiers, in the order of `member_probs_<finding>`."""
    return [model for model in account["models"] if model.get("task", "classify") == "classify"]


def names_of(members: Sequence[dict[str, Any]]) -> list[str]:
    """The last part of each url; the whole of it where these are not distinct."""
    urls = [member["url"] for member in members]
    short = [url.rstrip("/").rpartition("/")[2] for url in urls]
    return short if len(set(short)) == len(short) else urls


def thresholds_of(members: Sequence[dict[str, Any]], finding: str) -> np.ndarray | None:
    """(K,) the members' own; None where the run was made before accounts had them."""
    if any("thresholds" not in member for member in members):
        return None
    return np.array([member["thresholds"][finding] for member in members], np.float32)


def refuse_other_seed(root: str, fingerprint: str, table: StudyTable) -> None:
    """A model trained on this archive under another split has seen these test studies."""
    for account in runs_of(root):
        for model in account["models"] if account["fingerprint"] == fingerprint else ():
            same = model["archive"] == table.metadata["archive"]
            if same and not keeps_apart(str(model["split_seed"]), table.metadata["split_seed"]):
                raise ConfigError(
                    f"{model['url']} was trained on this archive under split seed {model['split_seed']}, the table has "
                    f"{table.metadata['split_seed']}: its test studies may be the model's training studies"
                )

"""Joins scored studies with their labels, splits and patients from the study table: one row a study."""

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cxrpipe import storage
from cxrpipe.errors import ConfigError
from cxrpipe.records import ModelReport, RunReport
from cxrpipe.records.splits import is_refit, keeps_apart
from cxrpipe.records.study_table import StudyTable
from cxrpipe.records.verdicts import decided_on

_OF_PATIENTS = ("patient_age", "patient_sex", "scanner")


def join(scores: pa.Table, table: StudyTable, split: str) -> pa.Table:
    """The scored studies of one split (or `all`) with labels, split and patient; ConfigError where there is none."""
    return in_split(join_all(scores, table), split, scores.num_rows, table)


def join_all(scores: pa.Table, table: StudyTable) -> pa.Table:
    """The scored studies that the table has, with labels, split and patient. The order of the scores stays."""
    known = [name for name in _OF_PATIENTS if name in table.schema.names]
    columns = ["study_id", "split", *(f"label_{name}" for name in table.findings), *known]
    labels = pa.concat_tables(table.batches(columns))
    # Arrow cannot join tables with list columns, so places are looked up.
    places = pc.index_in(scores["study_id"], value_set=labels["study_id"].combine_chunks())
    joined = scores.filter(places.is_valid())
    labels = labels.take(places.drop_null()).drop_columns(["study_id"])
    for name in labels.column_names:
        joined = joined.append_column(name, labels[name])
    return joined


def with_review_labels(joined: pa.Table, labels: pa.Table) -> pa.Table:
    """The joined rows with the labels of readers in the place of the table's; null for what nobody has read.

    labels  `records.verdicts.LABEL_SCHEMA`
    """
    joined = joined.drop_columns([name for name in joined.column_names if name.startswith("label_")])
    for finding in sorted(pc.unique(labels["finding"]).to_pylist()):
        label = decided_on(labels, finding, joined["study_id"])["label"]
        joined = joined.append_column(f"label_{finding}", pc.cast(label, pa.float32()))
    return joined


def in_split(joined: pa.Table, split: str, scored: int, table: StudyTable) -> pa.Table:
    """The joined rows of one split (or `all`); ConfigError where there is none. `scored`: studies before the join."""
    rows = of_split(joined, split)
    if not rows.num_rows:
        raise ConfigError(
            f"{table.url}: none of its studies of split {split} are among the {scored:,} scored ones; "
            "choose --split, or the table that was scored"
        )
    return rows


def of_split(joined: pa.Table, split: str) -> pa.Table:
    """The joined rows of one split, or all rows."""
    return joined if split == "all" else joined.filter(pc.equal(joined["split"], split))


def labelled(joined: pa.Table) -> list[str]:
    """The findings that are both scored and labelled, in the order of their labels."""
    labels = [name for name in joined.column_names if name.startswith("label_")]
    findings = [name.removeprefix("label_") for name in labels if joined[name].null_count < joined.num_rows]
    return [finding for finding in findings if f"prob_{finding}" in joined.column_names]


def names_of(members: Sequence[ModelReport]) -> list[str]:
    """The last part of every url, or the whole urls where the last parts are not distinct."""
    urls = [member.url for member in members]
    short = [storage.last_part(url) for url in urls]
    return short if len(set(short)) == len(short) else urls


def thresholds_of(members: Sequence[ModelReport], finding: str) -> np.ndarray | None:
    """(K,) float32: the thresholds of members that know a finding. None: their report is older than thresholds."""
    by_member = [member.thresholds for member in members]
    if None in by_member:
        return None
    return np.array([thresholds[finding] for thresholds in by_member if thresholds is not None], np.float32)


def refuse_other_seed(reports: Iterable[RunReport], table: StudyTable) -> None:
    """ConfigError where a model was trained on this archive under another split: it has seen these test studies.

    reports  of the runs that are judged
    """
    for model in (model for report in reports for model in report.models):
        learned = (model.archive, model.split_seed), (model.backbone_archive, model.backbone_split_seed)
        for archive, split_seed in learned:
            same = archive == table.metadata["archive"]
            if same and not keeps_apart(str(split_seed), table.metadata["split_seed"]):
                raise ConfigError(
                    f"{model.url} was trained on this archive under split seed {split_seed}, the table has "
                    f"{table.metadata['split_seed']}: its test studies may be the model's training studies"
                )


def refits_of(reports: Iterable[RunReport], table: StudyTable) -> list[str]:
    """The urls of the models that learned from the whole train and valid split of the table's archive."""
    archive, refits = table.metadata["archive"], []
    for model in (model for report in reports for model in report.models):
        learned = (model.archive, model.split_seed), (model.backbone_archive, model.backbone_split_seed)
        if any(theirs == archive and is_refit(str(split_seed)) for theirs, split_seed in learned):
            refits.append(model.url)
    return refits


def refuse_refit(reports: Iterable[RunReport], table: StudyTable, split: str) -> None:
    """ConfigError where a model has learned from every study of the split that it would be judged or fitted on."""
    if split != "test" and (models := refits_of(reports, table)):
        raise ConfigError(
            f"{models[0]}: a refit, which learned from the train and valid split of this archive; it has no figure on "
            f"split {split}: name --split test, or a table of another archive"
        )

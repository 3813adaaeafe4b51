"""Folds by patient: one fold is held out, the network learns from the others."""

from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc

from cxrpipe import console
from cxrpipe.archives.acquisition import measure
from cxrpipe.archives.index import Source
from cxrpipe.config.train import TrainConfig
from cxrpipe.errors import ConfigError
from cxrpipe.records import splits
from cxrpipe.records.study_table import StudyTable
from cxrpipe.training.acquisition_folds import Member, acquisition_folds
from cxrpipe.training.acquisition_hints import say_what_acquisition_tells
from cxrpipe.training.contradiction_folds import contradiction_folds

_PARTS = 9
"""One of 9 parts of the other folds chooses the epoch: about 80 to 10, train to valid, as in `index`."""


def hold_out(config: TrainConfig, source: Source) -> Source:
    """Give the source with the splits of this fold.

    Its test split is held out: `score --split test` of this table scores studies that the model has not seen.

    `fold_over`    splits that are cut    held out as test    chooses the epoch        left out of the table
    development    train and valid        the fold            a part of the others     test
    all            all                    the fold            a part of the others
    train          train                  valid               the fold                 test
    """
    table = source.table
    rows = pa.concat_tables(table.batches())
    if config.fold_over != "all":
        rows = rows.filter(pc.not_equal(rows["split"], "test"))
    pairs = list(zip(rows["patient_id"].to_pylist(), rows["study_id"].to_pylist(), strict=True))
    if unknown := sum(patient is None for patient, _ in pairs):
        console.log(f"{unknown:,} of {len(pairs):,} studies name no patient; each of them counts as a patient")
    keys = [patient or f"study {study}" for patient, study in pairs]
    official = rows["split"].to_pylist()
    cut = [key for key, split in zip(keys, official, strict=True) if config.fold_over != "train" or split == "train"]
    if len(patients := set(cut)) < config.folds:
        raise ConfigError(f"{table.url}: {len(patients)} patients cannot be cut into {config.folds} folds")
    if config.folds_by != "chance":
        ids = rows["study_id"].to_pylist()
        key_of = {study: key for study, key in zip(ids, keys, strict=True) if key in patients}
        fold_of = _by_acquisition(table, key_of, config)
    else:
        fold_of = splits.folds(cut, config.folds, config.split_seed)
    split_of = _split_of(config, fold_of)
    new_splits = [split_of.get(key, "test") for key in keys]
    rows = rows.set_column(rows.schema.get_field_index("split"), rows.schema.field("split"), pa.array(new_splits))
    by = "" if config.folds_by == "chance" else f" by {config.folds_by}"
    cut_by = f"fold {config.fold} of {config.folds} over {config.fold_over}{by}, seed {config.split_seed}"
    metadata = dict(table.schema.metadata) | {b"split_seed": f"{table.metadata['split_seed']}; {cut_by}".encode()}
    count = Counter(new_splits)
    parts = f"train {count['train']:,}, valid {count['valid']:,}, held out as test {count['test']:,} studies"
    console.log(f"{cut_by}: {parts}")
    return source.replaced(rows.replace_schema_metadata(metadata))


def _by_acquisition(table: StudyTable, key_of: dict[str, str], config: TrainConfig) -> dict[str, int]:
    """Patient → fold of patients whose films look alike, or contradict their label alike.

    key_of  study id → the key of its patient, of the studies that are cut
    """
    acquired = measure(table, key_of)
    studies = [study for study in table.studies() if study.study_id in key_of]
    members = [Member(key_of[study.study_id], study.labels, acquired[study.study_id]) for study in studies]
    say_what_acquisition_tells(members)
    if config.folds_by == "acquisition":
        return acquisition_folds(members, config.folds)
    return contradiction_folds(members, _the_finding(config, table), config.folds)


def _the_finding(config: TrainConfig, table: StudyTable) -> str:
    """The one finding whose labels films may contradict."""
    findings = config.findings or table.findings
    if len(findings) != 1:
        raise ConfigError(
            f"--folds-by contradiction: {len(findings)} findings; expected one, named with --findings, "
            "because films contradict the label of one finding"
        )
    return findings[0]


def _split_of(config: TrainConfig, fold_of: dict[str, int]) -> dict[str, str]:
    """Map every patient that was cut into folds to a split."""
    others = [key for key, fold in fold_of.items() if fold != config.fold]
    if config.fold_over == "train":
        return dict.fromkeys(fold_of, "valid") | dict.fromkeys(others, "train")
    part_of = splits.folds(others, _PARTS, config.split_seed)
    chooses = {key: "train" if part else "valid" for key, part in part_of.items()}
    return dict.fromkeys(fold_of, "test") | chooses

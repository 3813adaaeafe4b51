"""Folds by patient: one is held out as the test split, the others are for training and validation."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cxrpipe import console, splits, storage
from cxrpipe.errors import ConfigError
from cxrpipe.study_table import StudyTable
from cxrpipe.train_config import TrainConfig


def hold_out(config: TrainConfig, table: StudyTable, scratch: str) -> StudyTable:
    """The table with the splits of this fold, in the scratch folder: `score --split test` of it is out of fold.

    Under `fold_over development` the studies of the table's own test split are not in it.
    """
    rows = pa.concat_tables(table.batches())
    if config.fold_over == "development":
        rows = rows.filter(pc.not_equal(rows["split"], "test"))
    pairs = list(zip(rows["patient_id"].to_pylist(), rows["study_id"].to_pylist(), strict=True))
    if unknown := sum(patient is None for patient, _ in pairs):
        console.log(f"train: {unknown:,} of {len(pairs):,} studies name no patient; each is a patient of its own")
    keys = [patient or f"study {study}" for patient, study in pairs]
    fold_of = splits.folds(keys, config.folds, config.split_seed)
    if len(fold_of) < config.folds:
        raise ConfigError(f"{table.url}: {len(fold_of)} patients cannot be cut into {config.folds} folds")
    own = [_split(key, fold_of[key] == config.fold, config.split_seed) for key in keys]
    rows = rows.set_column(rows.schema.get_field_index("split"), rows.schema.field("split"), pa.array(own))
    metadata = dict(table.schema.metadata)
    if not table.url.startswith(scratch):
        metadata[b"seek_points"] = table.seek_points.encode()  # they stay where they are
    out = Path(scratch, "studies.parquet")
    pq.write_table(rows.replace_schema_metadata(metadata), out, compression="zstd")
    return StudyTable(storage.normalise(str(out)))


def _split(key: str, held_out: bool, seed: int) -> str:
    return "test" if held_out else splits.assign("train_valid", key, seed)

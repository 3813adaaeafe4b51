"""`export --embeddings`: the feature vectors of a score root as plain Parquet, one row per view.

study_id, patient_id, view (the number of the view in its study, from 0), view_position, and for each member that has
vectors `features_<member>`, a list of fixed size of float32. A row group of it is a C-contiguous array in memory.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cxrpipe import console, storage
from cxrpipe.config import ExportConfig
from cxrpipe.errors import ConfigError
from cxrpipe.evaluation.join import names_of
from cxrpipe.records import complete_runs
from cxrpipe.records.stored_vectors import Embedded, read_embedded, with_vectors
from cxrpipe.runs.root import ScoreRoot


def write_embeddings(config: ExportConfig, url: str) -> int:
    """Write the vectors of all scored views; their number. A thousand studies are in memory at a time."""
    runs = with_vectors(complete_runs(config.source), config.fingerprint)
    names = names_of(runs.newest.members)
    is_kept = ScoreRoot.at(config.source).forgotten().is_kept
    views, writer = 0, None
    with tempfile.NamedTemporaryFile(prefix="cxrpipe-", suffix=".parquet") as file:
        for embedded in read_embedded(runs, ["views"], is_kept):
            if not any(len(vectors.values) for vectors in embedded.members):
                continue  # no view of these studies was scored
            table = view_rows(embedded, names)
            if writer is None:
                writer = pq.ParquetWriter(file.name, table.schema, compression="zstd", use_dictionary=False)
                _name_members_without(names, table.column_names)
            writer.write_table(table)
            views += table.num_rows
        if writer is None:
            raise ConfigError(f"{runs.root}: no view there has a feature vector; none was scored, or no model has one")
        writer.close()
        storage.upload_file(Path(file.name), storage.normalise(url))
    return views


def view_rows(embedded: Embedded, names: Sequence[str]) -> pa.Table:
    """The rows of the scored views of some studies. A member has a vector of all these views, or of none."""
    present = [(name, vectors) for name, vectors in zip(names, embedded.members, strict=True) if len(vectors.values)]
    _, first = present[0]
    studies = embedded.rows.take(pa.array(first.study))
    of_studies = embedded.rows["views"].combine_chunks()
    ends = np.cumsum(pc.list_value_length(of_studies).to_numpy(zero_copy_only=False))
    starts = np.concatenate([[0], ends[:-1]])
    views = pc.list_flatten(of_studies).take(pa.array(starts[first.study] + first.view))
    columns = {
        "study_id": studies["study_id"],
        "patient_id": studies["patient_id"],
        "view": pa.array(first.view.astype(np.int16)),
        "view_position": pc.struct_field(views, "view_position"),
    }
    for name, vectors in present:
        numbers = pa.array(vectors.values.astype(np.float32).ravel())
        columns[f"features_{name}"] = pa.FixedSizeListArray.from_arrays(numbers, vectors.values.shape[1])
    return pa.table(columns)


def _name_members_without(names: Sequence[str], columns: Sequence[str]) -> None:
    if without := [name for name in names if f"features_{name}" not in columns]:
        console.log(f"no feature vectors of {', '.join(without)}: such a network has none")

"""The program `forget`: take a patient out of a score root, and keep them out."""

import json

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cxrpipe import console, storage
from cxrpipe.config import ForgetConfig
from cxrpipe.errors import ConfigError
from cxrpipe.runs.forgotten import add_forgotten
from cxrpipe.runs.lock import locked
from cxrpipe.runs.root import Run

_BATCH = 1_000


def run(config: ForgetConfig) -> int:
    root = storage.normalise(config.out)
    run_ids = storage.folders(storage.join(root, "runs"))
    if not run_ids:
        raise ConfigError(f"{root}: no run there; expected the --out of cxrpipe score")
    with locked(root):
        add_forgotten(root, config.patient)  # first: should the rest break, no new run takes them in again
        removed = sum(_forget_in_run(Run(root, run_id), config.patient) for run_id in run_ids)
    console.out().print(
        f"{removed:,} scored rows removed from {len(run_ids):,} runs; no later run in {root} takes this patient in.\n"
        "The archive, study tables elsewhere and exports are not touched."
    )
    return 0


def _forget_in_run(run: Run, patient_id: str) -> int:
    """Take the patient out of published rows, parts and frozen lists; the number of published rows removed."""
    for url in (run.studies, run.parts):
        _forget_below(url, patient_id)
    removed = _forget_below(run.scores, patient_id)
    if removed and run.is_complete():
        account = json.loads(storage.read(run.account))
        account["forgotten"] = account.get("forgotten", 0) + removed
        storage.write(run.account, json.dumps(account, indent=2).encode() + b"\n")
    return removed


def _forget_below(url: str, patient_id: str) -> int:
    tables = [found.url for found in storage.listing(url) if found.url.endswith(".parquet")]
    return sum(_forget_in_table(table, patient_id) for table in tables)


def _forget_in_table(url: str, patient_id: str) -> int:
    """Rewrite a Parquet object without the patient's rows, a batch at a time; one that has none is left as it is."""
    with storage.open_seekable(url) as stream:
        file = pq.ParquetFile(stream)
        if "patient_id" not in file.schema_arrow.names:
            return 0
        own = pc.equal(file.read(["patient_id"])["patient_id"], patient_id)
        rows = pc.sum(own).as_py() or 0
        if not rows:
            return 0
        with storage.filling(url) as kept, pq.ParquetWriter(kept, file.schema_arrow, compression="zstd") as writer:
            for batch in file.iter_batches(_BATCH):
                is_other = pc.fill_null(pc.not_equal(batch["patient_id"], patient_id), True)
                writer.write_table(pa.Table.from_batches([batch]).filter(is_other))
    return rows

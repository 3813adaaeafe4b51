"""The program `forget`: removes a patient from a score root and keeps them out of later runs."""

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cxrpipe import console, storage
from cxrpipe.config import ForgetConfig
from cxrpipe.errors import ConfigError, ExitStatus
from cxrpipe.records.run_report import count_forgotten
from cxrpipe.runs.root import Run, ScoreRoot

_BATCH = 1_000


def run(config: ForgetConfig) -> ExitStatus:
    root = ScoreRoot.at(config.out)
    runs = root.runs()
    if not runs:
        raise ConfigError(f"{root.url}: no run there; expected the --out of cxrpipe score")
    with root.locked():
        root.forget(config.patient)  # first: if the rest breaks, no new run takes the patient in
        removed = sum(_forget_in_run(run, config.patient) for run in runs)
    console.out().print(
        f"{removed:,} scored rows removed from {len(runs):,} runs; no later run in {root.url} takes this patient in.\n"
        "The archive, study tables elsewhere and exports are not touched."
    )
    return ExitStatus.DONE


def _forget_in_run(run: Run, patient_id: str) -> int:
    """Remove the patient from published rows, parts and the frozen list. Return the number of published rows."""
    for url in (run.studies, run.parts):
        _forget_below(url, patient_id)
    removed = _forget_below(run.scores, patient_id)
    if removed and run.is_complete():
        storage.write(run.report, count_forgotten(storage.read(run.report), removed))
    return removed


def _forget_below(url: str, patient_id: str) -> int:
    tables = [entry.url for entry in storage.listing(url) if entry.url.endswith(".parquet")]
    return sum(_forget_in_table(table, patient_id) for table in tables)


def _forget_in_table(url: str, patient_id: str) -> int:
    """Rewrite a Parquet object without the patient's rows, a batch at a time. Return the number of these rows.

    An object without a row of the patient stays untouched.
    """
    with storage.open_seekable(url) as stream:
        file = pq.ParquetFile(stream)
        if "patient_id" not in file.schema_arrow.names:
            return 0
        is_patient = pc.equal(file.read(["patient_id"])["patient_id"], patient_id)
        rows = pc.sum(is_patient).as_py() or 0
        if not rows:
            return 0
        with storage.filling(url) as output, pq.ParquetWriter(output, file.schema_arrow, compression="zstd") as writer:
            for batch in file.iter_batches(_BATCH):
                is_other = pc.fill_null(pc.not_equal(batch["patient_id"], patient_id), True)
                writer.write_table(pa.Table.from_batches([batch]).filter(is_other))
    return rows

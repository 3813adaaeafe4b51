"""The program `forget`: removes a patient from a score root and keeps them out of later runs."""

from collections.abc import Collection, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cxrpipe import console, storage
from cxrpipe.config import ForgetConfig
from cxrpipe.errors import ConfigError, ExitStatus
from cxrpipe.models.card import TASKS
from cxrpipe.models.folder import ModelFolder, model_folders, open_model
from cxrpipe.records.run_report import count_forgotten
from cxrpipe.records.study_table import StudyTable
from cxrpipe.runs import reading_lists, reviews
from cxrpipe.runs.plan import ROW_GROUP
from cxrpipe.runs.root import Run, ScoreRoot


def run(config: ForgetConfig) -> ExitStatus:
    root = ScoreRoot.at(config.out)
    runs = root.runs()
    if not runs:
        raise ConfigError(f"{root.url}: no run there; expected the --out of cxrpipe score")
    models = [open_model(url, *TASKS) for url in model_folders(config.models)]
    roots = [root, ScoreRoot.of_table(config.out, StudyTable(config.studies))] if config.studies else [root]
    with root.locked():
        root.forget(config.patient)  # first: if the rest breaks, no new run takes the patient in
        lists = {
            run.run_id: [url for each in roots if storage.stat(url := each.run(run.run_id).studies)] for run in runs
        }
        removed = {run.run_id: _forget_in_run(run, lists[run.run_id], config.patient) for run in runs}
        verdicts, listed = _forget_in_reviews(root, config.patient)
    out = console.out()
    out.print(
        f"{sum(removed.values()):,} scored rows removed from {len(runs):,} runs, with their pictures and feature "
        f"vectors; no later run in {root.url} takes this patient in.\n"
        "The archive, study tables elsewhere, exports, figures and models are not touched."
    )
    if verdicts or listed:
        out.print(
            f"Removed from reviews: {verdicts:,} verdicts of readers, {listed:,} entries of reading lists. A cxrpipe "
            "review that runs now stops showing the patient within ten seconds."
        )
    if beside := [run.run_id for run in runs if not lists[run.run_id] and not run.is_complete()]:
        out.print(f"{', '.join(beside)}: unfinished, and its list lies beside its table, which --studies names.")
    if not models:
        out.print("--models lists the models of probe and train that may have learned from the patient.")
    held = [run_id for run_id, rows in removed.items() if rows]
    archives = {StudyTable(url).metadata["archive"] for urls in lists.values() for url in urls}
    for model in models:
        out.print(f"{model.url}: {_learned_from(model, root, held, archives)}")
    return ExitStatus.DONE


def _learned_from(model: ModelFolder, root: ScoreRoot, held: Collection[str], archives: Collection[str]) -> str:
    """Whether a model has learned from the patient, as far as its card tells.

    held      the runs of the root that held rows of the patient; none where an earlier call has removed them
    archives  the archives of the root's runs
    """
    facts = model.card.facts
    heads = facts.get("heads")
    if heads and storage.normalise(heads["scores"]) == root.url:
        if held and not set(held).intersection(heads["runs"]):
            return "its heads were fitted on other runs of this root"
        return "its heads may have learned from the patient: fit them again with cxrpipe probe, which leaves them out"
    if facts.get("archive") in archives:
        return (
            "trained on the archive of this root, and on the patient if they are in its train or valid split: train it "
            "again without them"
        )
    return "its card names neither this root nor the archive of its runs"


def _forget_in_run(run: Run, lists: Sequence[str], patient_id: str) -> int:
    """Remove the patient from published rows, parts and frozen lists. Return the number of published rows."""
    for url in (*lists, run.parts):
        _forget_below(url, patient_id)
    removed = _forget_below(run.scores, patient_id)
    if removed and run.is_complete():
        storage.write(run.report, count_forgotten(storage.read(run.report), removed))
    return removed


def _forget_in_reviews(root: ScoreRoot, patient_id: str) -> tuple[int, int]:
    """Remove the patient from verdicts and reading lists, and record the numbers of rows removed of both."""
    verdicts = sum(_forget_below(url, patient_id) for url in reviews.folders(root))
    listed = _forget_below(reading_lists.folder(root), patient_id)
    if verdicts or listed:
        reviews.count_forgotten(root, {"verdicts": verdicts, "listed": listed})
    return verdicts, listed


def _forget_below(url: str, patient_id: str) -> int:
    tables = [entry.url for entry in storage.listing(url) if entry.url.endswith(".parquet")]
    return sum(_forget_in_table(table, patient_id) for table in tables)


def _forget_in_table(url: str, patient_id: str) -> int:
    """Rewrite a Parquet object without the patient's rows, a batch at a time. Return the number of these rows.

    All columns stay, whichever version wrote them, and so do the limit of a row group and its encodings: a dictionary
    where the file has one. An object without a row of the patient stays untouched.
    """
    with storage.open_seekable(url) as stream:
        file = pq.ParquetFile(stream)
        if "patient_id" not in file.schema_arrow.names:
            return 0
        is_patient = pc.equal(file.read(["patient_id"])["patient_id"], patient_id)
        rows = pc.sum(is_patient).as_py() or 0
        if not rows:
            return 0
        settings = {"compression": "zstd", "use_dictionary": _has_dictionary(file)}
        with storage.filling(url) as output, pq.ParquetWriter(output, file.schema_arrow, **settings) as writer:
            for batch in file.iter_batches(ROW_GROUP):
                is_other = pc.fill_null(pc.not_equal(batch["patient_id"], patient_id), True)
                writer.write_table(pa.Table.from_batches([batch]).filter(is_other), row_group_size=ROW_GROUP)
    return rows


def _has_dictionary(file: pq.ParquetFile) -> bool:
    group = file.metadata.row_group(0)
    return any(group.column(place).has_dictionary_page for place in range(group.num_columns))

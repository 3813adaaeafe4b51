"""The program `evaluate`: scores and labels, joined by study → figures, a table, and pictures."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console

from cxrpipe import console, masks, report, storage
from cxrpipe.config import EvaluateConfig
from cxrpipe.errors import ConfigError, StudyError
from cxrpipe.evaluation import evaluate_findings, evaluate_masks, figures_as_json
from cxrpipe.examples import truth_mask
from cxrpipe.folds import keeps_apart
from cxrpipe.metrics import Overlap, overlap
from cxrpipe.reader import Reader
from cxrpipe.records import Study, read_scores, runs_of
from cxrpipe.study_table import StudyTable

_WIDTH = 100


def run(config: EvaluateConfig) -> int:
    root, table = storage.normalise(config.scores), StudyTable(config.studies)
    scores = read_scores(root, config.fingerprint)
    _refuse_other_seed(root, scores["fingerprint"][0].as_py(), table)
    joined = _join(scores, table, config.split)
    findings = [name for name in table.findings if f"prob_{name}" in scores.column_names and _has_labels(joined, name)]
    figures = evaluate_findings(joined, findings, resamples=config.resamples, seed=config.seed)
    fits = list(_mask_overlaps(joined, table, config.split))
    fit = evaluate_masks(fits, resamples=config.resamples, seed=config.seed) if fits else None
    if not figures and fit is None:
        raise ConfigError(f"{config.studies}: neither labels nor masks for what {root} scored in split {config.split}")
    account = {
        "scores": root,
        "studies": storage.normalise(config.studies),
        "split": config.split,
        "seed": config.seed,
        "fingerprint": joined["fingerprint"][0].as_py(),
        "studies_scored": joined.num_rows,
        **figures_as_json(figures, fit),
    }
    with tempfile.TemporaryDirectory(prefix="cxrpipe-") as scratch:
        folder = Path(scratch)
        (folder / "metrics.json").write_text(json.dumps(account, indent=2) + "\n")
        if figures:
            report.draw_roc(figures, folder / "roc.png")
            report.draw_confusion(figures, folder / "confusion.png")
        storage.upload(folder, storage.normalise(config.out))
    out = Console(width=_WIDTH, highlight=False)
    out.print(f"{joined.num_rows:,} scored studies of split {config.split}")
    report.print_figures(figures, fit, out)
    console.out().print(f"Figures: {storage.normalise(config.out)}")
    return 0


def _join(scores: pa.Table, table: StudyTable, split: str) -> pa.Table:
    """Scored studies of the split with their labels, one row each."""
    labels = pa.concat_tables(table.batches(["study_id", "split", *(f"label_{name}" for name in table.findings)]))
    if split != "all":
        labels = labels.filter(pc.equal(labels["split"], split))
    # Arrow cannot join beside list columns, so places are looked up.
    places = pc.index_in(scores["study_id"], value_set=labels["study_id"].combine_chunks())
    found = scores.filter(places.is_valid())
    labels = labels.take(places.drop_null()).drop_columns(["study_id"])
    if not found.num_rows:
        raise ConfigError(
            f"{table.url}: none of its studies of split {split} are among the {scores.num_rows:,} scored ones; "
            "choose --split, or the table that was scored"
        )
    for name in labels.column_names:
        found = found.append_column(name, labels[name])
    return found


def _has_labels(joined: pa.Table, finding: str) -> bool:
    return joined[f"label_{finding}"].null_count < joined.num_rows


def _mask_overlaps(joined: pa.Table, table: StudyTable, split: str) -> Iterator[tuple[str, str | None, Overlap]]:
    """Predicted against true masks on the original grid, every study with both."""
    if joined["masks"].null_count == joined.num_rows:
        return
    rows = {row["study_id"]: row for row in joined.select(["study_id", "views", "masks"]).to_pylist() if row["masks"]}
    with Reader(table.seek_points) as reader:
        for study in table.studies(None if split == "all" else split):
            if study.study_id in rows and (found := _study_overlap(study, rows[study.study_id], reader)):
                yield study.study_id, study.patient_id, found


def _study_overlap(study: Study, row: dict, reader: Reader) -> Overlap | None:
    """All views of a study that have both masks, added up; None where there is none."""
    total: Overlap | None = None
    for number, (view, png) in enumerate(zip(row["views"], row["masks"], strict=True)):
        if png is None or not any(mask.view == number for mask in study.mask_views):
            continue
        try:
            truth = truth_mask(study, number, reader)
        except StudyError as error:
            console.log(f"evaluate: left out: {error}")
            continue
        if truth.shape != (view["rows_px"], view["columns_px"]):
            console.log(f"evaluate: left out: {study.study_id}: mask of {truth.shape}, image of another size")
            continue
        own = overlap(masks.on_image(masks.decode(png), *truth.shape), truth)
        total = own if total is None else total + own
    return total


def _refuse_other_seed(root: str, fingerprint: str, table: StudyTable) -> None:
    """A model trained on this archive under another split has seen these test studies."""
    for account in runs_of(root):
        for model in account["models"] if account["fingerprint"] == fingerprint else ():
            same = model["archive"] == table.metadata["archive"]
            if same and not keeps_apart(str(model["split_seed"]), table.metadata["split_seed"]):
                raise ConfigError(
                    f"{model['url']} was trained on this archive under split seed {model['split_seed']}, the table has "
                    f"{table.metadata['split_seed']}: its test studies may be the model's training studies"
                )

"""`evaluate --shifts`: figures of models on corrupted copies of labelled studies, by the steps of the plain loop."""

import functools
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.compute as pc

from cxrpipe import console, storage
from cxrpipe.archives.index import open_source
from cxrpipe.config import DECODE_TIMEOUT_S, EvaluateConfig
from cxrpipe.errors import ConfigError, ExitStatus, StudyError
from cxrpipe.evaluation.figures import LabelPolicy
from cxrpipe.evaluation.join import join_all, labelled, refuse_other_seed, refuse_refit
from cxrpipe.evaluation.masks import Fit
from cxrpipe.evaluation.shifts import CopyFigures, as_table, evaluate_copies, evaluate_mask_copies
from cxrpipe.images.corruptions import CLEAN, COPIES, MEANINGS, Copy
from cxrpipe.images.isolation import Isolated
from cxrpipe.images.squares import decode_view
from cxrpipe.models.ensemble import Ensemble, open_ensemble
from cxrpipe.programs.index import print_counts
from cxrpipe.records import ModelReport, RunReport, Study
from cxrpipe.records.study_table import StudyTable
from cxrpipe.report.shifts import ShiftReport, print_shifts, render_shifts
from cxrpipe.runs.reports import model_reports
from cxrpipe.scoring.copies import RememberingReader, mask_overlap, score_copies

_WIDTH = 110


@dataclass
class _Scored:
    """The scores of all copies, as they come."""

    rows: dict[Copy, list[pa.Table]] = field(default_factory=lambda: {copy: [] for copy in COPIES})
    fits: dict[Copy, list[Fit]] = field(default_factory=lambda: {copy: [] for copy in COPIES})


def run(config: EvaluateConfig) -> ExitStatus:
    out = storage.normalise(config.out)
    if of_root := {"runs", "scores"}.intersection(storage.folders(out)):
        raise ConfigError(f"{out}: has {', '.join(sorted(of_root))}/, a score root; copies go to another folder: --out")
    ensemble = open_ensemble(config.models, config.segmenter)
    with open_source(
        replace(config, archive=None) if config.studies else config, functools.partial(print_counts, kept=False)
    ) as source:
        table = source.table
        models = model_reports(ensemble, private=False)
        _refuse_what_is_not_held_out(config, models, table)
        studies = _sample(config, table, ensemble)
        scored = _score(studies, table, ensemble)
        tables = {copy: join_all(pa.concat_tables(rows), table) for copy, rows in scored.rows.items()}
        report = ShiftReport(
            studies=table.url if config.studies else table.metadata["archive"],
            split=config.split,
            sampled=len(studies),
            models=models,
            fingerprint=ensemble.fingerprint,
            seed=config.seed,
            resamples=config.resamples,
            figures=tuple(_figures(config, tables, table, scored.fits)),
        )
        _write(out, report, tables)
    print_shifts(report, console.out(_WIDTH))
    console.out().print(f"Report: {storage.join(out, 'shifts.html')}")
    return ExitStatus.DONE


def _refuse_what_is_not_held_out(config: EvaluateConfig, models: Sequence[ModelReport], table: StudyTable) -> None:
    """ConfigError where the table is of another archive than named, or a model may have seen the studies."""
    archive = table.metadata["archive"]
    if config.archive and storage.normalise(config.archive) != archive:
        raise ConfigError(f"{table.url}: a table of {archive}, not of --archive {config.archive}; name one of the two")
    reports = [RunReport(models=tuple(models))]
    refuse_other_seed(reports, table)
    refuse_refit(reports, table, config.split)
    if config.split != "test" and any(model.archive == archive for model in models):
        console.log(f"models have learned from this archive: figures on its split {config.split} are optimistic")


def _sample(config: EvaluateConfig, table: StudyTable, ensemble: Ensemble) -> list[Study]:
    """Draw from the studies of the split that have a label of a scored finding, or a mask for the segmenters."""
    findings = [finding for finding in table.findings if finding in ensemble.findings]
    columns = ["study_id", "split", "mask_views", *(f"label_{finding}" for finding in findings)]
    ids: list[str] = []
    for batch in table.batches(columns):
        wanted = pa.array([False] * batch.num_rows)
        for finding in findings:
            wanted = pc.or_(
                wanted, pc.fill_null(pc.is_in(batch[f"label_{finding}"], pa.array([0, 1], pa.float32())), False)
            )
        if ensemble.segmenters:
            wanted = pc.or_(wanted, pc.fill_null(pc.greater(pc.list_value_length(batch["mask_views"]), 0), False))
        if config.split != "all":
            wanted = pc.and_(wanted, pc.equal(batch["split"], config.split))
        ids += batch["study_id"].filter(wanted).to_pylist()
    if not ids:
        what = ", ".join(ensemble.findings) or "masks"
        raise ConfigError(
            f"{config.studies or config.archive}: no study of split {config.split} has labels of {what}; choose --split"
        )
    drawn = random.Random(config.seed).sample(sorted(ids), min(config.most_studies, len(ids)))
    console.log(
        f"{len(drawn):,} of {len(ids):,} labelled studies of split {config.split}, {len(COPIES)} copies of each"
    )
    return list(table.find(drawn))


def _score(studies: Sequence[Study], table: StudyTable, ensemble: Ensemble) -> _Scored:
    from cxrpipe.scoring.predict import Predictor  # torch takes seconds; a refusal does not wait for it

    scored = _Scored()
    has_masks = bool(ensemble.segmenters)
    with (
        Isolated(decode_view, DECODE_TIMEOUT_S) as decode,
        RememberingReader(table.seek_points) as reader,
        console.progress("scoring copies", len(studies)) as advance,
    ):
        for study, rows in score_copies(studies, table, ensemble, Predictor(ensemble), decode, reader):
            for place, copy in enumerate(COPIES):
                row = rows.slice(place, 1)
                scored.rows[copy].append(row.select(_kept(row)))
                if has_masks and study.mask_views:
                    _add_fit(scored.fits[copy], study, row, copy, reader)
            advance(1)
    return scored


def _kept(rows: pa.Table) -> list[str]:
    """The columns of a score row that a panel needs: no pictures, and no url."""
    wanted = ("study_id", "patient_id", "status", "reason")
    return [name for name in rows.column_names if name in wanted or name.startswith(("prob_", "consensus_"))]


def _add_fit(fits: list[Fit], study: Study, row: pa.Table, copy: Copy, reader: RememberingReader) -> None:
    try:
        overlap = mask_overlap(study, row.select(["views", "masks"]).to_pylist()[0], copy, reader)
    except StudyError as error:
        if copy == CLEAN:
            console.log(f"mask left out: {error}")
        return
    if overlap is not None:
        fits.append((study.study_id, study.patient_id, overlap))


def _figures(
    config: EvaluateConfig, tables: Mapping[Copy, pa.Table], table: StudyTable, fits: Mapping[Copy, Sequence[Fit]]
) -> list[CopyFigures]:
    findings = labelled(tables[CLEAN])
    policy = LabelPolicy(config.uncertain, config.blank)
    options = {"resamples": config.resamples, "seed": config.seed}
    figures = evaluate_copies(tables, findings, policy=policy, **options) if findings else []
    if fits[CLEAN]:
        figures += evaluate_mask_copies(fits, **options)
    if not figures:
        raise ConfigError(f"{table.url}: neither labels nor masks for what the models scored")
    return figures


def _write(out: str, report: ShiftReport, tables: Mapping[Copy, pa.Table]) -> None:
    """Write the scores of the copies, the figures as a table and as JSON, and the report."""
    copies = [
        rows.append_column("corruption", pa.repeat(copy.corruption, rows.num_rows)).append_column(
            "grade", pa.repeat(pa.scalar(copy.grade, pa.int8()), rows.num_rows)
        )
        for copy, rows in tables.items()
    ]
    storage.write_table(storage.join(out, "copies.parquet"), pa.concat_tables(copies))
    storage.write_table(storage.join(out, "shifts.parquet"), as_table(report.figures))
    content = report.as_json() | {"corruptions": MEANINGS}
    storage.write(storage.join(out, "shifts.json"), json.dumps(content, indent=2).encode() + b"\n")
    storage.write(storage.join(out, "shifts.html"), render_shifts(report).encode())

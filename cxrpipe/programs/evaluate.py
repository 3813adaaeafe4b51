"""The program `evaluate`: joins scores and labels by study, and makes figures, a table and pictures of them."""

import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from cxrpipe import console, storage
from cxrpipe.archives.reader import Reader
from cxrpipe.archives.truth import truth_mask
from cxrpipe.config import EvaluateConfig
from cxrpipe.errors import ConfigError, ExitStatus, StudyError
from cxrpipe.evaluation.boundary import Boundary, distances_px
from cxrpipe.evaluation.evidence import read_evidence
from cxrpipe.evaluation.figures import EnsembleFigures, Evaluation, FindingFigures, LabelPolicy, PrevalenceFigures
from cxrpipe.evaluation.findings import Development, evaluate_findings, macro
from cxrpipe.evaluation.join import (
    in_split,
    join_all,
    labelled,
    names_of,
    of_split,
    refits_of,
    refuse_other_seed,
    refuse_refit,
    thresholds_of,
)
from cxrpipe.evaluation.masks import evaluate_masks
from cxrpipe.evaluation.members import evaluate_ensemble, read_member_probs
from cxrpipe.evaluation.metrics import Overlap, overlap
from cxrpipe.evaluation.prevalence import at_prevalence
from cxrpipe.evaluation.subgroups import evaluate_subgroups, groups_of
from cxrpipe.evaluation.thresholds import Aims
from cxrpipe.evaluation.to_json import as_json, figures_as_json
from cxrpipe.images import masks
from cxrpipe.programs import evaluate_duplicates, evaluate_shifts, review_labels
from cxrpipe.records import ASIDE, CompleteRuns, ModelReport, Study, complete_runs
from cxrpipe.records.study_table import StudyTable
from cxrpipe.report.classification import classification_report
from cxrpipe.report.collect import collect
from cxrpipe.report.figures import as_files
from cxrpipe.report.page import render
from cxrpipe.report.terminal import print_figures, print_reviews

_WIDTH = 100
Fit = tuple[str, str | None, Overlap, Boundary | None]


class Judged(NamedTuple):
    """The scored studies of one split, joined with their labels once: for the figures and for the report."""

    root: str
    table: StudyTable
    runs: CompleteRuns
    """The runs of the models that are judged."""
    rows: pa.Table
    development: Development | None
    """The studies on which thresholds are chosen. None: those that are judged."""
    joined: pa.Table
    """The scored studies of all splits with their labels."""
    verdicts: pa.Table | None
    """Of the readers whose labels are used. None: labels are those of the table."""


def run(config: EvaluateConfig) -> ExitStatus:
    if config.shifts:
        return evaluate_shifts.run(config)
    judged = open_judged(config)
    evaluation = evaluate(config, judged)
    with tempfile.TemporaryDirectory(prefix="cxrpipe-") as scratch:
        folder = Path(scratch)
        (folder / "metrics.json").write_text(json.dumps(metrics(evaluation), indent=2) + "\n")
        if evaluation.findings:
            for name, picture in as_files(evaluation.findings).items():
                (folder / name).write_bytes(picture)
            (folder / "classification.txt").write_text(classification_report(evaluation.findings), "utf-8")
        content = collect(evaluation, judged.rows, judged.table, judged.runs.reports, pictures=config.pictures)
        (folder / "report.html").write_text(render(content), "utf-8")
        storage.upload(folder, storage.normalise(config.out))
    out = console.out(_WIDTH)
    out.print(f"{evaluation.studies_scored:,} scored studies of split {evaluation.split}")
    print_figures(evaluation.findings, evaluation.masks, out)
    if evaluation.reviews:
        print_reviews(evaluation.reviews, evaluation.weighted, out)
    if evaluation.near_duplicates:
        evaluate_duplicates.warn(evaluation.near_duplicates)
    console.out().print(f"Report: {storage.join(storage.normalise(config.out), 'report.html')}")
    return ExitStatus.DONE


def open_judged(config: EvaluateConfig) -> Judged:
    """Read scores and labels; ConfigError where no study has both, or where the models have seen these studies."""
    table = StudyTable(config.studies)
    runs = complete_runs(config.scores).of(config.fingerprint)
    refuse_other_seed(runs, table)
    refuse_refit(runs, table, config.split)
    if config.thresholds_on != "auto":
        refuse_refit(runs, table, config.thresholds_on)
    needed = ("masks", "heatmaps") if config.pictures else ("masks",)
    scores = runs.scores(without=[name for name in ASIDE if name not in needed])
    joined, verdicts = join_all(scores, table), None
    if config.labels == "reviews":
        verdicts = review_labels.read_verdicts(runs.root)
        joined = review_labels.with_labels_of_readers(joined, verdicts, config.split, runs.root)
    rows = in_split(joined, config.split, scores.num_rows, table)
    development = _development(config, joined, none=bool(refits_of(runs, table)))
    return Judged(runs.root, table, runs, rows, development, joined, verdicts)


def evaluate(config: EvaluateConfig, judged: Judged) -> Evaluation:
    """All figures; ConfigError where the studies have neither labels nor masks."""
    rows, table = judged.rows, judged.table
    findings, policy = labelled(rows), LabelPolicy(config.uncertain, config.blank)
    figures = evaluate_findings(
        rows,
        findings,
        resamples=config.resamples,
        seed=config.seed,
        policy=policy,
        aims=Aims(sensitivity=config.aim_sensitivity, specificity=config.aim_specificity, miss_cost=config.miss_cost),
        split=config.split,
        development=judged.development,
    )
    fits = list(_mask_fits(rows, table, config.split))
    mask_figures = evaluate_masks(fits, resamples=config.resamples, seed=config.seed) if fits else None
    if not figures and mask_figures is None:
        raise ConfigError(
            f"{config.studies}: neither labels nor masks for what {judged.root} scored in split {config.split}"
        )
    sorted_rows, evidence = read_evidence(rows, findings, policy)
    members, verdicts = judged.runs.newest.members, judged.verdicts
    return Evaluation(
        scores=judged.root,
        studies=storage.normalise(config.studies),
        split=config.split,
        fingerprint=judged.runs.newest.fingerprint,
        studies_scored=rows.num_rows,
        policy=policy,
        resamples=config.resamples,
        seed=config.seed,
        findings=tuple(figures),
        macro=macro(figures),
        masks=mask_figures,
        subgroups=evaluate_subgroups(evidence, groups_of(sorted_rows)),
        ensembles=tuple(_ensembles(sorted_rows, figures, members, config, policy)),
        prevalences=tuple(_at_prevalences(figures, config.prevalences)),
        near_duplicates=evaluate_duplicates.search(judged.runs, table),
        reviews=None if verdicts is None else review_labels.describe(rows, verdicts),
        weighted=()
        if verdicts is None
        else tuple(review_labels.weighted(judged.root, judged.joined, config.split, policy)),
    )


def metrics(evaluation: Evaluation) -> dict[str, Any]:
    """The content of metrics.json."""
    facts = (
        "scores",
        "studies",
        "split",
        "seed",
        "fingerprint",
        "studies_scored",
        "policy",
        "prevalences",
        "near_duplicates",
        "reviews",
        "weighted",
    )
    return {name: as_json(getattr(evaluation, name)) for name in facts} | figures_as_json(
        evaluation.findings, evaluation.masks, evaluation.subgroups, evaluation.ensembles
    )


def _development(config: EvaluateConfig, joined: pa.Table, *, none: bool) -> Development | None:
    """The studies on which thresholds are chosen; None where these are the judged studies.

    none  no split but the judged one is left: a model has learned from the others
    """
    if none:
        return None
    split = "valid" if config.thresholds_on == "auto" else config.thresholds_on
    if split == config.split or config.split == "all":
        return None
    rows = of_split(joined, split)
    if not rows.num_rows and config.thresholds_on != "auto":
        raise ConfigError(f"{config.scores}: no study of split {split} is scored; choose other --thresholds-on")
    return Development(split, rows) if rows.num_rows else None


def _ensembles(
    rows: pa.Table,
    figures: list[FindingFigures],
    members: Sequence[ModelReport],
    config: EvaluateConfig,
    policy: LabelPolicy,
) -> Iterator[EnsembleFigures]:
    """Figures of the members beside those of the ensemble, for every finding that several members know."""
    _, by_finding = read_evidence(rows, [of_ensemble.finding for of_ensemble in figures], policy)
    names = names_of(members)
    for evidence, of_ensemble in zip(by_finding, figures, strict=True):
        knowers = [place for place, member in enumerate(members) if member.knows(evidence.finding)]
        if len(knowers) < 2:
            continue
        member_probs = read_member_probs(rows, evidence)[knowers]
        if np.isnan(member_probs).any():
            console.log(f"{evidence.finding}: a member lacks numbers of some studies; no figures of single members")
            continue
        yield evaluate_ensemble(
            member_probs,
            evidence,
            of_ensemble,
            [names[place] for place in knowers],
            thresholds_of([members[place] for place in knowers], evidence.finding),
            split=config.split,
            seed=config.seed,
        )


def _at_prevalences(figures: Sequence[FindingFigures], assumed: Sequence[float]) -> Iterator[PrevalenceFigures]:
    """Predictive values at the measured and the assumed prevalences, for findings with studies of both kinds."""
    for of_finding in figures:
        if 0 < of_finding.positives < of_finding.studies:
            yield at_prevalence(of_finding, of_finding.positives / of_finding.studies, measured=True)
            yield from (at_prevalence(of_finding, prevalence) for prevalence in assumed)


def _mask_fits(rows: pa.Table, table: StudyTable, split: str) -> Iterator[Fit]:
    """Compare predicted with true masks on the original grid, for every study that has both."""
    if rows["masks"].null_count == rows.num_rows:
        return
    columns = rows.select(["study_id", "views", "masks"]).to_pylist()
    predicted = {row["study_id"]: row for row in columns if row["masks"]}
    with Reader(table.seek_points) as reader:
        for study in table.studies(None if split == "all" else split):
            if study.study_id in predicted and (fit := _study_fit(study, predicted[study.study_id], reader)):
                yield study.study_id, study.patient_id, *fit


def _study_fit(study: Study, row: dict[str, Any], reader: Reader) -> tuple[Overlap, Boundary | None] | None:
    """The fit of all views of a study that have both masks, added up; None where no view has both."""
    total: Overlap | None = None
    distances = []
    for number, (view, png) in enumerate(zip(row["views"], row["masks"], strict=True)):
        if png is None or not any(mask.view == number for mask in study.mask_views):
            continue
        try:
            truth = truth_mask(study, number, reader, (view["rows_px"], view["columns_px"]))
        except StudyError as error:
            console.log(f"mask left out: {error}")
            continue
        predicted = masks.on_image(masks.decode(png), *truth.shape)
        of_view = overlap(predicted, truth)
        total = of_view if total is None else total + of_view
        distances.append(distances_px(predicted, truth))
    return None if total is None else (total, Boundary.of(np.concatenate(distances)))

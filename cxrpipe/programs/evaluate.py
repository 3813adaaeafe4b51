"""The program `evaluate`: scores and labels, joined by study → figures, a table, and pictures."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cxrpipe import console, storage
from cxrpipe.archives.reader import Reader
from cxrpipe.archives.truth import truth_mask
from cxrpipe.config import EvaluateConfig
from cxrpipe.errors import ConfigError, StudyError
from cxrpipe.evaluation.boundary import Boundary, distances_px
from cxrpipe.evaluation.evidence import read_evidence
from cxrpipe.evaluation.figures import EnsembleFigures, Evaluation, FindingFigures, LabelPolicy
from cxrpipe.evaluation.findings import Development, evaluate_findings, macro
from cxrpipe.evaluation.join import (
    account_of,
    join,
    labelled,
    members_of,
    names_of,
    refuse_other_seed,
    thresholds_of,
    try_join,
)
from cxrpipe.evaluation.masks import evaluate_masks
from cxrpipe.evaluation.members import evaluate_ensemble
from cxrpipe.evaluation.metrics import Overlap, overlap
from cxrpipe.evaluation.subgroups import evaluate_subgroups, groups_of
from cxrpipe.evaluation.thresholds import Aims
from cxrpipe.evaluation.to_json import as_json, figures_as_json
from cxrpipe.images import masks
from cxrpipe.records import Study, read_scores
from cxrpipe.records.study_table import StudyTable
from cxrpipe.report.collect import collect
from cxrpipe.report.figures import draw_confusion, draw_roc
from cxrpipe.report.page import render
from cxrpipe.report.terminal import print_figures

_WIDTH = 100
Fit = tuple[str, str | None, Overlap, Boundary | None]


def run(config: EvaluateConfig) -> int:
    found = evaluate(config)
    with tempfile.TemporaryDirectory(prefix="cxrpipe-") as scratch:
        folder = Path(scratch)
        (folder / "metrics.json").write_text(json.dumps(account(found), indent=2) + "\n")
        if found.findings:
            draw_roc(found.findings, folder / "roc.png")
            draw_confusion(found.findings, folder / "confusion.png")
        page = render(collect(found, pictures=config.pictures))
        (folder / "report.html").write_text(page, "utf-8")
        storage.upload(folder, storage.normalise(config.out))
    out = console.out(_WIDTH)
    out.print(f"{found.studies_scored:,} scored studies of split {found.split}")
    print_figures(found.findings, found.masks, out)
    console.out().print(f"Report: {storage.join(storage.normalise(config.out), 'report.html')}")
    return 0


def evaluate(config: EvaluateConfig) -> Evaluation:
    """All figures; ConfigError where there is nothing to judge, or it must not be judged."""
    root, table = storage.normalise(config.scores), StudyTable(config.studies)
    scores = read_scores(root, config.fingerprint)
    fingerprint = scores["fingerprint"][0].as_py()
    refuse_other_seed(root, fingerprint, table)
    joined = join(scores, table, config.split)
    findings, policy = labelled(joined, table), LabelPolicy(config.uncertain, config.blank)
    figures = evaluate_findings(
        joined,
        findings,
        resamples=config.resamples,
        seed=config.seed,
        policy=policy,
        aims=Aims(sensitivity=config.aim_sensitivity, specificity=config.aim_specificity, miss_cost=config.miss_cost),
        split=config.split,
        development=_development(config, scores, table),
    )
    fits = list(_mask_fits(joined, table, config.split))
    fit = evaluate_masks(fits, resamples=config.resamples, seed=config.seed) if fits else None
    if not figures and fit is None:
        raise ConfigError(f"{config.studies}: neither labels nor masks for what {root} scored in split {config.split}")
    sorted_rows, evidence = read_evidence(joined, findings, policy)
    return Evaluation(
        scores=root,
        studies=storage.normalise(config.studies),
        split=config.split,
        fingerprint=fingerprint,
        studies_scored=joined.num_rows,
        policy=policy,
        resamples=config.resamples,
        seed=config.seed,
        findings=tuple(figures),
        macro=macro(figures),
        masks=fit,
        subgroups=evaluate_subgroups(evidence, groups_of(sorted_rows)),
        ensembles=tuple(_ensembles(sorted_rows, figures, account_of(root, fingerprint), config, policy)),
    )


def account(found: Evaluation) -> dict[str, Any]:
    """The content of metrics.json."""
    facts = ("scores", "studies", "split", "seed", "fingerprint", "studies_scored", "policy")
    return {name: as_json(getattr(found, name)) for name in facts} | figures_as_json(
        found.findings, found.masks, found.subgroups, found.ensembles
    )


def _development(config: EvaluateConfig, scores: pa.Table, table: StudyTable) -> Development | None:
    """The studies on which thresholds are chosen; None where they are those that are judged."""
    wanted = "valid" if config.thresholds_on == "auto" else config.thresholds_on
    if wanted == config.split or config.split == "all":
        return None
    rows = try_join(scores, table, wanted)
    if not rows.num_rows and config.thresholds_on != "auto":
        raise ConfigError(f"{config.scores}: no study of split {wanted} is scored; choose other --thresholds-on")
    return Development(wanted, rows) if rows.num_rows else None


def _ensembles(
    rows: pa.Table, figures: list[FindingFigures], account: dict[str, Any], config: EvaluateConfig, policy: LabelPolicy
) -> Iterator[EnsembleFigures]:
    members = members_of(account)
    if len(members) < 2:
        return
    _, evidence = read_evidence(rows, [one.finding for one in figures], policy)
    for one, own in zip(evidence, figures, strict=True):
        thresholds = thresholds_of(members, one.finding)
        yield evaluate_ensemble(rows, one, own, names_of(members), thresholds, split=config.split, seed=config.seed)


def _mask_fits(joined: pa.Table, table: StudyTable, split: str) -> Iterator[Fit]:
    """Predicted against true masks on the original grid, every study with both."""
    if joined["masks"].null_count == joined.num_rows:
        return
    rows = {row["study_id"]: row for row in joined.select(["study_id", "views", "masks"]).to_pylist() if row["masks"]}
    with Reader(table.seek_points) as reader:
        for study in table.studies(None if split == "all" else split):
            if study.study_id in rows and (found := _study_fit(study, rows[study.study_id], reader)):
                yield study.study_id, study.patient_id, *found


def _study_fit(study: Study, row: dict, reader: Reader) -> tuple[Overlap, Boundary | None] | None:
    """All views of a study that have both masks, added up; None where there is none."""
    total: Overlap | None = None
    apart = []
    for number, (view, png) in enumerate(zip(row["views"], row["masks"], strict=True)):
        if png is None or not any(mask.view == number for mask in study.mask_views):
            continue
        try:
            truth = truth_mask(study, number, reader, (view["rows_px"], view["columns_px"]))
        except StudyError as error:
            console.log(f"left out: {error}")
            continue
        predicted = masks.on_image(masks.decode(png), *truth.shape)
        own = overlap(predicted, truth)
        total = own if total is None else total + own
        apart.append(distances_px(predicted, truth))
    return None if total is None else (total, Boundary.of(np.concatenate(apart)))

"""The program `calibrate`: fits calibration and thresholds on scored, labelled studies, and writes new model folders.

Calibration and thresholds are fitted on one probability per study: the uncalibrated `member_probs` of its views,
aggregated by the rule of the model card. Scoring treats the answers of the same networks in the same way.
"""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich import box
from rich.table import Table

from cxrpipe import __version__, console, storage
from cxrpipe.config import CalibrateConfig
from cxrpipe.errors import ConfigError, ExitStatus
from cxrpipe.evaluation import calibration
from cxrpipe.evaluation.calibration import UNCHANGED, FittedFinding
from cxrpipe.evaluation.evidence import patients_of, targets_of
from cxrpipe.evaluation.figures import LabelPolicy
from cxrpipe.evaluation.join import in_split, join_all, labelled, refuse_other_seed, refuse_refit
from cxrpipe.evaluation.prevalence import PriorShift
from cxrpipe.evaluation.thresholds import Aims
from cxrpipe.evaluation.to_json import as_json
from cxrpipe.models import consensus
from cxrpipe.models.folder import CARD, ModelFolder, model_folders, open_model, save_model
from cxrpipe.programs import review_labels
from cxrpipe.programs.calibrate_prevalence import move, refuse_unknown_prevalences
from cxrpipe.records import ASIDE, ModelReport, RunReport, complete_runs
from cxrpipe.records.study_table import StudyTable
from cxrpipe.report.reliability import draw_reliability
from cxrpipe.report.words import spoken

_WIDTH = 100


def run(config: CalibrateConfig) -> ExitStatus:
    models = [open_model(url, "classify") for url in model_folders(config.models)]
    refuse_unknown_prevalences(models, config)
    homes = _homes(models, storage.normalise(config.out))
    return _fit(config, models, homes) if config.scores else move(config, models, homes)


def _fit(config: CalibrateConfig, models: Sequence[ModelFolder], homes: Sequence[str]) -> ExitStatus:
    """Fit calibration and thresholds on scored, labelled studies."""
    table = StudyTable(config.studies)
    runs = complete_runs(config.scores).of(config.fingerprint)
    root, fingerprint = runs.root, runs.newest.fingerprint
    members = runs.newest.members
    places = _places(models, members, root)
    refuse_other_seed(runs, table)
    refuse_refit(runs, table, config.split)
    scores = runs.scores(without=ASIDE)
    joined, source = join_all(scores, table), {"scores": root, "studies": table.url, "fingerprint": fingerprint}
    if config.labels == "reviews":
        verdicts = review_labels.read_verdicts(root)
        joined = review_labels.with_labels_of_readers(joined, verdicts, config.split, root)
        review_labels.say_what_is_not_weighted(root)
    rows = in_split(joined, config.split, scores.num_rows, table)
    if config.labels == "reviews":
        source |= {"labels": f"{review_labels.said(review_labels.describe(rows, verdicts))}; {review_labels.HAD_SEEN}"}
    rows = rows.filter(pc.is_in(rows["status"], pa.array(["ok", "partial"])))
    columns = [_columns(models[number], members[place], runs.newest) for number, place in enumerate(places)]
    known = dict.fromkeys(itertools.chain(*(model.card.findings for model in models)))
    findings = [name for name in labelled(rows) if name in known]
    if not findings:
        raise ConfigError(f"{table.url}: no labels in split {config.split} for {', '.join(known)}")
    if config.split != "valid":
        console.log(f"split {config.split} is used up: figures of the new models on it will be optimistic")
    answers = _answers(rows)
    for model, place, numbers, home in zip(models, places, columns, homes, strict=True):
        fitted = _fit_model(model, [views[:, place, numbers] for views in answers], rows, findings, config)
        _write(model, home, fitted, source, config)
        console.out(_WIDTH).print(_table(home, fitted))
    console.out().print(f"Models: {','.join(homes)}\nScoring with them derives rows from {root}; no image is opened.")
    return ExitStatus.DONE


def _places(models: Sequence[ModelFolder], members: Sequence[ModelReport], root: str) -> list[int]:
    """The place of every model among the members of the run."""
    hashes = [member.weights_sha256 for member in members]
    for model in models:
        if model.card.weights_sha256 not in hashes:
            scored = ", ".join(member.url for member in members) or "a segmenter alone"
            raise ConfigError(f"{model.url}: not one of the models that scored {root}; these are {scored}")
    return [hashes.index(model.card.weights_sha256) for model in models]


def _columns(model: ModelFolder, member: ModelReport, run: RunReport) -> list[int]:
    """The places of the model's findings among those of the run. ConfigError where its card knew others then."""
    at_the_time = run.findings if member.findings is None else member.findings
    if model.card.findings != at_the_time:
        raise ConfigError(
            f"{model.url}: its card has the findings {', '.join(model.card.findings)}, and when it scored "
            f"{', '.join(at_the_time)}; score with it again"
        )
    return [run.findings.index(finding) for finding in model.card.findings]


def _homes(models: Sequence[ModelFolder], out: str) -> list[str]:
    """The new folder of every model. ConfigError where a folder already holds a model."""
    names = [storage.last_part(model.url) for model in models]
    if len(set(names)) < len(names):
        raise ConfigError(f"models {', '.join(names)}: two of one name; calibrate them into different --out folders")
    homes = [storage.join(out, name) for name in names]
    for home in homes:
        if storage.stat(storage.join(home, CARD)):
            raise ConfigError(f"{home}: a model is there already; nothing is calibrated in place, name another --out")
    return homes


def _answers(rows: pa.Table) -> list[np.ndarray]:
    """(V, K, F) float32 for every study: the uncalibrated answers of K members to its V scored views. Null → nan."""
    views = rows["views"].combine_chunks()
    studies = pc.list_parent_indices(views).to_pylist()
    by_study: list[list[list[list[float]]]] = [[] for _ in range(rows.num_rows)]
    for study, probs in zip(studies, pc.struct_field(pc.list_flatten(views), "member_probs").to_pylist(), strict=True):
        if probs is not None:
            by_study[study].append(probs)
    return [np.array(probs, np.float32) for probs in by_study]


def _fit_model(
    model: ModelFolder, answers: Sequence[np.ndarray], rows: pa.Table, findings: Sequence[str], config: CalibrateConfig
) -> list[FittedFinding]:
    """Fit every finding that the model knows and that has enough studies of both kinds.

    answers  (V, F_k) for every study: the answers of this model for its own findings
    """
    card = model.card
    probs = np.stack([consensus.aggregate_views(views, card.rules) for views in answers])  # (N, F)
    patients, policy = patients_of(rows["patient_id"]), LabelPolicy(config.uncertain, config.blank)
    fitted, of_model = [], [finding for finding in findings if finding in card.findings]
    if not of_model:
        console.log(f"no labels of any finding of {model.url}: its calibration stays")
    for finding in of_model:
        labels, of_finding = (
            targets_of(rows[f"label_{finding}"], finding, policy),
            probs[:, card.findings.index(finding)],
        )
        known = ~np.isnan(labels) & ~np.isnan(of_finding)
        targets, known_probs = labels[known] == 1, of_finding[known]
        if min(np.count_nonzero(targets), np.count_nonzero(~targets)) < calibration.FEWEST:
            console.log(
                f"{finding}: {targets.sum()} of {len(targets)} positive, too few; the calibration of {model.url} stays"
            )
            continue
        try:
            fitted.append(_fit_finding(finding, known_probs, targets, patients[known], config))
        except ConfigError as error:
            console.log(f"{finding}: {error}; the calibration of {model.url} stays")
    return fitted


def _fit_finding(
    finding: str, probs: np.ndarray, targets: np.ndarray, patients: np.ndarray, config: CalibrateConfig
) -> FittedFinding:
    share = float(targets.mean())
    shift = PriorShift(share, config.assumed(finding) or share)
    aims = Aims(sensitivity=config.aim_sensitivity, specificity=config.aim_specificity, miss_cost=config.miss_cost)
    fitted = calibration.fit_finding(
        finding,
        probs,
        targets,
        patients,
        method=config.method,
        rule=config.rule,
        aims=shift.aims(aims),
        split=config.split,
    )
    if not shift.moves:
        return fitted
    return replace(
        fitted,
        line=shift.line(fitted.line),
        threshold=shift.threshold(fitted.threshold, config.rule),
        prevalence=shift.assumed,
    )


def _write(
    model: ModelFolder, home: str, fitted: Sequence[FittedFinding], source: dict[str, str], config: CalibrateConfig
) -> None:
    settings = {
        "split": config.split,
        "method": config.method,
        "rule": config.rule,
        "uncertain": config.uncertain,
        "blank": config.blank,
        "target_sensitivity": config.aim_sensitivity,  # a card calls an aim a target
        "target_specificity": config.aim_specificity,
        "miss_cost": config.miss_cost,
    }
    by_finding = {finding.finding: as_json(finding) for finding in fitted}
    for facts in by_finding.values():
        del facts["before"], facts["after"], facts["finding"]
    card = replace(
        model.card,
        thresholds=model.card.thresholds | {finding.finding: finding.threshold for finding in fitted},
        calibration={name: line for name, line in model.card.calibration.items() if name not in by_finding}
        | {
            finding.finding: (finding.line.slope, finding.line.intercept)
            for finding in fitted
            if finding.line != UNCHANGED
        },
    )
    facts = source | settings | {"model": model.url, "cxrpipe": __version__, "findings": by_finding}
    prevalence = model.card.facts.get("prevalence", {}) | {finding.finding: finding.prevalence for finding in fitted}
    if fitted:
        storage.write(storage.join(home, "reliability.png"), draw_reliability(fitted))
    save_model(home, card, model.read_weights(), model.card.facts | {"calibrated": facts, "prevalence": prevalence})


def _table(home: str, fitted: Sequence[FittedFinding]) -> Table:
    table = Table(title=home, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in (
        "finding",
        "studies",
        "positive",
        "slope",
        "intercept",
        "ECE before",
        "after",
        "prevalence",
        "threshold",
    ):
        table.add_column(name, justify="left" if name == "finding" else "right")
    for finding in fitted:
        counts = f"{finding.studies:,}", f"{finding.positives:,}"
        line, errors = finding.line, (finding.error_before, finding.error_after)
        numbers = (
            f"{number:.3f}" for number in (line.slope, line.intercept, *errors, finding.prevalence, finding.threshold)
        )
        table.add_row(spoken(finding.finding), *counts, *numbers)
    return table

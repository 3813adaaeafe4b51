"""The files of a model folder beside its weights: the fitted card, history.csv, curves and pictures."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from cxrpipe import __version__, console
from cxrpipe.errors import ConfigError
from cxrpipe.evaluation import calibration, metrics
from cxrpipe.evaluation.calibration import Line
from cxrpipe.evaluation.findings import evaluate_findings
from cxrpipe.evaluation.population import population
from cxrpipe.evaluation.thresholds import Aims
from cxrpipe.models import consensus, out_of_distribution
from cxrpipe.models.card import Card, Embedding
from cxrpipe.records import Study
from cxrpipe.records.study_table import StudyTable
from cxrpipe.report import learning_curves, sheet
from cxrpipe.report.figures import as_files
from cxrpipe.report.sheet import Panel
from cxrpipe.training.epochs import History, best_epoch, metric_of, plain
from cxrpipe.training.examples import key_of
from cxrpipe.training.plan import TrainingPlan
from cxrpipe.training.predictions import Predictions, ViewMasks, ViewPredictions
from cxrpipe.training.settings import settings_of
from cxrpipe.training.start import origin

FITTED = {"calibration": "platt", "threshold": "prevalence", "split": "valid"}
"""How calibration and thresholds of a new card were fitted, for the facts of the card."""
_PANELS = 5
_RESAMPLES = 500


class StudyPredictions(NamedTuple):
    """The N studies of the valid split, their views aggregated as in scoring."""

    key: np.ndarray  # (N,) int64
    prob: np.ndarray  # (N, F) float32, uncalibrated
    target: np.ndarray  # (N, F) float32, nan where unknown


def by_study(views: ViewPredictions, rules: Sequence[str]) -> StudyPredictions:
    """Aggregate the views of each study, each finding by its rule."""
    order = np.argsort(views.key, kind="stable")
    keys, first = np.unique(views.key[order], return_index=True)
    probs = [consensus.aggregate_views(of_study, rules) for of_study in np.split(views.prob[order], first[1:])]
    return StudyPredictions(keys, np.stack(probs), views.target[order][first])


def keys_to_draw(views: ViewPredictions) -> list[int]:
    """Choose the studies to draw: the worst, the best, and some evenly between. Gives their keys, the worst first."""
    order = np.argsort(views.dice, kind="stable")
    drawn = order[np.unique(np.linspace(0, len(order) - 1, min(_PANELS, len(order))).round().astype(int))]
    return list(dict.fromkeys(views.key[drawn].tolist()))


def fitted(card: Card, predictions: Predictions) -> Card:
    """Add to a classifier's card what its valid split decides: calibration, thresholds and embedding.

    A finding with few studies in the valid split stays uncalibrated and keeps the threshold 0.5; a log line says so.
    A segmenter's card stays as it is.
    """
    if card.task == "segment":
        return card
    assert predictions.valid is not None
    studies = by_study(predictions.valid, card.rules)
    return replace(calibrated(card, studies.prob, studies.target, "valid"), embedding=_embedding(predictions))


def calibrated(card: Card, probs: np.ndarray, targets: np.ndarray, split: str) -> Card:
    """Add calibration and thresholds to a card, fitted on the uncalibrated answers for the studies of a split.

    probs, targets  (N, F) float32; targets are nan where unknown
    """
    lines, thresholds = {}, dict(card.thresholds)
    for column, finding in enumerate(card.findings):
        known = ~np.isnan(targets[:, column])
        positive, answers = targets[known, column] == 1, probs[known, column]
        try:
            line = _line(answers, positive, split)
        except ConfigError as error:
            console.log(f"{finding} is not calibrated, and its threshold stays {thresholds[finding]}: {error}")
            continue
        lines[finding] = line.slope, line.intercept
        thresholds[finding] = Aims().choose(FITTED["threshold"], positive, line.apply(answers), split).value
    return replace(card, calibration=lines, thresholds=thresholds)


def assumed_prevalence(card: Card) -> dict[str, float]:
    """Finding → the fraction of studies with the finding that calibration and threshold of a fresh card assume.

    card  fitted: by the rule of `FITTED`, the threshold of a calibrated finding is this fraction
    """
    return {finding: card.thresholds[finding] for finding in card.calibration}


def _line(probs: np.ndarray, targets: np.ndarray, split: str) -> Line:
    """Fit a calibration; ConfigError with too few studies, or where no line can help."""
    calibration.require_enough(targets, split)
    return calibration.fit(probs, targets, FITTED["calibration"])


def _embedding(predictions: Predictions) -> Embedding | None:
    """Describe how views look to the network. Training views alone would not do: the network knows them too well."""
    views = [part.embedding for part in (predictions.train, predictions.valid) if part is not None]
    joined = np.concatenate(views)
    return out_of_distribution.embedding_of(joined) if joined.shape[1] else None


def draw(
    card: Card, history: History, best: str, predictions: Predictions, studies: Sequence[Study]
) -> dict[str, bytes]:
    """Draw a training: file name → content.

    Every training has history.csv and curves.png. With a valid split, a classifier also has roc.png and confusion.png,
    and a segmenter has panels.png.

    card     fitted
    studies  at least those of the valid split
    """
    kept = best_epoch(history, best) if predictions.valid is not None else history[-1]
    files = {
        "history.csv": learning_curves.history_csv(history),
        "curves.png": learning_curves.draw_curves(history, metric_of(card), kept.epoch),
    }
    if predictions.valid is None:
        return files
    study_of = {key_of(study.study_id): study for study in studies if study.split == "valid"}
    if card.task == "segment":
        files["panels.png"] = _panels(predictions.masks, study_of)
        return files
    table = _decided(card, by_study(predictions.valid, card.rules), study_of)
    return files | as_files(evaluate_findings(table, card.findings, resamples=_RESAMPLES, split="valid"))


def _decided(card: Card, predictions: StudyPredictions, study_of: dict[int, Study]) -> pa.Table:
    """Build the table of scores and labels that `evaluate_findings` takes, with the model as an ensemble of one."""
    probs = consensus.calibrate(predictions.prob, *card.platt)
    decided = probs >= card.operating_points
    studies = [study_of[key] for key in predictions.key.tolist()]
    columns: dict[str, object] = {
        "study_id": [study.study_id for study in studies],
        "patient_id": pa.array([study.patient_id for study in studies], pa.string()),
    }
    for column, finding in enumerate(card.findings):
        columns[f"prob_{finding}"] = probs[:, column]
        columns[f"consensus_{finding}"] = decided[:, column]
        columns[f"label_{finding}"] = pa.array(predictions.target[:, column], pa.float32(), from_pandas=True)
    return pa.table(columns)


def _panels(views: Sequence[ViewMasks], study_of: dict[int, Study]) -> bytes:
    """Draw image | truth | prediction, one row per view, the worst first; PNG."""
    panels: list[Panel] = []
    for view in views:
        dice = metrics.overlap(view.mask, view.truth).dice
        panels += [
            Panel(title=study_of[view.key].study_id, pixels=view.pixels),
            Panel(title="truth", pixels=view.pixels, truth=view.truth),
            Panel(title=f"prediction, Dice {dice:.3f}", pixels=view.pixels, masks=(view.mask,)),
        ]
    return sheet.draw(panels, "valid split, from the worst to the best", in_a_row=3)


def facts(plan: TrainingPlan, table: StudyTable, studies: Sequence[Study], history: History) -> dict[str, Any]:
    """The facts of the card, for people: where the model comes from, and how good it was on the valid split."""
    best = best_epoch(history, plan.config.best)
    return {
        "settings": settings_of(plan.config),
        **table.origin,
        "population": {split: population([s for s in studies if s.split == split]) for split in ("train", "valid")},
        "best_epoch": best.epoch,
        "valid": {"score": best.score, "valid_loss": best.valid_loss, "per_finding": best.per_finding},
        "history": plain(history),
        "cxrpipe": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **origin(plan.config),
    }

"""What a finished training leaves beside its weights: a fitted card, history.csv, curves and pictures."""

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from cxrpipe import __version__, console
from cxrpipe.errors import ConfigError
from cxrpipe.evaluation import calibration, metrics
from cxrpipe.evaluation.calibration import Line
from cxrpipe.evaluation.findings import evaluate_findings
from cxrpipe.evaluation.thresholds import Targets
from cxrpipe.models import consensus, explain
from cxrpipe.models.card import Card, Embedding
from cxrpipe.records import Study
from cxrpipe.records.study_table import StudyTable
from cxrpipe.report import learning_curves, sheet
from cxrpipe.report.figures import draw_confusion, draw_roc
from cxrpipe.report.sheet import Panel
from cxrpipe.training.epochs import History, best_epoch, metric_of, plain
from cxrpipe.training.examples import key_of
from cxrpipe.training.plan import TrainingPlan, settings_of
from cxrpipe.training.predictions import Judged

FITTED = {"calibration": "platt", "threshold": "prevalence", "split": "valid"}
"""What calibration and thresholds of a fresh card are, for its facts."""
_PANELS = 5
_RESAMPLES = 500


class Shown(NamedTuple):
    """A view to be drawn with both its masks."""

    key: int
    pixels: np.ndarray  # (S, S) uint8
    truth: np.ndarray  # (S, S) bool
    mask: np.ndarray  # (S, S) bool


class Judgement(NamedTuple):
    """What the finished model says."""

    valid: Judged
    train: Judged | None
    """Of some training views; None where they would tell nothing (of a segmenter)."""
    shown: list[Shown]
    """Some views of the valid split with their masks; none of a classifier."""


class Opinions(NamedTuple):
    """The valid split by study, as scoring aggregates it: N of them."""

    key: np.ndarray  # (N,) int64
    prob: np.ndarray  # (N, F) float32, uncalibrated
    target: np.ndarray  # (N, F) float32, nan where unknown


def by_study(judged: Judged, rules: Sequence[str]) -> Opinions:
    """Views → studies, each finding under its rule."""
    order = np.argsort(judged.key, kind="stable")
    keys, first = np.unique(judged.key[order], return_index=True)
    probs = [consensus.aggregate_views(views, rules) for views in np.split(judged.prob[order], first[1:])]
    return Opinions(keys, np.stack(probs), judged.target[order][first])


def worth_showing(judged: Judged) -> list[int]:
    """Keys of studies: the worst, the best, and some evenly between; from the worst on."""
    order = np.argsort(judged.dice, kind="stable")
    some = order[np.unique(np.linspace(0, len(order) - 1, min(_PANELS, len(order))).round().astype(int))]
    return list(dict.fromkeys(judged.key[some].tolist()))


def fitted(card: Card, judgement: Judgement) -> Card:
    """With what a classifier's valid split decides: calibration, thresholds, and what views look like to it.

    A finding of which the valid split has few studies keeps its probabilities, and 0.5 for a threshold; this is said.
    """
    if card.task == "segment":
        return card
    opinions = by_study(judgement.valid, card.rules)
    lines, thresholds = {}, dict(card.thresholds)
    for column, finding in enumerate(card.findings):
        known = ~np.isnan(opinions.target[:, column])
        targets, probs = opinions.target[known, column] == 1, opinions.prob[known, column]
        try:
            line = _line(probs, targets)
        except ConfigError as error:
            console.log(f"{finding} is not calibrated, its threshold is {thresholds[finding]}: {error}")
            continue
        lines[finding] = line.slope, line.intercept
        thresholds[finding] = Targets().choose(FITTED["threshold"], targets, line.apply(probs), "valid").value
    return replace(card, calibration=lines, thresholds=thresholds, embedding=_embedding(judgement))


def _line(probs: np.ndarray, targets: np.ndarray) -> Line:
    """ConfigError where the studies are too few, or no line mends them."""
    fewer = min(np.count_nonzero(targets), np.count_nonzero(~targets))
    if fewer < calibration.FEWEST:
        raise ConfigError(f"{fewer} studies of one kind in the valid split, fewer than {calibration.FEWEST}")
    return calibration.fit(probs, targets, FITTED["calibration"])


def _embedding(judgement: Judgement) -> Embedding | None:
    """Of views that were learned from and of views that were not: a network knows the former better than any other."""
    views = [part.embedding for part in (judgement.train, judgement.valid) if part is not None]
    joined = np.concatenate(views)
    return explain.embedding_of(joined) if joined.shape[1] else None


def draw(card: Card, history: History, best: str, judgement: Judgement, studies: Sequence[Study]) -> dict[str, bytes]:
    """File name → content: history.csv, curves.png, and for findings ROC and confusion, for masks some panels.

    card     fitted
    studies  at least those of the valid split
    """
    files = {
        "history.csv": learning_curves.history_csv(history),
        "curves.png": learning_curves.draw_curves(history, metric_of(card), best_epoch(history, best).epoch),
    }
    study_of = {key_of(study.study_id): study for study in studies if study.split == "valid"}
    if card.task == "segment":
        files["panels.png"] = _panels(judgement.shown, study_of)
        return files
    opinions = by_study(judgement.valid, card.rules)
    figures = evaluate_findings(_decided(card, opinions, study_of), card.findings, resamples=_RESAMPLES, split="valid")
    with tempfile.TemporaryDirectory() as folder:
        for name, drawn in (("roc.png", draw_roc), ("confusion.png", draw_confusion)):
            drawn(figures, Path(folder, name))
            files[name] = Path(folder, name).read_bytes()
    return files


def _decided(card: Card, opinions: Opinions, study_of: dict[int, Study]) -> pa.Table:
    """As the table of scores joined with labels that `evaluate` makes figures of: the model alone is the ensemble."""
    probs = consensus.calibrate(opinions.prob, *card.platt)
    decided = probs >= card.operating_points
    studies = [study_of[key] for key in opinions.key.tolist()]
    columns: dict[str, object] = {
        "study_id": [study.study_id for study in studies],
        "patient_id": pa.array([study.patient_id for study in studies], pa.string()),
    }
    for column, finding in enumerate(card.findings):
        columns[f"prob_{finding}"] = probs[:, column]
        columns[f"consensus_{finding}"] = decided[:, column]
        columns[f"label_{finding}"] = pa.array(opinions.target[:, column], pa.float32(), from_pandas=True)
    return pa.table(columns)


def _panels(shown: Sequence[Shown], study_of: dict[int, Study]) -> bytes:
    """Image | truth | prediction, a study a row, the worst first."""
    drawn: list[Panel] = []
    for each in shown:
        dice = metrics.overlap(each.mask, each.truth).dice
        drawn += [
            Panel(title=study_of[each.key].study_id, pixels=each.pixels),
            Panel(title="truth", pixels=each.pixels, truth=each.truth),
            Panel(title=f"prediction, Dice {dice:.3f}", pixels=each.pixels, masks=(each.mask,)),
        ]
    return sheet.draw(drawn, "valid split, from the worst to the best", in_a_row=3)


def facts(plan: TrainingPlan, table: StudyTable, studies: Sequence[Study], history: History) -> dict[str, Any]:
    """What the card tells a person: where the model comes from, and how good it was on the valid split."""
    best = best_epoch(history, plan.config.best)
    return {
        "settings": settings_of(plan.config),
        "archive": table.metadata["archive"],
        "layout": table.metadata["layout"],
        "split_seed": int(seed) if (seed := table.metadata["split_seed"]).isdigit() else seed,
        "population": {split: _population([s for s in studies if s.split == split]) for split in ("train", "valid")},
        "best_epoch": best.epoch,
        "valid": {"score": best.score, "valid_loss": best.valid_loss, "per_finding": best.per_finding},
        "history": plain(history),
        "cxrpipe": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _population(studies: Sequence[Study]) -> dict[str, Any]:
    ages = [study.patient_age for study in studies if study.patient_age is not None]
    findings = studies[0].labels if studies else {}
    return {
        "studies": len(studies),
        "patients": len({study.patient_id for study in studies if study.patient_id}) or None,
        "age_quartiles": [round(float(age), 1) for age in np.percentile(ages, [25, 50, 75])] if ages else None,
        "view_positions": dict(Counter(view.view_position or "unknown" for study in studies for view in study.views)),
        "sex": dict(Counter(study.patient_sex or "unknown" for study in studies)),
        "present": {finding: sum(study.labels[finding] == 1 for study in studies) for finding in findings},
    }

"""What a finished model says of the fold that is held out: `held_out.parquet` beside the model, and a few figures.

A refit of all folds takes its calibration and thresholds from these predictions (`training.refit`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from cxrpipe.evaluation import metrics
from cxrpipe.models import consensus
from cxrpipe.models.card import Card
from cxrpipe.records import Study
from cxrpipe.training.examples import key_of
from cxrpipe.training.model_folder import by_study
from cxrpipe.training.predictions import ViewPredictions

FILE = "held_out.parquet"


def held_out_table(card: Card, views: ViewPredictions, studies: Sequence[Study]) -> pa.Table:
    """One row per study: study_id, patient_id, and per finding prob_<finding> (uncalibrated) and label_<finding>.

    Of a segmenter one row per view, with `dice`.
    """
    study_of = {key_of(study.study_id): study for study in studies}
    predicted = by_study(views, card.rules) if card.findings else None
    keys = views.key if predicted is None else predicted.key
    of_rows = [study_of[key] for key in keys.tolist()]
    columns: dict[str, Any] = {
        "study_id": [study.study_id for study in of_rows],
        "patient_id": pa.array([study.patient_id for study in of_rows], pa.string()),
    }
    if predicted is None:
        return pa.table(columns | {"dice": views.dice})
    for column, finding in enumerate(card.findings):
        columns[f"prob_{finding}"] = predicted.prob[:, column]
        columns[f"label_{finding}"] = pa.array(predicted.target[:, column], pa.float32(), from_pandas=True)
    return pa.table(columns)


def arrays_of(card: Card, table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Uncalibrated probabilities and targets of a table of `held_out_table`: (N, F) float32 each, targets with nan."""
    columns = [
        [table[f"{kind}_{finding}"].to_numpy().astype(np.float32) for finding in card.findings]
        for kind in ("prob", "label")
    ]
    probs, targets = (np.stack(of_kind, axis=1) for of_kind in columns)
    return probs, targets


def figures_of(card: Card, table: pa.Table) -> dict[str, Any]:
    """The figures on the fold, for the facts of the card; None where one is not defined.

    card  fitted: decisions are taken at its thresholds
    """
    if not card.findings:
        return {"studies": len(set(table["study_id"].to_pylist())), "dice": float(np.mean(table["dice"].to_numpy()))}
    probs, targets = arrays_of(card, table)
    decided = consensus.calibrate(probs, *card.platt) >= card.operating_points
    of_findings = {}
    for column, finding in enumerate(card.findings):
        known = ~np.isnan(targets[:, column])
        positive = targets[known, column] == 1
        counts = metrics.confusion(positive, decided[known, column])
        values = (metrics.auroc(positive, probs[known, column]), counts.sensitivity, counts.specificity)
        named = zip(("auroc", "sensitivity", "specificity"), values, strict=True)
        of_findings[finding] = {name: None if np.isnan(value) else round(float(value), 6) for name, value in named}
    return {"studies": table.num_rows, "per_finding": of_findings}


def mean_score(figures: dict[str, Any] | None) -> float | None:
    """The mean AUROC of the findings, or the Dice, of `figures_of`; None where none is defined."""
    if not figures or "dice" in figures:
        return figures["dice"] if figures else None
    known = [of_finding["auroc"] for of_finding in figures["per_finding"].values() if of_finding["auroc"] is not None]
    return float(np.mean(known)) if known else None


def describe(figures: dict[str, Any]) -> str:
    """Describe the figures in one line: `1,039 studies, AUROC 0.9843, sensitivity 0.950, specificity 0.932`."""
    studies = f"{figures['studies']:,} studies"
    if "dice" in figures:
        return f"{studies}, Dice {figures['dice']:.4f}"
    parts = []
    for name, digits in (("auroc", 4), ("sensitivity", 3), ("specificity", 3)):
        values = [of_finding[name] for of_finding in figures["per_finding"].values() if of_finding[name] is not None]
        shown = f"{np.mean(values):.{digits}f}" if values else "not defined"
        parts.append(f"{'AUROC' if name == 'auroc' else name} {shown}")
    several = len(figures["per_finding"]) > 1
    return f"{studies}, {'means of the findings: ' if several else ''}{', '.join(parts)}"

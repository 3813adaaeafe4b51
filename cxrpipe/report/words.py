"""Words and colours for figures on the terminal, in pictures and in the report: one palette, one form of interval."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import numpy as np

from cxrpipe.evaluation.metrics import Counts, Estimate

INK, GREY, PALE, BLUE, RUST = "#2b2f36", "#8a9099", "#dfe2e6", "#33658a", "#b5523b"

PROBABILITIES = {"auroc": "AUROC", "auprc": "AUPRC", "brier": "Brier", "log_loss": "Log loss", "ece": "ECE"}
DECISIONS = {
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "precision": "Precision (PPV)",
    "npv": "NPV",
    "f1": "F1",
    "balanced_accuracy": "Balanced accuracy",
    "accuracy": "Accuracy",
}


def matrix(counts: Counts) -> np.ndarray:
    """Arrange counts as (2, 2) int: rows are labels, columns decisions of the consensus, positive first."""
    return np.array([[counts.true_positive, counts.false_negative], [counts.false_positive, counts.true_negative]])


def spoken(finding: str) -> str:
    """`Pleural_Effusion` → `Pleural Effusion`"""
    return finding.replace("_", " ")


def study_url(study_id: str) -> str:
    """`patient1/study2` → `/study/patient1%2Fstudy2`, the page of a study in the reading room.

    Whatever an id holds, it is one segment of the path.
    """
    return f"/study/{quote(study_id, safe='')}"


def votes(row: Mapping[str, Any], finding: str) -> tuple[int, int]:
    """Of a score row: the votes for a finding, and the members that could vote, since they know the finding."""
    return row[f"votes_{finding}"], sum(prob is not None for prob in row[f"member_probs_{finding}"])


def agreed_findings(row: Mapping[str, Any]) -> str:
    """The findings that the members agree on, the most probable first: `Pneumonia 0.81, Mass 0.62`; else a dash."""
    names = [name.removeprefix("consensus_") for name, value in row.items() if name.startswith("consensus_") and value]
    names.sort(key=lambda name: -row[f"prob_{name}"])
    return ", ".join(f"{spoken(name)} {row[f'prob_{name}']:.2f}" for name in names) or "–"


def studies(count: int) -> str:
    """`1 study`, `1,200 studies`"""
    return f"{count:,} " + ("study" if count == 1 else "studies")


def text(estimate: Estimate, digits: int, interval: bool = True) -> str:
    """`0.83 (0.79–0.87)`, or `not defined`."""
    if math.isnan(estimate.value):
        return "not defined" if interval else "–"
    value, low, high = (f"{number:.{digits}f}" for number in estimate)
    return f"{value} ({low}–{high})" if interval else value


def percent(estimate: Estimate, interval: bool) -> str:
    """`83% (79–87)`, or a dash for a figure that is not defined."""
    if math.isnan(estimate.value):
        return "–"
    value, low, high = (f"{100 * number:.0f}" for number in estimate)
    return f"{value}% ({low}–{high})" if interval else f"{value}%"


def number(value: float | None, digits: int = 2) -> str:
    """`0.83`, or a dash for a number that is not defined."""
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}".replace("-", "−")


def interval(estimate: Estimate, digits: int = 2) -> str:
    """`0.79 – 0.87`; empty for an interval that is not defined."""
    if math.isnan(estimate.low) or math.isnan(estimate.high):
        return ""
    between = " to " if estimate.low < 0 else " – "
    return number(estimate.low, digits) + between + number(estimate.high, digits)


def figure(name: str) -> str:
    """`auroc` → `AUROC`"""
    return (PROBABILITIES | DECISIONS).get(name, spoken(name))

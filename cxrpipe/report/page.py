"""report.html: one file that needs nothing else, on a screen without network and on paper.

The template draws; here it is decided what it is given. jinja2 escapes every text, so an archive whose study ids or
findings hold HTML is shown as it is and can do nothing.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any, NamedTuple

from jinja2 import Environment, StrictUndefined, Template

from cxrpipe import __version__
from cxrpipe.figures import Evaluation, FindingFigures, SubgroupFigures
from cxrpipe.metrics import Estimate
from cxrpipe.records import REASONS
from cxrpipe.report import plots
from cxrpipe.report.gallery import Picture
from cxrpipe.report.words import matrix, spoken, studies

PROBABILITIES = {"auroc": "AUROC", "auprc": "AUPRC", "brier": "Brier", "ece": "ECE"}
DECISIONS = {
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "precision": "Precision (PPV)",
    "npv": "NPV",
    "f1": "F1",
    "balanced_accuracy": "Balanced accuracy",
    "accuracy": "Accuracy",
}
_ATTRIBUTES = {"sex": "Sex", "age": "Age, years", "view_position": "View position", "scanner": "Scanner"}


class Flow(NamedTuple):
    """What became of the studies of the split."""

    listed: int
    """In the study table."""
    counts: Mapping[str, int]
    """`ok`, `partial/truncated`, `failed/missing` … → scored studies."""

    @property
    def scored(self) -> int:
        return sum(self.counts.values())


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that the page is made of."""

    evaluation: Evaluation
    flow: Flow
    runs: Sequence[Mapping[str, Any]]
    """Accounts (run.json) of the runs whose rows were evaluated."""
    cards: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Url of a model folder → its card, as far as it can be read now."""
    pictures: Mapping[str, Sequence[Picture]] = field(default_factory=dict)
    """Finding → its gallery."""
    mask_pictures: Sequence[Picture] = ()


class _Group(NamedTuple):
    """A line of the forest plot."""

    figures: SubgroupFigures
    forest: plots.Forest


def render(report: Report) -> str:
    evaluation = report.evaluation
    return _template().render(
        report=report,
        evaluation=evaluation,
        made=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        version=__version__,
        probabilities=PROBABILITIES,
        decisions=DECISIONS,
        statuses=_statuses(report.flow),
        reasons=_reasons(report.flow),
        models=_models(report),
        chapters=[_chapter(report, figures) for figures in evaluation.findings],
        mask_kinds=_by_kind(report.mask_pictures),
        optimistic=any(point.optimistic for figures in evaluation.findings for point in figures.operating_points),
    )


@functools.cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "spoken": spoken,
        "number": _number,
        "interval": _interval,
        "studies": studies,
        "figure": _figure,
    }
    return environment.from_string(files("cxrpipe.report").joinpath("report.html.j2").read_text("utf-8"))


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}".replace("-", "−")


def _interval(estimate: Estimate, digits: int = 2) -> str:
    if math.isnan(estimate.low) or math.isnan(estimate.high):
        return ""
    between = " to " if estimate.low < 0 else " – "
    return _number(estimate.low, digits) + between + _number(estimate.high, digits)


def _figure(name: str) -> str:
    return (PROBABILITIES | DECISIONS).get(name, spoken(name))


# ---- what was run ---------------------------------------------------------------------------------------------


def _statuses(flow: Flow) -> dict[str, int]:
    counts: Counter = Counter()
    for name, count in flow.counts.items():
        counts[name.partition("/")[0]] += count
    return {status: counts[status] for status in ("ok", "partial", "rejected", "failed")}


def _reasons(flow: Flow) -> list[tuple[str, str, str, int]]:
    """(status, reason, what it means, studies), the most frequent first."""
    found = [(*name.partition("/")[::2], count) for name, count in flow.counts.items() if "/" in name]
    known = [
        (status, reason, REASONS[reason].meaning if reason in REASONS else "", count) for status, reason, count in found
    ]
    return sorted(known, key=lambda line: (-line[3], line[0], line[1]))


def _models(report: Report) -> list[dict[str, Any]]:
    """Every model once, with what its card adds."""
    models = {model["url"]: model for run in report.runs for model in run["models"]}
    return [dict(model) | {"card": report.cards.get(url)} for url, model in models.items()]


# ---- a finding ------------------------------------------------------------------------------------------------


def _chapter(report: Report, figures: FindingFigures) -> dict[str, Any]:
    evaluation, finding = report.evaluation, figures.finding
    ensemble = next((each for each in evaluation.ensembles if each.finding == finding), None)
    own = [each for each in evaluation.subgroups if each.finding == finding]
    forest, ends = plots.forest([each.auroc for each in own], figures.auroc.value)
    groups = [_Group(*pair) for pair in zip(own, forest, strict=True)]
    return {
        "figures": figures,
        "plots": plots.of_finding(figures),
        "matrix": _shaded(figures),
        "groups": [
            (_ATTRIBUTES.get(attribute, spoken(attribute)), [*found])
            for attribute, found in itertools.groupby(groups, key=lambda group: group.figures.attribute)
        ],
        "ends": ends,
        "ensemble": ensemble,
        "disagreement": plots.of_disagreement(ensemble) if ensemble else None,
        "kinds": _by_kind(report.pictures.get(finding, ())),
    }


def _shaded(figures: FindingFigures) -> list[tuple[str, list[tuple[int, float]]]]:
    """The confusion matrix: (label, [(studies, share of the row 0..1)])."""
    rows = matrix(figures.counts).tolist()
    return [
        (label, [(count, count / sum(row) if sum(row) else math.nan) for count in row])
        for label, row in zip(("positive", "negative"), rows, strict=True)
    ]


def _by_kind(pictures: Sequence[Picture]) -> list[tuple[str, list[Picture]]]:
    return [(kind, [*found]) for kind, found in itertools.groupby(pictures, key=lambda picture: picture.kind)]

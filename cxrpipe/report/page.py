"""The page report.html: an evaluation, the runs behind it, the outcome of all studies, and pictures."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from cxrpipe import storage
from cxrpipe.evaluation.figures import Evaluation, FindingFigures, SubgroupFigures
from cxrpipe.records import REASONS, RunReport
from cxrpipe.report import html, svg
from cxrpipe.report.gallery import Picture
from cxrpipe.report.models import knowers, origin
from cxrpipe.report.words import DECISIONS, PROBABILITIES, matrix, spoken

_ATTRIBUTES = {"sex": "Sex", "age": "Age, years", "view_position": "View position", "scanner": "Scanner"}


class Flow(NamedTuple):
    """The outcome of the studies of the split."""

    listed: int
    """Studies in the study table."""
    counts: Mapping[str, int]
    """`ok`, `partial/truncated`, `failed/missing` … → scored studies."""

    @property
    def scored(self) -> int:
        return sum(self.counts.values())


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that the page is made of."""

    evaluation: Evaluation
    flow: Flow
    runs: Sequence[RunReport]
    """The reports of the runs whose rows were evaluated."""
    cards: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """URL of a model folder → its card, for folders that can still be read."""
    pictures: Mapping[str, Sequence[Picture]] = field(default_factory=dict)
    """Finding → pictures of its gallery."""
    mask_pictures: Sequence[Picture] = ()


class _Group(NamedTuple):
    """A row of the forest plot."""

    figures: SubgroupFigures
    forest: svg.Forest


def render(report: Report) -> str:
    """Render the page; HTML."""
    evaluation = report.evaluation
    return html.page(
        "report.html.j2",
        numbers="metrics.json",
        report=report,
        evaluation=evaluation,
        probabilities=PROBABILITIES,
        decisions=DECISIONS,
        statuses=_statuses(report.flow),
        reasons=_reasons(report.flow),
        models=_models(report),
        knowers=knowers(report.runs[-1].models) if report.runs else [],
        chapters=[_chapter(report, figures) for figures in evaluation.findings],
        mask_kinds=_by_kind(report.mask_pictures),
        optimistic=any(point.optimistic for figures in evaluation.findings for point in figures.operating_points),
    )


# ---- what was run ---------------------------------------------------------------------------------------------


def _statuses(flow: Flow) -> dict[str, int]:
    """Count studies by status."""
    counts: Counter[str] = Counter()
    for name, count in flow.counts.items():
        counts[name.partition("/")[0]] += count
    return {status: counts[status] for status in ("ok", "partial", "rejected", "failed")}


def _reasons(flow: Flow) -> list[tuple[str, str, str, int]]:
    """List (status, reason, meaning, studies), the most frequent first."""
    counts = [(*name.partition("/")[::2], count) for name, count in flow.counts.items() if "/" in name]
    known = [
        (status, reason, REASONS[reason].meaning if reason in REASONS else "", count)
        for status, reason, count in counts
    ]
    return sorted(known, key=lambda line: (-line[3], line[0], line[1]))


def _models(report: Report) -> list[dict[str, Any]]:
    """Every model once, with what its card adds."""
    models = {model.url: model for run in report.runs for model in run.models}
    return [asdict(model) | {"card": report.cards.get(url), "origin": origin(model)} for url, model in models.items()]


# ---- a finding ------------------------------------------------------------------------------------------------


def _chapter(report: Report, figures: FindingFigures) -> dict[str, Any]:
    """Give the template everything about one finding."""
    evaluation, finding = report.evaluation, figures.finding
    ensemble = next((ensemble for ensemble in evaluation.ensembles if ensemble.finding == finding), None)
    subgroups = [subgroup for subgroup in evaluation.subgroups if subgroup.finding == finding]
    forest, ends = svg.forest([subgroup.auroc for subgroup in subgroups], figures.auroc.value)
    groups = [_Group(*pair) for pair in zip(subgroups, forest, strict=True)]
    return {
        "figures": figures,
        "plots": svg.of_finding(figures),
        "matrix": _shaded(figures),
        "groups": [
            (_ATTRIBUTES.get(attribute, spoken(attribute)), [*of_attribute])
            for attribute, of_attribute in itertools.groupby(groups, key=lambda group: group.figures.attribute)
        ],
        "ends": ends,
        "ensemble": ensemble,
        "prevalences": [row for row in evaluation.prevalences if row.finding == finding],
        "thresholds_assume": _assumed_prevalences(report, finding),
        "disagreement": svg.of_disagreement(ensemble) if ensemble else None,
        "kinds": _by_kind(report.pictures.get(finding, ())),
    }


def _assumed_prevalences(report: Report, finding: str) -> list[tuple[str, float]]:
    """List the models whose cards name the prevalence that their thresholds assume, with the prevalence."""
    of_model = {url: card.get("facts", {}).get("prevalence", {}) for url, card in report.cards.items()}
    return [(storage.last_part(url), known[finding]) for url, known in of_model.items() if finding in known]


def _shaded(figures: FindingFigures) -> list[tuple[str, list[tuple[int, float]]]]:
    """Give the rows of the confusion matrix: (label, [(studies, fraction of the row)])."""
    rows = matrix(figures.counts).tolist()
    return [
        (label, [(count, count / sum(row) if sum(row) else math.nan) for count in row])
        for label, row in zip(("positive", "negative"), rows, strict=True)
    ]


def _by_kind(pictures: Sequence[Picture]) -> list[tuple[str, list[Picture]]]:
    """Group neighbouring pictures of the same kind."""
    return [(kind, [*of_kind]) for kind, of_kind in itertools.groupby(pictures, key=lambda picture: picture.kind)]

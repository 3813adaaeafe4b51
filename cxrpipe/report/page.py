"""What report.html is given: an evaluation, what was run, what became of the studies, and pictures."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from cxrpipe.evaluation.figures import Evaluation, FindingFigures, SubgroupFigures
from cxrpipe.records import REASONS
from cxrpipe.report import html, svg
from cxrpipe.report.gallery import Picture
from cxrpipe.report.words import DECISIONS, PROBABILITIES, matrix, spoken

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
    forest: svg.Forest


def render(report: Report) -> str:
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
        chapters=[_chapter(report, figures) for figures in evaluation.findings],
        mask_kinds=_by_kind(report.mask_pictures),
        optimistic=any(point.optimistic for figures in evaluation.findings for point in figures.operating_points),
    )


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
    forest, ends = svg.forest([each.auroc for each in own], figures.auroc.value)
    groups = [_Group(*pair) for pair in zip(own, forest, strict=True)]
    return {
        "figures": figures,
        "plots": svg.of_finding(figures),
        "matrix": _shaded(figures),
        "groups": [
            (_ATTRIBUTES.get(attribute, spoken(attribute)), [*found])
            for attribute, found in itertools.groupby(groups, key=lambda group: group.figures.attribute)
        ],
        "ends": ends,
        "ensemble": ensemble,
        "disagreement": svg.of_disagreement(ensemble) if ensemble else None,
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

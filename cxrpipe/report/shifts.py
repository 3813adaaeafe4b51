"""The robustness panel: a table on the terminal, and the page shifts.html with small multiples."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from cxrpipe.evaluation.metrics import Estimate
from cxrpipe.evaluation.shifts import LUNGS, CopyFigures, as_table
from cxrpipe.evaluation.to_json import INTERVAL
from cxrpipe.images.corruptions import CLEAN, GRADES, MEANINGS, Copy
from cxrpipe.records import ModelReport
from cxrpipe.report import html, svg
from cxrpipe.report.terminal import figures_table
from cxrpipe.report.words import figure, percent, spoken, text

NAMES = {"drift": "Drift", "crossed": "Crossed", "dice": "Dice"}
_DRAWN = ("auroc", "dice", "sensitivity", "specificity")
_KINDS = {"auroc": "curve", "dice": "curve", "sensitivity": "positive dashed", "specificity": "rust"}
_FULL_WIDTH = 100


@dataclass(frozen=True, eq=False, kw_only=True)
class ShiftReport:
    """A robustness panel."""

    studies: str
    """The study table, or the archive that was indexed for the panel."""
    split: str
    sampled: int
    models: tuple[ModelReport, ...]
    fingerprint: str
    seed: int
    resamples: int
    figures: tuple[CopyFigures, ...]

    def groups(self) -> Iterator[tuple[str, list[CopyFigures]]]:
        """What was measured (a finding, all findings, the lungs), and its figures under every copy, the clean first."""
        for of, rows in itertools.groupby(self.figures, key=lambda row: row.of):
            yield of, list(rows)

    def as_json(self) -> dict[str, Any]:
        facts = {
            name: getattr(self, name) for name in ("studies", "split", "sampled", "fingerprint", "seed", "resamples")
        }
        models = [{"url": model.url, "weights_sha256": model.weights_sha256} for model in self.models]
        return facts | {"interval": INTERVAL, "models": models, "figures": as_table(self.figures).to_pylist()}


def name_of(name: str) -> str:
    return NAMES.get(name) or figure(name)


# ---- terminal -------------------------------------------------------------------------------------------------


def print_shifts(report: ShiftReport, console: Console) -> None:
    """Print one table: the mean of all findings where there are several; the page has the others."""
    groups = dict(report.groups())
    for of in [next(iter(groups)), *([LUNGS] if len(groups) > 1 and LUNGS in groups else [])]:
        rows = groups[of]
        names = list(rows[0].figures)
        table = figures_table(spoken(of), "grade", *(name_of(name) for name in names))
        for row in rows:
            if row.copy.grade == 1:
                table.add_section()
            wide = console.width >= _FULL_WIDTH
            cells = (_cell(name, row.figures[name], wide and name in ("auroc", "dice")) for name in names)
            table.add_row(row.copy.corruption, "" if row.copy == CLEAN else str(row.copy.grade), *cells)
        console.print(table)
    console.print(
        " In brackets: 95% intervals over resampled patients. Decisions: the consensus, at the cards' thresholds.\n"
        " Drift: mean change of the probability; crossed: studies with another decision, against the clean copy.\n"
        " For research; not a medical device.",
        style="dim",
        highlight=False,
    )


def _cell(name: str, estimate: Estimate, interval: bool) -> str:
    if name in ("sensitivity", "specificity", "balanced_accuracy", "crossed"):
        return percent(estimate, interval=interval)
    return "–" if math.isnan(estimate.value) else text(estimate, 3, interval)


# ---- page -----------------------------------------------------------------------------------------------------


def render_shifts(report: ShiftReport) -> str:
    """Render the page; HTML."""
    return html.page(
        "shifts.html.j2",
        numbers="shifts.json and shifts.parquet",
        report=report,
        meanings=MEANINGS,
        chapters=[_chapter(of, rows) for of, rows in report.groups()],
    )


def _chapter(of: str, rows: Sequence[CopyFigures]) -> dict[str, Any]:
    by_copy = {row.copy: row for row in rows}
    names = list(rows[0].figures)
    drawn = [name for name in _DRAWN if name in names]
    values = [row.figures[name].low for row in rows for name in drawn]
    lowest = math.floor(10 * min((value for value in values if not math.isnan(value)), default=0)) / 10
    lowest = max(0.0, min(lowest, 0.9))
    return {
        "of": of,
        "studies": rows[0].studies,
        "names": {name: name_of(name) for name in names},
        "drawn": drawn,
        "clean": by_copy[CLEAN],
        "plots": [_plot(corruption, by_copy, drawn, lowest) for corruption in MEANINGS],
        "corruptions": [
            (corruption, [by_copy[Copy(corruption, grade)] for grade in GRADES]) for corruption in MEANINGS
        ],
    }


def _plot(corruption: str, by_copy: dict[Copy, CopyFigures], names: Sequence[str], lowest: float) -> svg.Plot:
    """Plot figures against the grade, 0 to 3; `lowest` is the lower end of the axis."""
    rows = [by_copy[CLEAN], *(by_copy[Copy(corruption, grade)] for grade in GRADES)]
    return svg.of_grades(
        spoken(corruption).capitalize(),
        {_KINDS[name]: [row.figures[name] for row in rows] for name in names},
        lowest,
    )

"""Figures on the terminal: one row per finding, and how often the consensus is right and wrong."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cxrpipe.evaluation.figures import FindingFigures, MaskFigures
from cxrpipe.evaluation.findings import mean_auroc
from cxrpipe.evaluation.readers import Agreement, ReviewFacts
from cxrpipe.evaluation.weighted import WeightedFigures
from cxrpipe.report.words import matrix, number, percent, spoken, studies, text

_MOST_PAIRS = 40
"""Agreements that are printed; of more, those of readers with each other are left out."""


def print_figures(findings: Sequence[FindingFigures], masks: MaskFigures | None, console: Console) -> None:
    """Print an evaluation. Below 100 columns, sensitivity and specificity are printed without intervals."""
    if findings:
        console.print(_figures_table(findings, wide=console.width >= 100))
        console.print(_counts_table(findings))
    if masks is not None:
        fits = f"Dice {text(masks.dice, 3)}, IoU {text(masks.iou, 3)}"
        console.print(f" masks of {studies(masks.studies)}: {fits}\n", highlight=False)
    console.print(
        " In brackets: 95% intervals over resampled patients. Decisions are those of the consensus.\n"
        " For research; not a medical device.",
        style="dim",
        highlight=False,
    )


def print_reviews(reviews: ReviewFacts, weighted: Sequence[WeightedFigures], console: Console) -> None:
    """Print how far the readers agree, and the figures of the whole archive that reading lists give."""
    few = len(reviews.agreements) <= _MOST_PAIRS
    shown = [each for each in reviews.agreements if few or each.other is None]
    console.print(_agreements_table(shown))
    if hidden := len(reviews.agreements) - len(shown):
        console.print(f" {hidden:,} agreements of two readers stand in metrics.json", style="dim", highlight=False)
    for name, of_list in itertools.groupby(weighted, key=lambda figures: figures.reading_list):
        rows = [*of_list]
        console.print(_weighted_table(rows))
        console.print(Text(f" reading list {name}", style="dim"))
        if missing := sorted({stratum for figures in rows for stratum in figures.unread_strata}):
            console.print(f" Nobody has read a study of: {'; '.join(missing)}. The figures leave them out.")
    console.print(" Labels are verdicts of readers who had seen the model's answer.", style="dim", highlight=False)


def _agreements_table(agreements: Sequence[Agreement]) -> Table:
    table = figures_table("agreement on", "of", "with", "studies", "alike", "Cohen's kappa", words=3)
    for each in agreements:
        names = Text(each.reader), Text(each.other or "the ensemble, as shown")  # a name may look like markup
        alike, kappa = f"{100 * each.alike:.0f}%", number(each.kappa)
        table.add_row(spoken(each.finding), *names, f"{each.studies:,}", alike, kappa)
    return table


def _weighted_table(weighted: Sequence[WeightedFigures]) -> Table:
    """The figures of one reading list."""
    columns = ("prevalence", "sensitivity", "specificity")
    table = figures_table(f"weighted back to {weighted[0].population:,} studies", "read", *columns)
    for figures in weighted:
        values = (percent(getattr(figures, column), interval=True) for column in columns)
        table.add_row(spoken(figures.finding), f"{figures.studies:,} of {figures.listed:,}", *values)
    return table


def _figures_table(findings: Sequence[FindingFigures], wide: bool) -> Table:
    decisions = ("sensitivity", "specificity") if wide else ("sens.", "spec.")
    table = figures_table("finding", "studies", "positive", "AUROC", *decisions, "F1")
    for figures in findings:
        table.add_row(
            spoken(figures.finding),
            f"{figures.studies:,}",
            f"{figures.positives:,}",
            text(figures.auroc, 3),
            percent(figures.sensitivity, interval=wide),
            percent(figures.specificity, interval=wide),
            text(figures.f1, 2, interval=False),
        )
    if len(findings) > 1:
        table.add_section()
        table.add_row("mean", "", "", text(mean_auroc(findings), 3))
    return table


def _counts_table(findings: Sequence[FindingFigures]) -> Table:
    table = figures_table("confusion", "true +", "false −", "false +", "true −", "left out", "unscored")
    for figures in findings:
        positive, negative = matrix(figures.counts).tolist()
        numbers = (*positive, *negative, figures.left_out, figures.unscored)
        table.add_row(spoken(figures.finding), *(f"{number:,}" for number in numbers))
    return table


def figures_table(*headings: str, words: int = 1) -> Table:
    """Build a table without rows: the first `words` columns are for words, the others for numbers."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), header_style="bold")
    for heading in headings[:words]:
        table.add_column(heading)
    for heading in headings[words:]:
        table.add_column(heading, justify="right", no_wrap=True)
    return table

"""Figures on the terminal: one row per finding, and how often the consensus is right and wrong."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from cxrpipe.evaluation.figures import FindingFigures, MaskFigures
from cxrpipe.evaluation.findings import mean_auroc
from cxrpipe.report.words import matrix, percent, spoken, studies, text


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

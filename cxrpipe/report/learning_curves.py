"""What a training looked like, for people: the table of its epochs, history.csv, and its curves as PNG."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich import box
from rich.table import Table

from cxrpipe.models.card import Card
from cxrpipe.report.figures import DPI
from cxrpipe.report.sheet import png_of
from cxrpipe.report.words import BLUE, GREY, INK, PALE, RUST
from cxrpipe.training.epochs import History, best_epoch


def metric_of(card: Card) -> str:
    """The name of what `score` is."""
    return "Dice" if card.task == "segment" else "AUROC"


def epoch_table(history: History, card: Card, best: str) -> Table:
    """One row per epoch; the one that was kept stands out."""
    kept = best_epoch(history, best)["epoch"]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), header_style="bold")
    for heading in ("epoch", "loss", "valid loss", f"valid {metric_of(card)}", "rate", "s"):
        table.add_column(heading, justify="right", no_wrap=True)
    for epoch in history:
        is_kept = epoch["epoch"] == kept
        numbers = (_said(epoch[name], ".4f") for name in ("train_loss", "valid_loss", "score"))
        table.add_row(
            f"{'kept ' if is_kept else ''}{epoch['epoch']}",
            *numbers,
            _said(epoch["learning_rate"], ".2g"),
            _said(epoch["seconds"], ".0f"),
            style="bold" if is_kept else "",
        )
    return table


def history_csv(history: History) -> bytes:
    """One row per epoch; empty where a number has no meaning. The AUROC of a finding is its `auroc_<finding>`."""
    findings = list(history[0]["per_finding"])
    names = ["epoch", "train_loss", "valid_loss", "score", "learning_rate", "seconds"]
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow([*names, *(f"auroc_{finding}" for finding in findings)])
    for epoch in history:
        values = [*(epoch[name] for name in names), *(epoch["per_finding"][finding] for finding in findings)]
        writer.writerow(["" if value is None else value for value in values])
    return lines.getvalue().encode()


def draw_curves(history: History, card: Card, best: str) -> bytes:
    """Loss, metric and learning rate by epoch, side by side; a line where the kept epoch is; PNG."""
    epochs = [epoch["epoch"] for epoch in history]
    figure = Figure(figsize=(9.6, 3.0), layout="constrained")
    panels: list[Axes] = list(figure.subplots(1, 3))
    for axes, title in zip(panels, ("loss", f"valid {metric_of(card)}", "learning rate"), strict=True):
        axes.set_title(title, fontsize=9.5, color=INK, loc="left")
        axes.axvline(best_epoch(history, best)["epoch"], color=PALE, linewidth=1.2)
        axes.tick_params(labelsize=7, colors=GREY, length=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        for spine in axes.spines.values():
            spine.set_color(PALE)
    mark = "o" if len(history) == 1 else ""  # one epoch makes no line
    panels[0].plot(epochs, _numbers(history, "train_loss"), marker=mark, color=GREY, label="train")
    panels[0].plot(epochs, _numbers(history, "valid_loss"), marker=mark, color=BLUE, label="valid")
    panels[0].legend(fontsize=7, frameon=False, labelcolor=INK)
    panels[1].plot(epochs, _numbers(history, "score"), marker=mark, color=BLUE)
    panels[2].plot(epochs, _numbers(history, "learning_rate"), marker=mark, color=RUST)
    figure.supxlabel("epoch (grey line: the one that was kept)", fontsize=8, color=INK)
    return png_of(figure, DPI)


def _numbers(history: History, name: str) -> Sequence[float]:
    return [np.nan if epoch[name] is None else epoch[name] for epoch in history]


def _said(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)

"""A training for people: a table of its epochs, history.csv, and its curves as PNG."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.table import Table

from cxrpipe.report.figures import DPI
from cxrpipe.report.sheet import png_of
from cxrpipe.report.terminal import figures_table
from cxrpipe.report.words import BLUE, GREY, INK, PALE, RUST


class EpochFigures(Protocol):
    """The figures of one epoch (`cxrpipe.training.epochs.Epoch`); None: not defined."""

    @property
    def epoch(self) -> int: ...
    @property
    def train_loss(self) -> float | None: ...
    @property
    def valid_loss(self) -> float | None: ...
    @property
    def score(self) -> float | None: ...
    @property
    def accuracy(self) -> float | None: ...
    @property
    def per_finding(self) -> Mapping[str, float | None]: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def seconds(self) -> float: ...


def epoch_table(history: Sequence[EpochFigures], metric: str, kept: int) -> Table:
    """Print one row per epoch; the row of the epoch that is kept is bold.

    metric  the metric of `score`: AUROC or Dice
    kept    number of the epoch that is kept
    """
    accuracy = ["valid accuracy"] if any(epoch.accuracy is not None for epoch in history) else []
    table = figures_table("epoch", "loss", "valid loss", f"valid {metric}", *accuracy, "rate", "s", words=0)
    for epoch in history:
        is_kept = epoch.epoch == kept
        numbers = [epoch.train_loss, epoch.valid_loss, epoch.score, *([epoch.accuracy] if accuracy else [])]
        table.add_row(
            f"{'kept ' if is_kept else ''}{epoch.epoch}",
            *(_formatted(number, ".4f") for number in numbers),
            _formatted(epoch.learning_rate, ".2g"),
            _formatted(epoch.seconds, ".0f"),
            style="bold" if is_kept else "",
        )
    return table


def history_csv(history: Sequence[EpochFigures]) -> bytes:
    """Write one row per epoch. An empty cell is a figure that is not defined."""
    findings = list(history[0].per_finding)
    names = ["epoch", "train_loss", "valid_loss", "score", "accuracy", "learning_rate", "seconds"]
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow([*names, *(f"auroc_{finding}" for finding in findings)])
    for epoch in history:
        values = [*(getattr(epoch, name) for name in names), *(epoch.per_finding[finding] for finding in findings)]
        writer.writerow(["" if value is None else value for value in values])
    return lines.getvalue().encode()


def draw_curves(history: Sequence[EpochFigures], metric: str, kept: int) -> bytes:
    """Draw loss, metric, accuracy (of a classifier) and learning rate by epoch, side by side; PNG.

    A line marks the epoch that is kept.
    """
    epochs = [epoch.epoch for epoch in history]
    curves = {f"valid {metric}": [e.score for e in history], "valid accuracy": [e.accuracy for e in history]}
    curves = {title: numbers for title, numbers in curves.items() if any(number is not None for number in numbers)}
    figure = Figure(figsize=(3.2 * (2 + len(curves)), 3.0), layout="constrained")
    panels: list[Axes] = list(figure.subplots(1, 2 + len(curves)))
    for axes, title in zip(panels, ("loss", *curves, "learning rate"), strict=True):
        axes.set_title(title, fontsize=9.5, color=INK, loc="left")
        axes.axvline(kept, color=PALE, linewidth=1.2)
        axes.tick_params(labelsize=7, colors=GREY, length=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        for spine in axes.spines.values():
            spine.set_color(PALE)
    mark = "o" if len(history) == 1 else ""  # one epoch has no line, only a point
    panels[0].plot(epochs, _plotted(e.train_loss for e in history), marker=mark, color=GREY, label="train")
    panels[0].plot(epochs, _plotted(e.valid_loss for e in history), marker=mark, color=BLUE, label="valid")
    panels[0].legend(fontsize=7, frameon=False, labelcolor=INK)
    for axes, numbers in zip(panels[1:], curves.values(), strict=False):
        axes.plot(epochs, _plotted(numbers), marker=mark, color=BLUE)
    panels[-1].plot(epochs, _plotted(e.learning_rate for e in history), marker=mark, color=RUST)
    figure.supxlabel("epoch (grey line: the epoch that was kept)", fontsize=8, color=INK)
    return png_of(figure, DPI)


def _plotted(numbers: Iterable[float | None]) -> list[float]:
    return [np.nan if number is None else number for number in numbers]


def _formatted(number: float | None, form: str) -> str:
    return "–" if number is None else format(number, form)

"""What the epochs of a training said, and which of them is the best."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from cxrpipe.models.card import Card

History = list[dict[str, Any]]
"""The epochs so far, as plain values."""


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON knows them: null for nan and infinity."""
    return {
        key: plain(value)
        if isinstance(value, dict)
        else None
        if isinstance(value, float) and not np.isfinite(value)
        else value
        for key, value in values.items()
    }


def describe(card: Card, epoch: Mapping[str, Any]) -> str:
    """An epoch in one line."""
    name = "Dice" if card.task == "segment" else "AUROC"
    numbers = {"loss": epoch["train_loss"], "valid loss": epoch["valid_loss"], f"valid {name}": epoch["score"]}
    said = ("not defined" if number is None else f"{number:.4f}" for number in numbers.values())
    return ", ".join(f"{what} {number}" for what, number in zip(numbers, said, strict=True))


def best_epoch(history: History, best: str = "score") -> Mapping[str, Any]:
    """The epoch with the best score; the lowest loss where no score has a meaning."""
    return max(history, key=lambda epoch: rank(epoch, best))


def rank(epoch: Mapping[str, Any], best: str = "score") -> float:
    """Higher is better, and always finite (Ray keeps it as JSON).

    Without a score (one class in the valid split) the loss decides, below any score; without a loss nothing is lower.

    best  `score`, `loss`, or the finding whose AUROC decides
    """
    loss = epoch["valid_loss"]
    score = None if best == "loss" else epoch["score"] if best == "score" else epoch["per_finding"].get(best)
    return score if score is not None else -1e6 - min(1e6 if loss is None else loss, 1e6)


def waited(history: History, best: str = "score") -> int:
    """Epochs since the best one."""
    return history[-1]["epoch"] - best_epoch(history, best)["epoch"] if history else 0

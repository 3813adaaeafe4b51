"""The epochs of a training: what each of them measured, and which of them is the best."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cxrpipe.models.card import Card


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What one epoch measured. None stands for a number that is not defined: not a number, or not finite."""

    epoch: int
    """From 1."""
    train_loss: float | None
    """Mean over the cells of the epoch, of all workers."""
    valid_loss: float | None
    """Mean over the labelled cells of the valid split, or over its images."""
    score: float | None
    """On the valid split: the mean AUROC of the findings, or the mean Dice."""
    per_finding: dict[str, float | None]
    """Finding → AUROC on the valid split; empty for a segmenter."""
    learning_rate: float
    """At the end of the epoch."""
    seconds: float
    """Wall time since the previous result, including its checkpoint."""

    @classmethod
    def of(cls, *, per_finding: dict[str, float], **numbers: float) -> "Epoch":
        """An epoch of measured numbers; those that are not finite become None."""
        measured: dict[str, Any] = {name: _defined(number) for name, number in numbers.items()}
        return cls(**measured, per_finding={finding: _defined(auroc) for finding, auroc in per_finding.items()})


History = list[Epoch]
"""The epochs so far, in order."""


def to_json(history: Sequence[Epoch]) -> str:
    return json.dumps(plain(history))


def from_json(text: str) -> History:
    return [Epoch(**epoch) for epoch in json.loads(text)]


def plain(history: Sequence[Epoch]) -> list[dict[str, Any]]:
    """The epochs as JSON knows them: null for what is not defined."""
    return [asdict(epoch) for epoch in history]


def metric_of(card: Card) -> str:
    """The name of the metric that `Epoch.score` is."""
    return "Dice" if card.task == "segment" else "AUROC"


def describe(card: Card, epoch: Epoch) -> str:
    """An epoch in one line."""
    return ", ".join(_described(card, epoch))


def _described(card: Card, epoch: Epoch) -> Iterator[str]:
    numbers = {"loss": epoch.train_loss, "valid loss": epoch.valid_loss, f"valid {metric_of(card)}": epoch.score}
    for name, number in numbers.items():
        yield f"{name} not defined" if number is None else f"{name} {number:.4f}"


def best_epoch(history: Sequence[Epoch], best: str = "score") -> Epoch:
    """The epoch with the highest `rank`."""
    return max(history, key=lambda epoch: rank(epoch, best))


def rank(epoch: Epoch, best: str = "score") -> float:
    """How good an epoch is: higher is better. The number is always finite, because Ray keeps it as JSON.

    Where the score is not defined (the valid split knows one class only) the loss decides, and ranks below any score.
    An epoch without a finite loss ranks lowest.

    best  `score`, `loss`, or the finding whose AUROC decides
    """
    score = None if best == "loss" else epoch.score if best == "score" else epoch.per_finding.get(best)
    loss = 1e6 if epoch.valid_loss is None else epoch.valid_loss
    return score if score is not None else -1e6 - min(loss, 1e6)


def epochs_since_best(history: Sequence[Epoch], best: str = "score") -> int:
    return history[-1].epoch - best_epoch(history, best).epoch if history else 0


def _defined(number: float) -> float | None:
    return number if math.isfinite(number) else None

"""The epochs of a training: the figures of every epoch, and which epoch is the best."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cxrpipe.models.card import Card

_LATER = 1e-9


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """The figures of one epoch. None stands for a figure that is nan or infinite."""

    epoch: int
    """From 1."""
    train_loss: float | None
    """Mean over all cells of the epoch, on all workers."""
    valid_loss: float | None
    """Mean over the labelled cells of the valid split, or over its images."""
    score: float | None
    """Mean AUROC of the findings, or mean Dice, on the valid split."""
    per_finding: dict[str, float | None]
    """Finding → AUROC on the valid split; empty for a segmenter."""
    learning_rate: float
    """At the end of the epoch."""
    seconds: float
    """Wall time since the previous result, including the copy for its checkpoint."""
    accuracy: float | None = None
    """Mean over the findings of the fraction of labels that are right at a probability of 0.5, on the valid split; None
    for a segmenter, and in histories that are older than this figure."""

    @property
    def validated(self) -> bool:
        """Whether the epoch has a figure of a valid split; a refit has none."""
        return self.valid_loss is not None or self.score is not None

    @classmethod
    def of(cls, *, per_finding: dict[str, float], **numbers: float) -> "Epoch":
        """Build an epoch of measured numbers; numbers that are not finite become None."""
        measured: dict[str, Any] = {name: _defined(number) for name, number in numbers.items()}
        return cls(**measured, per_finding={finding: _defined(auroc) for finding, auroc in per_finding.items()})


History = list[Epoch]
"""The epochs so far, in order."""


def to_json(history: Sequence[Epoch]) -> str:
    return json.dumps(plain(history))


def from_json(text: str) -> History:
    return [Epoch(**epoch) for epoch in json.loads(text)]


def plain(history: Sequence[Epoch]) -> list[dict[str, Any]]:
    """Convert the epochs to plain values for JSON; figures that are not defined are null."""
    return [asdict(epoch) for epoch in history]


def metric_of(card: Card) -> str:
    """Name the metric of `Epoch.score`."""
    return "Dice" if card.task == "segment" else "AUROC"


def describe(card: Card, epoch: Epoch) -> str:
    """Describe an epoch in one line."""
    return ", ".join(_described(card, epoch))


def _described(card: Card, epoch: Epoch) -> Iterator[str]:
    numbers = {"loss": epoch.train_loss}
    if epoch.validated:
        numbers |= {"valid loss": epoch.valid_loss, f"valid {metric_of(card)}": epoch.score}
        numbers |= {} if epoch.accuracy is None else {"valid accuracy": epoch.accuracy}
    for name, number in numbers.items():
        yield f"{name} not defined" if number is None else f"{name} {number:.4f}"


def best_epoch(history: Sequence[Epoch], best: str = "score") -> Epoch:
    """Find the epoch with the highest `rank`."""
    return max(history, key=lambda epoch: rank(epoch, best))


def rank(epoch: Epoch, best: str = "score") -> float:
    """Rate an epoch by a finite number, because Ray keeps it as JSON; higher is better.

    Where the score is not defined (the valid split has one class only), the loss decides and ranks below any score.
    An epoch without a finite loss ranks lowest.

    best  `score`, `loss`, `accuracy`, `last`, or the finding whose AUROC decides
    """
    if best == "last":
        return float(epoch.epoch)
    whole = {"score": epoch.score, "loss": None, "accuracy": epoch.accuracy}
    score = whole[best] if best in whole else epoch.per_finding.get(best)
    loss = 1e6 if epoch.valid_loss is None else epoch.valid_loss
    return score if score is not None else -1e6 - min(loss, 1e6)


def rank_once(epoch: Epoch, best: str = "score") -> float:
    """The rank of an epoch, lower by a billionth for each epoch before it.

    Ray keeps the last of checkpoints with equal ranks, and `best_epoch` finds the first. An accuracy has few values.
    """
    return rank(epoch, best) - epoch.epoch * _LATER


def epochs_since_best(history: Sequence[Epoch], best: str = "score") -> int:
    """Count the epochs after the best one; 0 without epochs."""
    return history[-1].epoch - best_epoch(history, best).epoch if history else 0


def _defined(number: float) -> float | None:
    return number if math.isfinite(number) else None

"""Fine-tuning as a plain loop over epochs. It knows nothing of Ray: it takes iterators and yields results."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cxrpipe import metrics
from cxrpipe.cards import Card
from cxrpipe.losses import Loss
from cxrpipe.predict import normalise

Batch = tuple[Tensor, Tensor]
"""(N, 1, S, S) uint8 pixels and their targets, (N, F) float or (N, 1, S, S) float, on any device."""
Gather = Callable[[list[Any]], list[Any]]
"""Joins what every worker holds; alone it returns what it is given."""
_NAN = float("nan")


@dataclass(frozen=True)
class EpochResult:
    epoch: int
    """From 1."""
    train_loss: float
    """Mean over this worker's steps."""
    valid_loss: float
    """Mean over the cells of the valid split that have a label, or over its pixels."""
    score: float
    """Of the valid split: mean AUROC of the findings, or mean Dice; nan where it has no meaning."""
    per_finding: dict[str, float]
    """AUROC of each finding."""
    seconds: float


def fit(
    network: nn.Module,
    card: Card,
    loss_of: Loss,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    train: Callable[[int], Iterable[Batch]],
    valid: Callable[[], Iterable[Batch]],
    epochs: range,
    seed: int = 0,
    gather: Gather = lambda own: own,
) -> Iterator[EpochResult]:
    """Train for `epochs`, yielding after each. Whoever iterates decides what to save, log or stop.

    Randomness follows from seed and epoch alone, so that a resumed training goes on as an undisturbed one.
    """
    device = next(network.parameters()).device
    for epoch in epochs:
        started = time.monotonic()
        torch.manual_seed(seed * 100_003 + epoch)
        network.train()
        total, steps = torch.zeros((), device=device), 0
        for pixels, targets in train(epoch):
            loss = loss_of(network(normalise(pixels.to(device), card)), targets.to(device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.detach()  # no .item(): it would wait for the GPU at every step
            steps += 1
        outcome = validate(getattr(network, "module", network), card, loss_of, valid(), gather)
        yield EpochResult(
            epoch=epoch + 1,
            train_loss=float(total) / max(steps, 1),
            seconds=round(time.monotonic() - started, 2),
            **outcome,
        )


@torch.inference_mode()
def validate(network: nn.Module, card: Card, loss_of: Loss, batches: Iterable[Batch], gather: Gather) -> dict[str, Any]:
    """Loss and score over the batches of all workers together; no mean of means.

    Both are nan where a loss is not finite (the training diverged) or no target is known.
    """
    device = next(network.parameters()).device
    network.eval()
    outcomes: list[Any] = []
    for pixels, targets in batches:
        targets = targets.to(device)
        logits = network(normalise(pixels.to(device), card))
        cells = int((~targets.isnan()).sum())  # what the loss is a mean over
        outcomes.append((float(loss_of(logits, targets)) * cells, cells, _judge(card.task, logits, targets)))
    outcomes = gather(outcomes)
    cells = sum(cells for _, cells, _ in outcomes)
    valid_loss = sum(loss for loss, _, _ in outcomes) / cells if cells else _NAN
    judgements: list[Any] = [judged for _, _, judged in outcomes]
    if not np.isfinite(valid_loss):
        return {"valid_loss": valid_loss, "score": _NAN, "per_finding": dict.fromkeys(card.findings, _NAN)}
    if card.task == "segment":
        dices = [overlap.dice for overlaps in judgements for overlap in overlaps]
        return {"valid_loss": valid_loss, "score": _mean(dices), "per_finding": {}}
    per_finding = _aurocs(judgements, card.findings)
    return {"valid_loss": valid_loss, "score": _mean(list(per_finding.values())), "per_finding": per_finding}


def _judge(task: str, logits: Tensor, targets: Tensor) -> Any:
    """What the score needs of one batch: overlaps of masks, or probabilities beside targets."""
    return _overlaps(logits, targets) if task == "segment" else (_array(logits.sigmoid()), _array(targets))


def _overlaps(logits: Tensor, targets: Tensor) -> list[metrics.Overlap]:
    predicted, truth = _array(logits[:, 0] > 0), _array(targets[:, 0] > 0.5)
    return [metrics.overlap(*pair) for pair in zip(predicted, truth, strict=True)]


def _aurocs(judged: list[tuple[np.ndarray, np.ndarray]], findings: tuple[str, ...]) -> dict[str, float]:
    """AUROC per finding over all images with a label; nan where the valid split knows only one side."""
    probs, targets = (np.concatenate(arrays) for arrays in zip(*judged, strict=True))
    aurocs = {}
    for column, finding in enumerate(findings):
        known = ~np.isnan(targets[:, column])
        aurocs[finding] = metrics.auroc(targets[known, column] == 1, probs[known, column])
    return aurocs


def _mean(values: list[float]) -> float:
    """Of those that have a meaning; nan where none has."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else _NAN


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.cpu().numpy()

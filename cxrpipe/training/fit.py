"""Fine-tuning as a plain loop over epochs, without Ray: it takes iterators of batches and yields epochs."""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cxrpipe.evaluation import metrics
from cxrpipe.models.card import Card
from cxrpipe.models.normalise import normalise
from cxrpipe.models.precision import autocast
from cxrpipe.training.average import MovingAverage
from cxrpipe.training.distributed import ALONE, WorkerGroup
from cxrpipe.training.epochs import Epoch
from cxrpipe.training.freezing import train_mode
from cxrpipe.training.losses import Loss
from cxrpipe.training.optim import Schedule

Batch = tuple[Tensor, Tensor]
"""(N, 1, S, S) uint8 pixels (or float, 0..1) and targets, (N, F) or (N, 1, S, S) float, on any device."""
_NAN = float("nan")


class StepOptions(NamedTuple):
    """How the optimiser makes a step."""

    accumulate: int = 1
    """Batches whose gradients are summed for one step."""
    clip: float = 0.0
    """Greatest norm of the gradient; 0: gradients are not clipped."""
    precision: str = "fp32"
    """Arithmetic of a step: fp32, tf32, bf16 or fp16."""
    validated_in: str = "fp32"
    """Arithmetic of validation."""


PLAIN = StepOptions()
OnStep = Callable[[Tensor, float], None]
"""A listener, called after every step with cost and cells of the epoch so far, (2,) on the device, and the rate."""


def ignore_steps(total: Tensor, rate: float) -> None:
    """Listen to no step."""


class Validation(NamedTuple):
    """The figures of a network on the valid split; nan where a figure is not defined."""

    valid_loss: float
    score: float
    """Mean AUROC of the findings, or mean Dice."""
    per_finding: dict[str, float]
    """Finding → AUROC."""
    accuracy: float = _NAN
    """Mean over the findings of the fraction of labels that are right at 0.5; nan for a segmenter."""


def fit(
    network: nn.Module,
    card: Card,
    loss: Loss,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    train: Callable[[int], Iterable[Batch]],
    valid: Callable[[], Iterable[Batch]],
    epochs: range,
    seed: int = 0,
    options: StepOptions = PLAIN,
    workers: WorkerGroup = ALONE,
    on_step: OnStep = ignore_steps,
    average: MovingAverage | None = None,
    scaler: torch.amp.GradScaler | None = None,
) -> Iterator[Epoch]:
    """Train for `epochs`, and yield after each of them. The caller decides what to save, when to log and when to stop.

    average  the average of the network over its steps: updated after every step, and validated in its place
    scaler   scales the losses of a training in fp16

    Seed, epoch and rank alone decide what is random, so a resumed training continues as an undisturbed one would.
    """
    bare = getattr(network, "module", network)  # without the wrapper of DDP
    device = next(network.parameters()).device
    scaler = scaler or torch.amp.GradScaler(enabled=False)
    started = time.monotonic()
    for epoch in epochs:
        torch.manual_seed(seed * 100_003 + epoch + workers.rank * 1_000_003)
        train_mode(bare)
        total = torch.zeros(2, device=device)  # cost and cells; .item() would wait for the GPU at every step
        for batches in _grouped(train(epoch), options.accumulate):
            total += backward(network, card, loss, batches, options.precision, workers, scaler)
            if options.clip:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(network.parameters(), options.clip)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            if average:
                average.update()
            on_step(total, optimizer.param_groups[0]["lr"])
            schedule.step()
        cost, cells = workers.add(total).tolist()
        validated = average.module if average else bare
        validation = validate(validated, card, loss, valid(), workers, options.validated_in)
        ended, began = time.monotonic(), started
        started = ended  # the seconds of an epoch include the work of the caller after the previous one
        yield Epoch.of(
            epoch=epoch + 1,
            train_loss=cost / max(cells, 1),
            learning_rate=optimizer.param_groups[0]["lr"],
            **validation._asdict(),
            seconds=round(ended - began, 2),
        )


def backward(
    network: nn.Module,
    card: Card,
    loss: Loss,
    batches: Sequence[Batch],
    precision: str,
    workers: WorkerGroup,
    scaler: torch.amp.GradScaler | None = None,
) -> Tensor:
    """Add the gradient of the mean cost over all cells, of these batches on all workers.

    DDP averages over workers, so every worker multiplies its sum by their number. Gives cost and cells of this worker.
    """
    device = next(network.parameters()).device
    scaler = scaler or torch.amp.GradScaler(enabled=False)
    cells = torch.stack([loss.cells(targets.to(device)) for _, targets in batches]).sum()
    scale = workers.size / workers.add(cells).clamp(min=1)
    total = torch.zeros((), device=device)
    for number, (pixels, targets) in enumerate(batches, start=1):
        with contextlib.ExitStack() as stack:
            if isinstance(network, DistributedDataParallel) and number < len(batches):
                stack.enter_context(network.no_sync())  # gradients cross once per step
            with autocast(device, precision):
                logits = network(normalise(pixels.to(device), card))
            cost = loss.cost(logits.float(), targets.to(device))
            torch.autograd.backward(scaler.scale(cost * scale))
            total += cost.detach()
    return torch.stack([total, cells])


def _grouped(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    remaining = iter(batches)
    while group := list(itertools.islice(remaining, size)):
        yield group


@torch.inference_mode()
def validate(
    network: nn.Module,
    card: Card,
    loss: Loss,
    batches: Iterable[Batch],
    workers: WorkerGroup = ALONE,
    precision: str = "fp32",
) -> Validation:
    """Compute loss and score over the batches of all workers together, not as a mean of means.

    The score is nan where the loss is not finite (the training diverged) or no target is known. Everything stays on the
    device until the last batch: to read a number of every batch would wait for the GPU as often.
    """
    device = next(network.parameters()).device
    network.eval()
    sums = torch.zeros(2, dtype=torch.float64, device=device)  # cost and cells
    outcomes: list[Tensor] = []
    for pixels, targets in batches:
        targets = targets.to(device)
        with autocast(device, precision):
            logits = network(normalise(pixels.to(device), card))
        logits = logits.float()
        sums += torch.stack([loss.cost(logits, targets), loss.cells(targets)])
        outcomes.append(_outcome(card, logits, targets))
    mine = [_array(torch.cat(outcomes))] if outcomes else []
    gathered = workers.gather([(*sums.tolist(), mine)])
    costs, cells, arrays = zip(*gathered, strict=True)
    valid_loss = sum(costs) / sum(cells) if sum(cells) else _NAN
    if not np.isfinite(valid_loss):
        return Validation(valid_loss, _NAN, dict.fromkeys(card.findings, _NAN))
    of_images = np.concatenate([array for of_worker in arrays for array in of_worker])
    if card.task == "segment":
        return Validation(valid_loss, _mean([metrics.Overlap(*counts).dice for counts in of_images.tolist()]), {})
    probs, known = np.split(of_images, 2, axis=1)
    per_finding = _aurocs(probs, known, card.findings)
    return Validation(valid_loss, _mean(list(per_finding.values())), per_finding, _accuracy(probs, known))


def _outcome(card: Card, logits: Tensor, targets: Tensor) -> Tensor:
    """Reduce a batch to what the score needs of N images.

    A classifier: (N, 2 F) float, F probabilities and F targets. A segmenter: (N, 3) int, the pixels of an `Overlap`.
    """
    if card.task == "segment":
        predicted, truth = logits[:, 0] > 0, targets[:, 0] > 0.5
        return torch.stack([mask.sum(dim=(1, 2)) for mask in (predicted & truth, predicted, truth)], dim=1)
    return torch.cat([logits[:, : len(card.findings)].sigmoid(), targets], dim=1)


def _aurocs(probs: np.ndarray, targets: np.ndarray, findings: tuple[str, ...]) -> dict[str, float]:
    """Compute the AUROC of every finding over all images with a label; nan where the valid split has one class only."""
    aurocs = {}
    for column, finding in enumerate(findings):
        known = ~np.isnan(targets[:, column])
        aurocs[finding] = metrics.auroc(targets[known, column] == 1, probs[known, column])
    return aurocs


def _accuracy(probs: np.ndarray, targets: np.ndarray) -> float:
    """Average over the findings the fraction of labels that are right at a probability of 0.5; nan without labels."""
    right = np.where(np.isnan(targets), np.nan, (probs >= 0.5) == (targets == 1))
    of_findings = [column[~np.isnan(column)] for column in right.T]
    return _mean([float(np.mean(column)) if len(column) else _NAN for column in of_findings])


def _mean(values: list[float]) -> float:
    """Average the values that are not nan; nan without any."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else _NAN


def _array(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.cpu().numpy()
    return array

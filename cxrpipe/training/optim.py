"""Optimisers and schedules of the learning rate."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from cxrpipe.config.train_sections import OptimConfig

_FLOOR = 1e-2
"""Fraction of the highest rate at which warm-up begins, and below which `plateau` does not go without `floor`."""
_RISE = 0.3
"""Fraction of one-cycle in which the rate rises, unless the settings name a warm-up."""


def make_optimizer(config: OptimConfig, parameters: Iterable[nn.Parameter], rate: float) -> torch.optim.Optimizer:
    """Build the optimiser of the parameters that learn.

    A fused step passes over memory once: it takes a third of the time (AdamW, ResNet-50, CPU).
    """
    learning = [parameter for parameter in parameters if parameter.requires_grad]
    if config.optimizer == "sgd":
        nesterov = config.momentum > 0
        return torch.optim.SGD(
            learning, rate, config.momentum, weight_decay=config.weight_decay, nesterov=nesterov, fused=True
        )
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return kind(learning, rate, weight_decay=config.weight_decay, fused=True)


class Schedule:
    """Sets the learning rate after every step, and with `plateau` after every epoch. The state is a few numbers."""

    def __init__(self, config: OptimConfig, optimizer: torch.optim.Optimizer, epochs: int, steps: int) -> None:
        """epochs  epochs of this phase
        steps   steps of an epoch
        """
        self._config, self._epochs, self._steps = config, epochs, steps
        self._optimizer, self._rates = optimizer, [group["lr"] for group in optimizer.param_groups]
        self._factor, self._best, self._waited = 1.0, -math.inf, 0
        self._by_step: LRScheduler
        if config.schedule == "one-cycle":
            self._by_step = self._one_cycle(optimizer)
        else:
            self._by_step = LambdaLR(optimizer, lambda step: self._at(step))

    def _one_cycle(self, optimizer: torch.optim.Optimizer) -> OneCycleLR:
        rise = self._config.warmup_epochs / self._epochs or _RISE
        return OneCycleLR(
            optimizer,
            self._rates,
            total_steps=self._epochs * self._steps,
            pct_start=min(rise, 0.9),
        )

    def _at(self, step: int) -> float:
        """Give the fraction of the highest learning rate at a step of the phase."""
        config, epoch = self._config, step / self._steps
        if epoch < config.warmup_epochs:
            return max(_FLOOR, epoch / config.warmup_epochs)
        if config.schedule == "cosine":
            past = (epoch - config.warmup_epochs) / max(self._epochs - config.warmup_epochs, 1e-9)
            return 0.5 * (1 + math.cos(math.pi * min(past, 1.0)))
        if config.schedule == "exponential":
            return float(config.decay ** (epoch - config.warmup_epochs))
        return self._factor

    def step(self) -> None:
        self._by_step.step()

    def epoch_ended(self, rank: float) -> None:
        """With `plateau`, lower the rate after too many epochs without a better rank.

        rank  of the epoch; higher is better
        """
        if self._config.schedule != "plateau":
            return
        self._waited = 0 if rank > self._best else self._waited + 1
        self._best = max(self._best, rank)
        if self._waited > self._config.patience:
            self._factor, self._waited = self._lowered(), 0
            for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
                group["lr"] = rate * self._at(self._by_step.last_epoch)

    def _lowered(self) -> float:
        """The next factor of `plateau`. A rate that is at its floor or below stays as it is."""
        floor = self._config.floor / self._rates[0] if self._config.floor else _FLOOR
        return min(self._factor, max(floor, self._factor * self._config.decay))

    def state_dict(self) -> dict[str, Any]:
        plateau = {"factor": self._factor, "best": self._best, "waited": self._waited}
        return {"by_step": self._by_step.state_dict(), "plateau": plateau}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._by_step.load_state_dict(state["by_step"])
        self._factor, self._best, self._waited = (state["plateau"][name] for name in ("factor", "best", "waited"))

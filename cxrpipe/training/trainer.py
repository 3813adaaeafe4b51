"""A training from its first phase to its last: what is frozen when, what is saved, and how it goes on."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cxrpipe.config.train import TrainConfig
from cxrpipe.models import weights
from cxrpipe.models.card import Card
from cxrpipe.training import freezing
from cxrpipe.training.augment import augment
from cxrpipe.training.distributed import ALONE, WorkerGroup
from cxrpipe.training.epochs import Epoch, History, epochs_since_best, from_json, rank, to_json
from cxrpipe.training.fit import Batch, OnStep, StepOptions, fit, ignore_steps, validate
from cxrpipe.training.losses import Loss
from cxrpipe.training.optim import Schedule, make_optimizer
from cxrpipe.training.self_training import Teacher


class Trainer:
    """Phases of epochs, each with its own frozen layers, optimiser and schedule.

    Saved after an epoch and restored, a trainer goes on as if nothing had been: to the bit on the same machine.

    steps  batches of an epoch, of each worker
    wrap   makes the network one of many workers (DDP); called at the start of each phase, as DDP asks for
    """

    def __init__(
        self,
        config: TrainConfig,
        card: Card,
        network: nn.Module,
        loss: Loss,
        steps: int,
        workers: WorkerGroup = ALONE,
        device: torch.device | str = "cpu",
        wrap: Callable[[nn.Module], nn.Module] = lambda network: network,
        teacher: Teacher | None = None,
        on_step: OnStep = ignore_steps,
    ) -> None:
        self.config, self.card, self.loss, self.steps, self.workers = config, card, loss, steps, workers
        self.network = network.to(device)
        if workers.size == 1:  # 13% faster on a CPU (ResNet-50, 64 px); DDP's buckets want gradients in their own order
            self.network = self.network.to(memory_format=torch.channels_last)
        self._average = _average(self.network, config.optim.average)
        if config.compile:
            self.network.compile()
        self.history: History = []
        self._device, self._wrap, self._teacher, self._on_step = device, wrap, teacher, on_step
        self._frozen: list[str] = []
        self._saved: dict[str, Any] = {}

    @property
    def validated(self) -> nn.Module:
        """The network that is validated and saved: the average of the steps where one is kept, else the network."""
        return self._average.module if self._average else self.network

    def epochs(self, train: Callable[[int], Iterable[Batch]], valid: Callable[[], Iterable[Batch]]) -> Iterator[Epoch]:
        """All epochs that are left; `state` may be called after each."""
        config = self.config
        options = StepOptions(config.optim.accumulate, config.optim.clip, config.precision)
        for phase, (epochs, rate) in enumerate(config.phases):
            left = range(max(epochs.start, len(self.history)), epochs.stop)
            if not left or self._stopped():
                continue
            wrapped, optimizer, schedule = self._begin(phase, epochs, rate, valid)
            parts = wrapped, self.card, self.loss, optimizer, schedule
            for result in fit(
                *parts,
                lambda epoch: self._varied(train(epoch)),
                valid,
                left,
                config.seed,
                options,
                self.workers,
                self._on_step,
                self._average,
            ):
                self.history.append(result)
                schedule.epoch_ended(rank(result, config.best))
                self._saved = {"optimizer": optimizer, "schedule": schedule}
                yield result
                if self._stopped():
                    break

    def state(self) -> dict[str, Any]:
        """All that a checkpoint holds; read back by `torch.load(weights_only=True)`."""
        return {
            "weights": weights.weights_bytes(self.validated),
            **({"learning": weights.weights_bytes(self.network)} if self._average else {}),
            "frozen": self._frozen,
            "history": to_json(self.history),
            **{name: part.state_dict() for name, part in self._saved.items()},
        }

    def restore(self, state: dict[str, Any]) -> None:
        weights.restore(self.network, state.get("learning", state["weights"]))
        if self._average:
            weights.restore(self._average.module, state["weights"])
            self._average.n_averaged.fill_(1)  # not zero: the next step moves it on
        self._frozen, self.history = state["frozen"], from_json(state["history"])
        self._saved = {name: state[name] for name in ("optimizer", "schedule")}

    def _begin(
        self, phase: int, epochs: range, rate: float, valid: Callable[[], Iterable[Batch]]
    ) -> tuple[nn.Module, torch.optim.Optimizer, Schedule]:
        """Freeze, and make what moves the rest; as it was, in the middle of a phase."""
        starts = epochs.start == len(self.history)
        if starts:
            self._frozen = self._to_freeze(phase, valid)
        freezing.freeze(self.network, self._frozen)
        wrapped = self._wrap(self.network)
        optimizer = make_optimizer(self.config.optim, self.network.parameters(), rate)
        steps = -(-self.steps // self.config.optim.accumulate)
        schedule = Schedule(self.config.optim, optimizer, len(epochs), steps)
        if not starts:
            optimizer.load_state_dict(self._saved["optimizer"])
            schedule.load_state_dict(self._saved["schedule"])
        return wrapped, optimizer, schedule

    def _to_freeze(self, phase: int, valid: Callable[[], Iterable[Batch]]) -> list[str]:
        config = self.config.freeze
        if config.policy != "adaptive" or phase == 0:
            return freezing.frozen_in(self.network, config, phase)

        def loss() -> float:
            return validate(self.network, self.card, self.loss, valid(), self.workers).valid_loss

        return freezing.least_important(self.network, loss, config.fraction)

    def _varied(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """On the device, with what a teacher says of uncertain cells, and varied; masks as their images are."""
        for pixels, targets in batches:
            pixels, targets = pixels.to(self._device), targets.to(self._device)
            if self._teacher:
                targets = self._teacher.teach(pixels, targets)
            masks = targets if self.card.task == "segment" else None
            pixels, moved = augment(pixels, masks, self.config.augment)
            yield pixels, targets if moved is None else moved

    def _stopped(self) -> bool:
        """Too many epochs of the last phase without a better one. Phases before it prepare, and may be worse."""
        patience, (last, _) = self.config.stop_after, self.config.phases[-1]
        in_last = len(self.history) - last.start
        return bool(patience) and in_last >= patience and epochs_since_best(self.history, self.config.best) >= patience


def _average(network: nn.Module, share: float) -> AveragedModel | None:
    """BatchNorm's statistics are averaged as the weights are."""
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(share), use_buffers=True) if share else None

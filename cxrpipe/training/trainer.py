"""A training from its first phase to its last: which layers are frozen, what is saved, and how it resumes."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from cxrpipe import console
from cxrpipe.config.train import TrainConfig
from cxrpipe.models import precision, weights
from cxrpipe.models.card import Card
from cxrpipe.models.normalise import middle, normalise
from cxrpipe.training import arithmetic, freezing
from cxrpipe.training.augment import augment, mix
from cxrpipe.training.average import MovingAverage
from cxrpipe.training.distributed import ALONE, WorkerGroup
from cxrpipe.training.epochs import Epoch, History, epochs_since_best, from_json, rank, to_json
from cxrpipe.training.fit import Batch, OnStep, StepOptions, fit, ignore_steps, validate
from cxrpipe.training.losses import Loss
from cxrpipe.training.optim import Schedule, make_optimizer
from cxrpipe.training.self_training import Teacher

_PARTS = ("optimizer", "schedule", "scaler")
"""Parts of a training, besides its network, that have a state."""


class Trainer:
    """Runs phases of epochs. Every phase has its own frozen layers, optimiser and schedule.

    A trainer that is saved after an epoch and restored continues as if undisturbed: on a CPU to the bit, on the same
    machine. On a GPU two trainings differ in their last bits anyway, because cuDNN adds gradients in any order.

    steps   batches of an epoch, for every worker
    wrap    wraps the network for many workers (DDP); called at the start of every phase, because layers freeze there
    notify  takes one line for the person who waits
    stop_at  epochs of a training without a valid split; None: --stop-after may end it early
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
        notify: Callable[[str], None] = console.log,
        stop_at: int | None = None,
    ) -> None:
        self._stop_at = stop_at
        self.config, self.card, self.loss, self.steps, self.workers = config, card, loss, steps, workers
        self._device = torch.device(device)
        self.network = network.to(self._device)
        # 13% faster on a CPU (ResNet-50, 64 px), where the buckets of DDP need the default order; tensor cores want it.
        if workers.size == 1 or self._device.type == "cuda":
            self.network = self.network.to(memory_format=torch.channels_last)
        self._precision = precision.resolve(config.precision, self._device)
        if self._device.type == "cuda":
            precision.set_float32(self._precision)
            arithmetic.keep_logits_exact(self.network)
        self._average = MovingAverage(self.network, config.optim.average) if config.optim.average else None
        if config.compile:
            self.network.compile()
        self.history: History = []
        self._wrap, self._teacher, self._on_step, self._notify = wrap, teacher, on_step, notify
        self._frozen: list[str] = []
        self._best = b""  # weights of the best epoch of this phase, where the next phase begins with them
        self._saved: dict[str, Any] = {}

    @property
    def validated(self) -> nn.Module:
        """The network that is validated and saved: the average of the steps where one is kept, else the network."""
        return self._average.module if self._average else self.network

    def epochs(self, train: Callable[[int], Iterable[Batch]], valid: Callable[[], Iterable[Batch]]) -> Iterator[Epoch]:
        """Train all epochs that remain, and yield after each of them. `state` may be called after every epoch."""
        config = self.config
        options = StepOptions(config.optim.accumulate, config.optim.clip, self._precision, self._validated_in)
        for phase, (_, rate) in enumerate(config.phases):
            epochs = self._epochs_of(phase)
            remaining = range(max(epochs.start, len(self.history)), epochs.stop)
            if not remaining or self._refit_is_over():
                continue
            wrapped, optimizer, schedule, scaler = self._begin(phase, epochs, rate, valid)
            parts = wrapped, self.card, self.loss, optimizer, schedule
            for result in fit(
                *parts,
                lambda epoch: self._varied(train(epoch)),
                lambda: self._middles(valid()),
                remaining,
                config.seed,
                options,
                self.workers,
                self._on_step,
                self._average,
                scaler,
            ):
                self.history.append(result)
                schedule.epoch_ended(rank(result, config.watched))
                if phase < len(config.phases) - 1:
                    self._keep_best(epochs.start)
                self._saved = {"optimizer": optimizer, "schedule": schedule, "scaler": scaler}
                yield result
                if self._refit_is_over() or self._ended(phase, epochs.start, len(self.history)):
                    break

    def state(self) -> dict[str, Any]:
        """Give everything that a checkpoint holds. `torch.load(weights_only=True)` can read it."""
        return {
            "weights": weights.weights_bytes(self.validated),
            **({"learning": weights.weights_bytes(self.network)} if self._average else {}),
            **({"best": self._best} if self._best else {}),
            "frozen": self._frozen,
            "history": to_json(self.history),
            **{name: part.state_dict() for name, part in self._saved.items()},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from the state of a checkpoint."""
        weights.restore(self.network, state.get("learning", state["weights"]))
        if self._average:
            weights.restore(self._average.module, state["weights"])
            self._average.begin()
        self._frozen, self.history, self._best = state["frozen"], from_json(state["history"]), state.get("best", b"")
        self._saved = {"scaler": {}} | {name: state[name] for name in state if name in _PARTS}

    def _begin(
        self, phase: int, epochs: range, rate: float, valid: Callable[[], Iterable[Batch]]
    ) -> tuple[nn.Module, torch.optim.Optimizer, Schedule, torch.amp.GradScaler]:
        """Freeze layers, and build optimiser and schedule; in the middle of a phase, restore both."""
        starts = epochs.start == len(self.history)
        if starts:
            self._begin_with_best()
            self._frozen = self._to_freeze(phase, valid)
        freezing.freeze(self.network, self._frozen)
        if self.workers.size > 1:
            self._freeze_unused()
        wrapped = self._wrap(self.network)
        optimizer = make_optimizer(self.config.optim, self.network.parameters(), rate)
        steps = -(-self.steps // self.config.optim.accumulate)
        schedule = Schedule(self.config.optim, optimizer, len(epochs), steps)
        scaler = arithmetic.scaler(self._device, self._precision)
        if not starts:
            optimizer.load_state_dict(self._saved["optimizer"])
            schedule.load_state_dict(self._saved["schedule"])
            if self._saved["scaler"]:
                scaler.load_state_dict(self._saved["scaler"])
        return wrapped, optimizer, schedule, scaler

    @property
    def _validated_in(self) -> str:
        """Arithmetic of validation: that of training on a GPU, float32 on a CPU, whose figures are then exact."""
        return self._precision if self._device.type == "cuda" else "fp32"

    def _freeze_unused(self) -> None:
        side_px = self.card.side_px
        view = torch.zeros(1, 1, side_px, side_px, dtype=torch.uint8, device=self._device)
        if unused := freezing.freeze_unused(self.network, normalise(view, self.card)):
            names = ", ".join(dict.fromkeys(name.rpartition(".")[0] for name in unused))
            self._notify(f"layers that nothing is computed with stay as they are: {names}")

    def _to_freeze(self, phase: int, valid: Callable[[], Iterable[Batch]]) -> list[str]:
        config = self.config.freeze
        if config.policy != "adaptive" or phase == 0:
            return freezing.frozen_in(self.network, config, phase)

        def loss() -> float:
            middles = self._middles(valid())
            parts = self.network, self.card, self.loss, middles, self.workers, self._validated_in
            return validate(*parts).valid_loss

        self._notify(f"measuring the validation loss without each of {len(freezing.layers(self.network))} layers")
        frozen = freezing.least_important(self.network, loss, config.fraction, config.count)
        self._notify(f"frozen, because the loss rises least without them: {', '.join(frozen) or 'none'}")
        return frozen

    def _middles(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Show the network what scoring will show it: the middle of images that are larger for random crops."""
        for pixels, targets in batches:
            yield middle(pixels, self.card.side_px), targets

    def _varied(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Move batches to the device, let the teacher decide uncertain cells, and vary images with their masks."""
        for pixels, targets in batches:
            pixels, targets = pixels.to(self._device), targets.to(self._device)
            if self._teacher:
                targets = self._teacher.teach(middle(pixels, self.card.side_px), targets)
            masks = targets if self.card.task == "segment" else None
            pixels, moved = augment(pixels, masks, self.config.augment, self.card.side_px)
            if moved is not None:
                targets = moved
            elif self.config.augment.mixup:
                pixels, targets = mix(pixels, targets, self.config.augment.mixup)
            yield pixels, targets

    def _epochs_of(self, phase: int) -> range:
        """The epochs of a phase: from where the phase before it ended, as many as are planned or until it ended early.

        The history decides, so that a training that is resumed finds its place again.
        """
        epochs = range(0)
        for number, (planned, _) in enumerate(self.config.phases[: phase + 1]):
            epochs = range(epochs.stop, epochs.stop + len(planned))
            ended = (end for end in epochs if self._ended(number, epochs.start, end))
            epochs = range(epochs.start, next(ended, epochs.stop))
        return epochs

    def _refit_is_over(self) -> bool:
        return bool(self._stop_at) and len(self.history) >= (self._stop_at or 0)

    def _ended(self, phase: int, start: int, end: int) -> bool:
        """Tell whether a phase that began at `start` had too many epochs without a better one, seen from epoch `end`.

        Phases before the last one end early only with `--freeze.early-stop each`, and then count their own epochs.
        """
        config, history = self.config, self.history[:end]
        each = config.freeze.early_stop == "each"
        may = each or phase == len(config.phases) - 1
        if self._stop_at or not config.stop_after or len(self.history) < end or not may:
            return False
        since_best = epochs_since_best(history[start if each else 0 :], config.watched)
        return end - start >= config.stop_after and since_best >= config.stop_after

    def _keep_best(self, start: int) -> None:
        """Keep the weights of the best epoch of the phase that began at `start`, where the next phase wants them."""
        in_phase = self.history[start:]
        if self.config.freeze.early_stop == "each" and not epochs_since_best(in_phase, self.config.watched):
            self._best = weights.weights_bytes(self.validated)

    def _begin_with_best(self) -> None:
        """Continue with the weights of the best epoch of the phase that has ended, if they were kept."""
        for network in (self.network, self._average and self._average.module):
            if self._best and network:
                weights.restore(network, self._best)
        self._best = b""

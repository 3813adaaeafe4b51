"""Sections of the settings of `train`: `--optim.schedule cosine`, or `[optim]` in a file."""

import re
from dataclasses import dataclass
from itertools import pairwise

from cxrpipe.config.checks import at_least, between, one_of
from cxrpipe.errors import ConfigError

OPTIMIZERS = ("adamw", "adam", "sgd")
SCHEDULES = ("one-cycle", "cosine", "exponential", "plateau", "constant")
LOSSES = ("auto", "bce", "focal", "cross-entropy", "dice", "dice-bce")
BALANCES = ("weights", "sampling", "none")
UNCERTAIN = ("ignore", "ones", "zeros", "smooth", "multi-class", "self-trained")
BLANK = ("ignore", "zeros")
_LAST = re.compile(r"last-([1-9]\d*)")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How weights move."""

    optimizer: str = "adamw"
    """What turns gradients into steps: adamw, adam or sgd."""

    weight_decay: float = 1e-2
    """How strongly weights are pulled towards zero (adamw: per step and unit of learning rate)."""

    momentum: float = 0.9
    """Of sgd, with Nesterov's step; the others have their own."""

    schedule: str = "one-cycle"
    """Course of the learning rate: one-cycle, cosine, exponential, plateau or constant."""

    warmup_epochs: float = 0.0
    """Epochs in which the learning rate rises from nearly nothing; one-cycle without any takes 30% of all."""

    decay: float = 0.9
    """exponential: factor of the learning rate per epoch; plateau: factor after `patience` epochs without a gain."""

    patience: int = 3
    """plateau: epochs without a gain before the learning rate falls."""

    clip: float = 0.0
    """Longest gradient (norm over all parameters); zero: not clipped."""

    average: float = 0.0
    """The network that is judged and kept is a moving average of the weights; this much of it stays at each step. 0.98
    remembers some fifty steps; zero: no average."""

    accumulate: int = 1
    """Batches per step: one step sees accumulate × batch_size × workers images."""

    def __post_init__(self) -> None:
        one_of("optim.optimizer", self.optimizer, OPTIMIZERS)
        one_of("optim.schedule", self.schedule, SCHEDULES)
        between("optim.decay", self.decay, 0.0, 1.0)
        between("optim.average", self.average, 0.0, 0.9999)
        at_least("optim.patience", self.patience, 0)
        at_least("optim.accumulate", self.accumulate, 1)
        for name in ("weight_decay", "momentum", "warmup_epochs", "clip"):
            at_least(f"optim.{name}", getattr(self, name), 0)


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What is minimised, and what labels mean."""

    name: str = "auto"
    """To classify: bce, focal or cross-entropy (findings that exclude each other); to segment: dice-bce, dice, bce or
    focal. auto: the first of them."""

    balance: str = "weights"
    """Against imbalance: weights (a rare kind weighs more), sampling (it is shown more often) or none."""

    smoothing: float = 0.0
    """Labels 1 and 0 become 1 - half of it and half of it."""

    focal_gamma: float = 2.0
    """focal: how much less a cell weighs that is already right."""

    uncertain: str = "ignore"
    """Uncertain labels of the train split: ignore (the cell, not the study), ones, zeros, smooth (0.7), multi-class (a
    third kind) or self-trained (what `teacher` says)."""

    uncertain_of: tuple[str, ...] = ()
    """Other policies for single findings, with commas between: Atelectasis=ones,Edema=zeros."""

    blank: str = "ignore"
    """Findings that a report does not mention: ignore (the cell, not the study) or zeros."""

    teacher: str = ""
    """self-trained: URL of a model folder, trained with uncertain labels ignored on images of the same side."""

    def __post_init__(self) -> None:
        one_of("loss.name", self.name, LOSSES)
        one_of("loss.balance", self.balance, BALANCES)
        one_of("loss.blank", self.blank, BLANK)
        between("loss.smoothing", self.smoothing, 0.0, 0.5)
        at_least("loss.focal_gamma", self.focal_gamma, 0)
        one_of("loss.uncertain", self.uncertain, UNCERTAIN)
        for pair in self.uncertain_of:
            finding, equals, policy = pair.partition("=")
            if not (finding and equals):
                raise ConfigError(f"loss.uncertain_of {pair!r}; expected a finding and its policy: Edema=zeros")
            one_of(f"loss.uncertain_of {finding}", policy, UNCERTAIN)
        if ("self-trained" in (self.uncertain, *self.policies.values())) != bool(self.teacher):
            raise ConfigError("loss.uncertain self-trained and loss.teacher go together: name both, or neither")

    @property
    def policies(self) -> dict[str, str]:
        """Findings with a policy of their own."""
        return dict(pair.split("=", 1) for pair in self.uncertain_of)

    def policy(self, finding: str) -> str:
        return self.policies.get(finding, self.uncertain)


@dataclass(frozen=True, kw_only=True)
class CropConfig:
    """Where a classifier looks: at whole views, or at the square around the lungs."""

    segmenter: str = ""
    """URL of a segmenter's model folder: the classifier learns from the lungs it sees, and is scored with it."""

    margin: float = 0.1
    """What is kept beyond the lungs on either side, as a fraction of their extent."""

    def __post_init__(self) -> None:
        between("crop.margin", self.margin, 0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """What is varied, per image and at random, up to these bounds in both directions. Masks follow their images."""

    rotation_deg: float = 0.0
    """Rotation, degrees."""

    shift_fraction: float = 0.0
    """Shift along both axes, as a fraction of the side."""

    shear_deg: float = 0.0
    """Shear along both axes, degrees."""

    zoom_fraction: float = 0.0
    """Scale: 0.1 is between 1/1.1 and 1.1."""

    brightness: float = 0.0
    """Added to all pixels, as a fraction of the range."""

    contrast: float = 0.0
    """Factor about the image's own mean: 0.2 is between 1/1.2 and 1.2."""

    noise: float = 0.0
    """Most Gaussian noise, standard deviation as a fraction of the range."""

    flip: bool = False
    """Half of all images mirrored. Off: the heart has a side, and so has situs inversus."""

    def __post_init__(self) -> None:
        between("augment.rotation_deg", self.rotation_deg, 0.0, 180.0)
        between("augment.shear_deg", self.shear_deg, 0.0, 45.0)
        for name in ("shift_fraction", "zoom_fraction", "brightness", "contrast", "noise"):
            between(f"augment.{name}", getattr(self, name), 0.0, 1.0)

    @property
    def moves(self) -> bool:
        """Whether pixels change their place."""
        return bool(self.rotation_deg or self.shift_fraction or self.shear_deg or self.zoom_fraction or self.flip)


@dataclass(frozen=True, kw_only=True)
class FreezeConfig:
    """Which layers keep their start weights. Their BatchNorm statistics stay as well. The head always learns."""

    policy: str = "none"
    """none, all (the head alone learns; of a U-Net all but the encoder), partial (the first `fraction` is frozen),
    last-N (the last N layers learn), progressive (head, then the last part, then all) or adaptive (the least
    important `fraction` is frozen after the head has learned)."""

    fraction: float = 0.5
    """Of the layers: frozen by partial, adaptive, and by the second phase of progressive."""

    epochs: tuple[int, ...] = ()
    """Epochs of the phases, in all as many as --epochs: three of progressive (default 30%, 30%, 40%), two of adaptive
    (default 20%, 80%)."""

    learning_rates: tuple[float, ...] = ()
    """Highest learning rates of the phases; default: a third of the one before, from --learning-rate."""

    def __post_init__(self) -> None:
        if not _LAST.fullmatch(self.policy):
            one_of("freeze.policy", self.policy, ("none", "all", "partial", "last-N", "progressive", "adaptive"))
        if self.policy == "last-N":
            raise ConfigError("freeze.policy last-N; N is a number, as in last-10")
        between("freeze.fraction", self.fraction, 0.0, 1.0)
        for name in ("epochs", "learning_rates"):
            own = getattr(self, name)
            if own and len(own) != self.phases:
                raise ConfigError(f"freeze.{name} {own}; {self.policy} has {self.phases} phases")
        if any(epochs < 1 for epochs in self.epochs) or any(rate <= 0 for rate in self.learning_rates):
            raise ConfigError("freeze.epochs and freeze.learning_rates must be above zero")

    @property
    def phases(self) -> int:
        return {"progressive": 3, "adaptive": 2}.get(self.policy, 1)

    @property
    def last(self) -> int | None:
        """N of last-N."""
        found = _LAST.fullmatch(self.policy)
        return int(found[1]) if found else None

    def plan(self, epochs: int, learning_rate: float) -> tuple[tuple[range, float], ...]:
        """Epochs and highest learning rate of every phase; ConfigError where they do not fit."""
        shares = {1: (1.0,), 2: (0.2, 0.8), 3: (0.3, 0.3, 0.4)}[self.phases]
        counts = list(self.epochs) or [max(1, round(share * epochs)) for share in shares[:-1]]
        if not self.epochs:
            counts.append(epochs - sum(counts))
        if sum(counts) != epochs or min(counts) < 1:
            raise ConfigError(f"epochs {epochs}; the {self.phases} phases of freeze.policy {self.policy} take {counts}")
        ends = [sum(counts[:number]) for number in range(self.phases + 1)]
        rates = self.learning_rates or [learning_rate / 3**number for number in range(self.phases)]
        return tuple((range(*pair), rate) for pair, rate in zip(pairwise(ends), rates, strict=True))

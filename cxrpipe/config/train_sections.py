"""Sections of the settings of `train`: `--optim.schedule cosine` on the command line, `[optim]` in a TOML file."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, get_args

from cxrpipe.config.checks import at_least, between, flag, known_words, one_of
from cxrpipe.config.values import Name, Url
from cxrpipe.errors import ConfigError

Uncertain = Literal["ignore", "ones", "zeros", "smooth", "multi-class", "self-trained"]
_LAST = re.compile(r"(head-then-)?last-([1-9]\d*)")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How gradients change the weights."""

    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    """Optimizer."""

    weight_decay: float = 1e-2
    """Pull of the weights towards zero. adamw applies it per step, times the learning rate."""

    momentum: float = 0.9
    """Momentum of sgd, with Nesterov's step. adamw and adam do not use it."""

    schedule: Literal["one-cycle", "cosine", "exponential", "plateau", "constant"] = "one-cycle"
    """Schedule of the learning rate."""

    warmup_epochs: float = 0.0
    """Epochs in which the learning rate rises from nearly zero to its peak. 0: no rise; one-cycle rises for 30% of all
    epochs."""

    decay: float = 0.9
    """Factor on the learning rate. exponential: after every epoch. plateau: after --optim.patience epochs without
    improvement."""

    patience: int = 3
    """plateau: epochs without improvement before the learning rate falls."""

    floor: float = 0.0
    """plateau: learning rate below which it does not fall. 0: a hundredth of the peak."""

    clip: float = 0.0
    """Upper limit of the gradient's norm over all parameters. 0: gradients are not clipped."""

    average: float = 0.0
    """Keep and validate a moving average of the weights. At every step the average keeps this fraction of itself: 0.98
    averages over about fifty steps. 0: no average."""

    accumulate: int = 1
    """Batches whose gradients make one step. One step sees accumulate x batch size x workers images."""

    def __post_init__(self) -> None:
        known_words(self, "optim.")
        between("optim.decay", self.decay, 0.0, 1.0)
        between("optim.average", self.average, 0.0, 0.9999)
        at_least("optim.patience", self.patience, 0)
        at_least("optim.accumulate", self.accumulate, 1)
        for name in ("weight_decay", "momentum", "warmup_epochs", "clip", "floor"):
            at_least(f"optim.{name}", getattr(self, name), 0)


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What training minimises, and what uncertain and missing labels count as."""

    name: Literal["auto", "bce", "focal", "cross-entropy", "dice", "dice-bce"] = "auto"
    """Loss. To classify: bce, focal, or cross-entropy for findings that exclude each other. To segment: dice-bce, dice,
    bce or focal. auto: bce to classify, dice-bce to segment."""

    balance: Literal["weights", "sampling", "none"] = "weights"
    """Correction for rare findings. weights: give their labels more weight in the loss. sampling: show their studies
    more often. none: no correction."""

    smoothing: float = 0.0
    """Label smoothing s: label 1 becomes 1 - s/2, label 0 becomes s/2."""

    focal_gamma: float = 2.0
    """Exponent of the focal loss. The higher it is, the less do labels count that are already predicted well."""

    uncertain: Uncertain = field(default="ignore", metadata={"old_words": {"positive": "ones", "negative": "zeros"}})
    """What an uncertain label (-1) of the train split counts as. ignore: this label is left out, the study stays.
    smooth: 0.7. multi-class: a third class. self-trained: the probability that the model of --loss.teacher gives."""

    uncertain_of: tuple[Name, ...] = ()
    """What an uncertain label counts as for single findings: Atelectasis=ones,Edema=zeros."""

    blank: Literal["ignore", "zeros"] = field(default="ignore", metadata={"old_words": {"negative": "zeros"}})
    """What a missing label counts as. ignore: this label is left out, the study stays."""

    teacher: Url = ""
    """Model folder of the teacher of self-trained labels. Train it with uncertain labels ignored, at the same side."""

    def __post_init__(self) -> None:
        known_words(self, "loss.")
        between("loss.smoothing", self.smoothing, 0.0, 0.5)
        at_least("loss.focal_gamma", self.focal_gamma, 0)
        for pair in self.uncertain_of:
            finding, equals, policy = pair.partition("=")
            if not (finding and equals):
                raise ConfigError(f"--loss.uncertain-of {pair!r}; expected a finding and its policy: Edema=zeros")
            if policy not in get_args(Uncertain):
                expected = ", ".join(get_args(Uncertain))
                raise ConfigError(f"--loss.uncertain-of {pair!r}; expected one of {expected} after the =")
        if ("self-trained" in (self.uncertain, *self.policies.values())) != bool(self.teacher):
            raise ConfigError(
                "--loss.uncertain self-trained needs --loss.teacher URL, and the reverse: name both or neither"
            )

    @property
    def policies(self) -> dict[str, str]:
        """The policies of --loss.uncertain-of, by finding."""
        return dict(pair.split("=", 1) for pair in self.uncertain_of)

    def policy(self, finding: str) -> str:
        """What an uncertain label of this finding counts as."""
        return self.policies.get(finding, self.uncertain)


@dataclass(frozen=True, kw_only=True)
class CropConfig:
    """Show a classifier the square around the lungs instead of whole views."""

    segmenter: Url = ""
    """Model folder of the lung segmenter that finds the lungs, in training and in scoring. Empty: whole views."""

    margin: float = 0.1
    """Border kept around the lungs on every side, as a fraction of their extent."""

    def __post_init__(self) -> None:
        between("crop.margin", self.margin, 0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class FreezeConfig:
    """Which layers keep their start weights and BatchNorm statistics. The head always learns."""

    policy: Name = "none"
    """Layers to freeze. none: no layer. all: every layer but the head; of a U-Net, the encoder. partial: the first
    --freeze.fraction of the layers. last-N: all but the last N layers. head-then-last-N: train the head, then the last
    N layers, too. progressive: train the head, then the last part, then all. adaptive: train the head, then freeze the
    least important --freeze.fraction: those without which the loss on the valid split rises least."""

    fraction: float = 0.5
    """Fraction of the layers that is frozen by partial, by adaptive, and in the second phase of progressive."""

    until: Name = ""
    """Part of the network before which all layers are frozen, such as layer4 of a ResNet, by partial and in the second
    phase of progressive. Empty: --freeze.fraction decides."""

    count: int = 0
    """Number of layers that adaptive freezes. 0: --freeze.fraction of them."""

    early_stop: Literal["last", "each"] = "last"
    """Phases that --stop-after may end before their epochs are over. last: the last one alone. each: every phase, by
    its own epochs; the next phase begins with the weights of the best one, by --watch."""

    epochs: tuple[int, ...] = ()
    """Epochs of the phases, in sum --epochs. progressive has three phases (default 30%, 30%, 40%); adaptive (default
    20%, 80%) and head-then-last-N (the same) have two. With 0 for the first, adaptive measures the start weights."""

    learning_rates: tuple[float, ...] = ()
    """Peak learning rates of the phases. Default: --learning-rate, then a third of the phase before."""

    def __post_init__(self) -> None:
        known_words(self, "freeze.")
        if not _LAST.fullmatch(self.policy):
            words = ("none", "all", "partial", "last-N", "head-then-last-N", "progressive", "adaptive")
            one_of("freeze.policy", self.policy, words)
        if self.policy.endswith("last-N"):
            raise ConfigError(f"--freeze.policy {self.policy}; N is a number, as in last-10")
        between("freeze.fraction", self.fraction, 0.0, 1.0)
        at_least("freeze.count", self.count, 0)
        if self.until and self.policy not in ("partial", "progressive"):
            raise ConfigError(f"--freeze.until with the policy {self.policy}; expected partial or progressive")
        if self.count and self.policy != "adaptive":
            raise ConfigError(f"--freeze.count with the policy {self.policy}; expected adaptive")
        for name in ("epochs", "learning_rates"):
            values = getattr(self, name)
            if values and len(values) != self.phases:
                listed = ",".join(map(str, values))
                raise ConfigError(f"{flag(f'freeze.{name}')} {listed}; {self.policy} has {self.phases} phases")
        if min(self._without_measured(self.epochs), default=1) < 1 or min(self.learning_rates, default=1) <= 0:
            raise ConfigError("--freeze.epochs and --freeze.learning-rates must be more than 0")

    @property
    def phases(self) -> int:
        two = self.policy == "adaptive" or self.policy.startswith("head-then-")
        return 3 if self.policy == "progressive" else 2 if two else 1

    def _without_measured(self, epochs: Sequence[int]) -> Sequence[int]:
        """The epochs of the phases that need one or more: not the first of `adaptive`, after which it measures."""
        return epochs[1:] if self.policy == "adaptive" and epochs and not epochs[0] else epochs

    @property
    def last(self) -> int | None:
        """N of last-N and of head-then-last-N; None of other policies."""
        match = _LAST.fullmatch(self.policy)
        return int(match[2]) if match else None

    def plan(self, epochs: int, learning_rate: float) -> tuple[tuple[range, float], ...]:
        """Epochs and peak learning rate of every phase; ConfigError if the phases do not add up to `epochs`."""
        shares = {1: (1.0,), 2: (0.2, 0.8), 3: (0.3, 0.3, 0.4)}[self.phases]
        counts = list(self.epochs) or [max(1, round(share * epochs)) for share in shares[:-1]]
        if not self.epochs:
            counts.append(epochs - sum(counts))
        if sum(counts) != epochs or min(self._without_measured(counts)) < 1:
            raise ConfigError(
                f"--epochs {epochs}; the {self.phases} phases of --freeze.policy {self.policy} take "
                + " + ".join(map(str, counts))
            )
        ends = [sum(counts[:number]) for number in range(self.phases + 1)]
        rates = self.learning_rates or [learning_rate / 3**number for number in range(self.phases)]
        return tuple((range(*pair), rate) for pair, rate in zip(pairwise(ends), rates, strict=True))


@dataclass(frozen=True, kw_only=True)
class TrainResources:
    """Machines that an autoscaler may bring. Leave all at 0 where no machine comes by itself."""

    cpus: int = 0
    """Upper limit of logical CPUs with an autoscaler. 0: the CPUs present now."""

    gpus: int = 0
    """Upper limit of GPUs with an autoscaler. 0: the GPUs present now."""

    wait_s: float = 0
    """Seconds that the training may stand still, waiting for machines or for a store, before it ends with status 1. 0:
    3600 where machines may come, else 600."""

    def __post_init__(self) -> None:
        for name in ("cpus", "gpus", "wait_s"):
            at_least(f"resources.{name}", getattr(self, name), 0)

"""The plan of a training: the card of the new model, the studies that it learns from, and how they become examples."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from cxrpipe import console, storage
from cxrpipe.config import TrainConfig
from cxrpipe.errors import ConfigError
from cxrpipe.models import architectures
from cxrpipe.models.card import Card, Crop
from cxrpipe.models.crop import Cropper
from cxrpipe.models.folder import CARD, ModelFolder, model_folders, open_model
from cxrpipe.models.weights import restore, start_weights, weights_bytes
from cxrpipe.records import Study
from cxrpipe.records.study_table import StudyTable
from cxrpipe.training import freezing
from cxrpipe.training.examples import ExampleSpec
from cxrpipe.training.losses import Loss, finding_loss, mask_loss
from cxrpipe.training.self_training import Teacher, open_teacher
from cxrpipe.training.settings import settings_of, with_defaults
from cxrpipe.training.start import check, training_squares

_HIGHEST_RATIO = 20.0


@dataclass(frozen=True)
class TrainingPlan:
    """A training, as it is decided before any worker starts."""

    config: TrainConfig
    card: Card
    spec: ExampleSpec
    segmenter: ModelFolder | None
    """The model whose masks crop the views; None: views stay whole."""
    ratios: tuple[float, ...]
    """(F,) negatives over positives, 1/20 to 20; empty for a segmenter."""
    stop_at: int | None = None
    """Epochs of a refit, which has no valid split to choose one. None: the best epoch on the valid split is kept."""
    weights: str = "none"
    """What the network starts from. A relative path of the settings is absolute here: workers have folders of their
    own."""
    teacher_url: str = ""
    """The model that decides uncertain labels; empty without one."""

    @property
    def multi(self) -> tuple[int, ...]:
        """Columns of the findings whose uncertain labels are a third class with its own output."""
        return tuple(column for column, policy in enumerate(self.spec.uncertain) if policy == "multi-class")

    @property
    def copies(self) -> tuple[float, ...]:
        """(F,) ratios for oversampling; empty without `--loss.balance sampling`."""
        return self.ratios if self.config.loss.balance == "sampling" else ()

    def summary(self, studies: Sequence[Study]) -> str:
        """Describe the training in one line."""
        findings = self.card.findings
        what = "lungs" if not findings else ", ".join(findings) if len(findings) < 4 else f"{len(findings)} findings"
        count = Counter(study.split for study in studies)
        start = "fresh weights" if self.config.weights == "none" else f"weights {self.config.weights}"
        learner = f"{self.card.architecture} at {self.card.side_px} px from {start}"
        choice = f"{count['valid']:,} choose the best of {self.config.epochs} epochs"
        if self.config.best == "last":
            choice = f"{count['valid']:,} judge each of {self.config.epochs} epochs, and the last is kept"
        if self.stop_at:
            choice = f"it stops after epoch {self.stop_at} of {self.config.epochs}, as the folds chose"
        return f"{learner} learns {what} from {count['train']:,} studies; {choice}"

    def network(self) -> torch.nn.Module:
        """Build the network with its start weights, which are the same on every worker."""
        torch.manual_seed(self.config.seed)
        dropouts = architectures.Dropouts(self.config.dropout, self.config.last_dropout)
        network = architectures.build_from_card(self.card, len(self.multi), dropouts)
        freezing.check(network, self.config.freeze, self.card.architecture)
        start_weights(network, self.card.architecture, self.weights)
        return network

    def loss(self, device: torch.device | str = "cpu") -> Loss:
        """Build the loss that the settings name, on the device that computes it."""
        loss = self.config.loss
        if self.config.task == "segment":
            return mask_loss(loss.name, loss.smoothing, loss.focal_gamma, device)
        weights = self.ratios if loss.balance == "weights" else [1.0] * len(self.ratios)
        ratios = torch.tensor(weights, device=device)
        return finding_loss(loss.name, ratios, loss.smoothing, loss.focal_gamma, self.multi)

    def cropper(self) -> Cropper | None:
        """Build what crops views to the lungs; None where views stay whole."""
        if self.segmenter is None or self.card.crop is None:
            return None
        return Cropper(self.segmenter, self.card.crop, self.card.side_px)

    def teacher(self) -> Teacher | None:
        """Open the model that decides uncertain labels; None where the settings name none."""
        return open_teacher(self.config, self.card, self.teacher_url)

    def for_scoring(self, weights: bytes) -> bytes:
        """Remove the outputs that only training needs, so that the weights fit the network of the card."""
        if not self.multi:
            return weights
        network = architectures.build_from_card(self.card, len(self.multi))
        restore(network, weights)
        architectures.keep_outputs(network, len(self.card.findings))
        return weights_bytes(network)


def already_trained(config: TrainConfig) -> bool:
    """Tell whether `out` holds the model of these settings; ConfigError where it holds another model."""
    out = storage.normalise(config.out)
    try:
        card = Card.from_json(storage.read(storage.join(out, CARD)), out)
    except FileNotFoundError:
        if storage.stat(out):
            raise ConfigError(f"{out}: a file; expected a folder to write the model into") from None
        return False
    settings = card.facts.get("settings", {})
    if settings and with_defaults(settings, config) == settings_of(config):
        return True
    raise ConfigError(f"{out}: holds a model trained with other settings; name another --out, or remove it")


def plan_training(
    config: TrainConfig, table: StudyTable, stop_at: int | None = None
) -> tuple[TrainingPlan, list[Study]]:
    """Plan a training. Gives the plan, and the studies of the train and valid splits that it uses.

    stop_at  epochs of a refit: it needs no valid split
    """
    fresh = check(config)
    table.refuse_shared_patients()
    segmenter = _segmenter(config.crop.segmenter) if config.crop.segmenter else None
    card = _empty_card(config, fresh, _asked(config, table), segmenter)
    for_segmenter = segmenter.card.preparation if segmenter else None
    squares = training_squares(config, card)
    spec = _with_policies(ExampleSpec(squares, card.findings, for_segmenter=for_segmenter), config)
    splits = ("train",) if stop_at else ("train", "valid")
    studies = _wanted(table.studies(), spec, table.url, splits)
    if spec.findings:
        findings = _learnable(spec, studies, table.url, named=bool(config.findings))
        spec = _with_policies(replace(spec, findings=findings), config)
        studies = _wanted(studies, spec, table.url, splits)
    card = _empty_card(config, fresh, spec.findings, segmenter)
    for name, quantity in (("best", config.best), ("watch", config.watched)):
        words = ("score", "loss", *(("accuracy",) if spec.findings else ()), *(("last",) if name == "best" else ()))
        if quantity not in (*words, *spec.findings):
            expected = f"one of {', '.join((*words, *spec.findings))}"
            raise ConfigError(f"--{name} {quantity!r}; expected {expected}")
    targets = np.stack([spec.targets(study) for study in studies if study.split == "train"])  # (N, F)
    ratios = tuple(_ratio(column) for column in targets.T)
    weights = config.weights if config.weights in ("none", "imagenet") else storage.normalise(config.weights)
    teacher_url = storage.normalise(config.loss.teacher) if config.loss.teacher else ""
    return TrainingPlan(config, card, spec, segmenter, ratios, stop_at, weights, teacher_url), studies


def _segmenter(url: str) -> ModelFolder:
    """The one segmenter to whose lungs views are cropped."""
    urls = model_folders([url])
    if len(urls) > 1:
        raise ConfigError(
            f"--crop.segmenter {url}: holds {len(urls)} models; views are cropped to the lungs of one segmenter, and a "
            f"vote draws others; name one of them, such as {urls[0]}"
        )
    segmenter = open_model(urls[0], "segment")
    if segmenter.card.fit != "letterbox":
        raise ConfigError(
            f"--crop.segmenter {segmenter.url}: fit {segmenter.card.fit}; views are cropped to its lungs in their "
            "letterbox; expected a segmenter of the fit letterbox"
        )
    return segmenter


def _empty_card(config: TrainConfig, fresh: Card, findings: tuple[str, ...], segmenter: ModelFolder | None) -> Card:
    """Write the card of the model as far as it is known before training."""
    return replace(
        fresh,
        task=config.task,
        findings=findings,
        aggregation=dict.fromkeys(findings, "max"),
        thresholds=dict.fromkeys(findings, 0.5),
        crop=Crop(segmenter.card.weights_sha256, config.crop.margin) if segmenter else None,
    )


def _with_policies(spec: ExampleSpec, config: TrainConfig) -> ExampleSpec:
    """Set the policies for uncertain and missing labels; ConfigError for policies that exclude each other."""
    uncertain = tuple(config.loss.policy(finding) for finding in spec.findings)
    if config.loss.name == "cross-entropy" and "multi-class" in uncertain:
        raise ConfigError(
            "--loss.name cross-entropy has no class for uncertain labels; "
            "use --loss.name bce with --loss.uncertain multi-class"
        )
    return replace(spec, uncertain=uncertain, blank=config.loss.blank)


def _asked(config: TrainConfig, table: StudyTable) -> tuple[str, ...]:
    """Give the findings that the settings name, else all labelled ones; none for a segmenter."""
    if config.task == "segment":
        return ()
    if unknown := {*config.findings, *config.loss.policies}.difference(table.findings):
        raise ConfigError(
            f"findings {', '.join(sorted(unknown))} are not labelled in {table.url}; "
            f"it has {', '.join(table.findings) or 'no labels'}"
        )
    if not table.findings:
        raise ConfigError(f"{table.url}: no labels; a classifier needs studies that are labelled with 1 and 0")
    return config.findings or table.findings


def _wanted(studies: Iterable[Study], spec: ExampleSpec, where: str, splits: Sequence[str]) -> list[Study]:
    """Select the studies of the splits that give an example; ConfigError where a split has none."""
    wanted = [study for study in studies if study.split in splits and _teaches(study, spec)]
    for split in splits:
        if not any(study.split == split for study in wanted):
            kind = "a frontal view and a label" if spec.findings else "a frontal view and its mask"
            needed = " and ".join(splits)
            raise ConfigError(f"{where}: no study with {kind} in the {split} split; training needs {needed}")
    return wanted


def held_out(table: StudyTable, spec: ExampleSpec) -> list[Study]:
    """Select the studies of the test split that give an example: those that a fold holds out."""
    return [study for study in table.studies("test") if _teaches(study, spec)]


def _teaches(study: Study, spec: ExampleSpec) -> bool:
    """Tell whether a study has a wanted view, and for a classifier a target."""
    labelled = not spec.findings or not np.isnan(spec.targets(study)).all()
    return labelled and any(spec.wants(study, number) for number in range(len(study.views)))


def _learnable(spec: ExampleSpec, studies: Sequence[Study], where: str, *, named: bool) -> tuple[str, ...]:
    """Select the findings with positive and negative examples in the train split.

    The others are left out with a log line; ConfigError where the settings name them, or where none remains.
    """
    targets = np.stack([spec.targets(study) for study in studies if study.split == "train"])  # (N, F)
    both = (targets == 1).any(axis=0) & (targets == 0).any(axis=0)
    learnable = tuple(finding for finding, kinds in zip(spec.findings, both, strict=True) if kinds)
    left_out = ", ".join(finding for finding in spec.findings if finding not in learnable)
    if left_out and (named or not learnable):
        raise ConfigError(
            f"{where}: the train split lacks positive or negative examples of {left_out}; name other --findings"
        )
    if left_out:
        console.log(f"findings left out, because the train split lacks positive or negative examples: {left_out}")
    return learnable


def _ratio(targets: np.ndarray) -> float:
    """Give negatives over positives: with this weight both classes weigh the same. It is bounded, for rare classes."""
    absent, present = int((targets == 0).sum()), int((targets == 1).sum())
    return float(np.clip(absent / present, 1 / _HIGHEST_RATIO, _HIGHEST_RATIO))

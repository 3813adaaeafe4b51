"""Settings of `train`."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from cxrpipe.config import checks
from cxrpipe.config.augment import AugmentConfig
from cxrpipe.config.outline import EVERYBODY, Outline
from cxrpipe.config.train_sections import (
    CropConfig,
    FreezeConfig,
    LossConfig,
    OptimConfig,
    TrainResources,
)
from cxrpipe.config.values import Name, Precision, Url
from cxrpipe.errors import ConfigError

Task = Literal["classify", "segment"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Fine-tune one model on the train split of an archive, and keep the epoch that is best on the valid split.

    Example: cxrpipe train --task classify --archive s3://bucket/cxr/ --weights imagenet --epochs 10 --out models/a

    The program writes a model folder, model.safetensors and card.json, for `score`. The same command resumes an
    interrupted training. The folder recipes/ holds settings for known archives: --config recipes/nih.toml. Where
    --config names a folder of TOML files, the program trains the members of an ensemble, one for each, into OUT/NAME.
    """

    outline: ClassVar[Outline] = {
        EVERYBODY: "task archive studies out arch weights epochs",
        "data": "layout split_seed findings folds fold fold_over folds_by refit",
        "model": "head dropout last_dropout side_px fit crop_fraction samplewise",
        "training": "batch_size learning_rate best watch stop_after seed",
        "machine": "workers use_gpu precision compile max_failures",
    }

    task: Task
    """classify: findings of a study. segment: lungs in a view."""

    out: Url
    """Model folder to write."""

    archive: Url | None = None
    """Archive to index and train on. Name this or --studies."""

    studies: Url | None = None
    """Study table to train on. Name this or --archive."""

    layout: Name = "auto"
    """Layout of the archive: auto (recognise it and say why), nih, chexpert, padchest, mimic-cxr-jpg, medmnist,
    shenzhen, montgomery, dicom, folders, images or table."""

    split_seed: int = 0
    """Seed of the folds, and of the 80/10/10 split by patient. An archive that comes with a split keeps it."""

    folds: int = 0
    """Cut the patients into this many folds. One fold is held out as the test split; the model is trained and
    validated on the others. 0: the splits of the study table. A study table with the new splits is kept in OUT/fold."""

    fold: int = 0
    """Number of the fold that is held out, counted from 0."""

    fold_over: Literal["development", "all", "train"] = "development"
    """Studies that are cut into folds. development: the train and valid splits; the official test split is not touched.
    all: every study, for archives without an official test split. train: the train split; the fold then chooses the
    epoch, and the valid split becomes the test split."""

    folds_by: Literal["chance", "acquisition", "contradiction"] = "chance"
    """Patients of a fold. chance: drawn by --split-seed. acquisition: patients whose films look alike by brightness,
    contrast, black border, sharpness, size and the prefix of file names, so that the held-out films look unlike those
    that the model has seen. contradiction, for one finding: patients whose films contradict their label alike; fold 0
    holds sick patients whose films look, by these statistics, like those of healthy ones, and the reverse. The
    statistics are kept beside the study table."""

    refit: tuple[Url, ...] = ()
    """Train the last model, on every study but those of the test split (with --fold-over all: on every study). Name the
    models of the folds, trained with the same settings: the median of their best epochs, at which training stops, and
    their held-out predictions, on which calibration and thresholds are fitted, are taken from them."""

    arch: Name | None = None
    """Architecture. To classify: a torchvision classifier (default resnet50), smallcnn, or timm:NAME, such as
    timm:vit_small_patch16_224. To segment: unet-ENCODER (default unet-resnet34) or unet-classic."""

    head: Name = "linear"
    """Head of a classifier. linear; dense-UNITS: Dense, ReLU and Dropout before the logits; or mlp-UNITS: Dropout,
    Dense, ReLU, BatchNorm and Dropout before the logits."""

    dropout: float = 0.5
    """Dropout probability of smallcnn, and of a dense or an mlp head, during training."""

    last_dropout: float | None = None
    """Dropout probability right before the logits of an mlp head. Without --last-dropout: --dropout."""

    weights: Url = "none"
    """Weights to start from: none, imagenet, or the URL of a model folder or a .safetensors file. A model folder (of
    train or adopt) also decides how films are prepared, and the architecture where --arch does not."""

    findings: tuple[Name, ...] = ()
    """Findings to learn. Without --findings: all that the archive labels both 1 and 0."""

    side_px: int = 224
    """Side of the square that images are fitted into. A multiple of 32; of its patches for a transformer of timm."""

    fit: Literal["auto", "letterbox", "center-crop", "squash"] = "auto"
    """How a view becomes a square, in training and in scoring. letterbox: whole, between black bars. center-crop: its
    middle. squash: whole, without its aspect ratio. auto: as the model folder of --weights has it, else letterbox.
    Segmenters take letterbox."""

    crop_fraction: float = 1.0
    """--fit center-crop: side of the square as a fraction of the shorter side of the view. 0.875: resized to 256, the
    middle 224 is kept."""

    samplewise: bool = False
    """Standardise every image by its own mean and standard deviation, in training and in scoring. Without --samplewise:
    by those of ImageNet, or as the model folder of --weights has it."""

    epochs: int = 10
    """Passes over the train split."""

    batch_size: int = 16
    """Images in one batch of one worker. Lower it where a GPU runs out of memory."""

    learning_rate: float = 1e-3
    """Peak of the learning-rate schedule."""

    best: Name = "score"
    """Quantity on the valid split that chooses the epoch to keep. score: mean AUROC or mean Dice. loss: the loss.
    accuracy: fraction of the labels that are right at a probability of 0.5. The name of a finding: its AUROC. last: no
    quantity, the last epoch is kept. Choose last where the valid split is too easy to tell epochs apart."""

    watch: Name | None = None
    """Quantity on the valid split that --stop-after and --optim.schedule plateau watch, of those of --best. Without
    --watch: that of --best; score with --best last."""

    stop_after: int = 0
    """Stop when this many epochs in a row brought no improvement. 0: train all epochs."""

    precision: Precision = "auto"
    """Arithmetic of training. auto: bf16 (autocast) where the GPU or CPU has units for it, fp16 on an older GPU, else
    fp32. On a GPU fp32 is IEEE float32, and tf32 rounds what is multiplied to 10 bits; tf32 and fp16 need a GPU."""

    compile: bool = False
    """Compile the network with torch.compile. The start takes minutes longer; steps on a GPU are faster."""

    workers: int = 1
    """Training processes. On GPUs each takes one GPU."""

    use_gpu: Literal["auto", "on", "off"] = "auto"
    """Train on GPUs. auto: on where the cluster has a GPU, or --resources.gpus says that some may come."""

    seed: int = 0
    """Seed of the initial weights, the order of the images and augmentation."""

    max_failures: int = 2
    """Restarts from the last checkpoint after a worker was killed."""

    optim: OptimConfig = field(default_factory=OptimConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    crop: CropConfig = field(default_factory=CropConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    freeze: FreezeConfig = field(default_factory=FreezeConfig)
    resources: TrainResources = field(default_factory=TrainResources)

    def __post_init__(self) -> None:
        checks.known_words(self)
        checks.one_source(self.archive, self.studies)
        if self.crop.segmenter and self.task != "classify":
            raise ConfigError("--crop.segmenter is for classifiers; a segmenter is trained on whole views")
        for name in ("side_px", "epochs", "batch_size", "workers"):
            checks.at_least(name, getattr(self, name), 1)
        any_side = (self.arch or "").startswith("timm:") or (not self.arch and self.weights not in ("none", "imagenet"))
        if self.side_px % 32 and not any_side:
            raise ConfigError(f"--side-px must be a multiple of 32 (networks halve it five times), got {self.side_px}")
        for name in ("dropout", "last_dropout"):
            checks.at_least(name, getattr(self, name) or 0, 0)
            checks.less_than(name, getattr(self, name) or 0, 1)
        if self.last_dropout is not None and not self.head.startswith("mlp-"):
            raise ConfigError(f"--last-dropout with the head {self.head}; it is for mlp-UNITS, others have --dropout")
        checks.more_than("crop_fraction", self.crop_fraction, 0)
        checks.between("crop_fraction", self.crop_fraction, 0, 1)
        if self.crop_fraction != 1 and self.fit != "center-crop":
            raise ConfigError(f"--crop-fraction {self.crop_fraction} with --fit {self.fit}; it is for center-crop")
        if self.fit not in ("auto", "letterbox") and (self.task == "segment" or self.crop.segmenter):
            what = "a segmenter" if self.task == "segment" else "--crop.segmenter"
            raise ConfigError(f"--fit {self.fit} with {what}; expected letterbox")
        checks.at_least("stop_after", self.stop_after, 0)
        if self.folds and not (self.folds >= 2 and 0 <= self.fold < self.folds):
            raise ConfigError(f"--fold {self.fold} of {self.folds} folds; expected at least 2 folds, counted from 0")
        if self.augment.mixup and (
            self.task != "classify" or "multi-class" in (self.loss.uncertain, *self.loss.policies.values())
        ):
            what = "a segmenter" if self.task != "classify" else "uncertain labels as a third class"
            raise ConfigError(f"--augment.mixup with {what}: a mixture of these targets means nothing")
        valid_only = {
            "--freeze.policy adaptive": self.freeze.policy == "adaptive",
            "--freeze.early-stop each": self.freeze.early_stop == "each",
            "--optim.schedule plateau": self.optim.schedule == "plateau",
        }
        if self.refit and any(valid_only.values()):
            what = next(name for name, named in valid_only.items() if named)
            raise ConfigError(f"--refit with {what}, which looks at a valid split; a refit has none")
        if self.freeze.early_stop == "each" and not self.stop_after:
            raise ConfigError("--freeze.early-stop each needs --stop-after: the epochs without improvement")
        for name in ("best", "watch"):
            if self.task == "segment" and getattr(self, name) == "accuracy":
                raise ConfigError(f"--{name} accuracy is for classifiers; to segment, expected score or loss")
        losses = ("auto", "bce", "focal", *(("cross-entropy",) if self.task == "classify" else ("dice", "dice-bce")))
        if self.loss.name not in losses:
            raise ConfigError(f"--loss.name {self.loss.name!r} to {self.task}; expected one of {', '.join(losses)}")
        self.phases  # noqa: B018  # refuses epochs that do not fit

    @property
    def architecture(self) -> str:
        return self.arch or {"classify": "resnet50", "segment": "unet-resnet34"}[self.task]

    @property
    def watched(self) -> str:
        """The quantity that early stopping and `plateau` watch."""
        return self.watch or ("score" if self.best == "last" else self.best)

    @property
    def phases(self) -> tuple[tuple[range, float], ...]:
        """Epochs and peak learning rate of every phase of freezing."""
        return self.freeze.plan(self.epochs, self.learning_rate)

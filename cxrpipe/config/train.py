"""Settings of `train`."""

from dataclasses import dataclass, field

from cxrpipe.config.checks import at_least, one_of, one_source
from cxrpipe.config.train_sections import AugmentConfig, CropConfig, FreezeConfig, LossConfig, OptimConfig
from cxrpipe.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Fine-tune one model on the train split of an archive, and keep the epoch that is best on the valid split.

    Writes a model folder: model.safetensors and card.json, which score takes. An interrupted training is resumed by
    the same command.
    """

    task: str
    """classify (findings per study) or segment (lungs)."""

    out: str
    """Model folder to write (a URL)."""

    archive: str | None = None
    """Archive to index and train on."""

    studies: str | None = None
    """Study table to train on, instead of an archive."""

    layout: str = "auto"
    """Layout of the archive: auto, nih, chexpert, padchest, mimic-cxr-jpg, medmnist, shenzhen, montgomery,
    dicom, folders, images or table."""

    split_seed: int = 0
    """Seed of the split of an archive that has none of its own, and of the folds."""

    folds: int = 0
    """Cut the patients into so many folds, hold one out as the test split, and train and validate on the others; zero:
    the table's own splits. The table with these splits is kept in OUT/fold."""

    fold: int = 0
    """Which fold is held out, from 0."""

    fold_over: str = "development"
    """What is cut into folds: development (the train and valid splits; an official test split stays untouched), all
    (for archives without an official test split) or train (the fold chooses the epoch; valid is held out)."""

    arch: str | None = None
    """To classify: a torchvision classifier (default resnet50) or smallcnn; to segment: unet-<encoder> (default
    unet-resnet34) or unet-classic."""

    head: str = "linear"
    """Of a classifier: linear, or mlp-<units> (Dropout, Dense, ReLU, BatchNorm, Dropout before the logits)."""

    dropout: float = 0.5
    """Of an mlp head and of smallcnn, while they train."""

    weights: str = "none"
    """Weights to start from: none, imagenet, or the URL of a model folder or .safetensors file."""

    findings: tuple[str, ...] = ()
    """Findings to learn, with commas between; default: all that the archive labels both ways."""

    side_px: int = 224
    """Side of the square that images are fitted into, pixels."""

    epochs: int = 10
    """Passes over the train split."""

    batch_size: int = 16
    """Images per batch and worker."""

    learning_rate: float = 1e-3
    """Highest learning rate of the schedule."""

    best: str = "score"
    """What the kept epoch is best in, on the valid split: score (mean AUROC or mean Dice), loss, or the AUROC of the
    finding named."""

    stop_after: int = 0
    """Stop after so many epochs without a better one; zero: never before --epochs."""

    precision: str = "auto"
    """fp32, bf16 (autocast), or auto: bf16 where the GPU or CPU has units for it."""

    compile: bool = False
    """Compile the network with torch.compile: minutes at the start, faster steps on a GPU."""

    workers: int = 1
    """Training processes; with GPUs, one GPU each."""

    seed: int = 0
    """Seed of weights, order and augmentation."""

    max_failures: int = 2
    """Restarts after a killed worker, from the last checkpoint."""

    optim: OptimConfig = field(default_factory=OptimConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    crop: CropConfig = field(default_factory=CropConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    freeze: FreezeConfig = field(default_factory=FreezeConfig)

    def __post_init__(self) -> None:
        one_of("task", self.task, ("classify", "segment"))
        one_source(self.archive, self.studies)
        if self.crop.segmenter and self.task != "classify":
            raise ConfigError("crop.segmenter is for classifiers; a segmenter looks at whole views")
        for name in ("side_px", "epochs", "batch_size", "workers"):
            at_least(name, getattr(self, name), 1)
        if self.side_px % 32:
            raise ConfigError(f"side_px must be a multiple of 32 (networks halve it five times), got {self.side_px}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout must lie between 0 and 1, got {self.dropout}")
        one_of("precision", self.precision, ("auto", "fp32", "bf16"))
        one_of("fold_over", self.fold_over, ("development", "all", "train"))
        at_least("stop_after", self.stop_after, 0)
        if self.folds and not (self.folds >= 2 and 0 <= self.fold < self.folds):
            raise ConfigError(f"fold {self.fold} of {self.folds} folds; expected at least 2 folds, counted from 0")
        losses = ("auto", "bce", "focal", *(("cross-entropy",) if self.task == "classify" else ("dice", "dice-bce")))
        one_of(f"loss.name to {self.task}", self.loss.name, losses)
        self.phases  # noqa: B018  # refuses epochs that do not fit

    @property
    def architecture(self) -> str:
        return self.arch or {"classify": "resnet50", "segment": "unet-resnet34"}[self.task]

    @property
    def phases(self) -> tuple[tuple[range, float], ...]:
        """Epochs and highest learning rate of every phase."""
        return self.freeze.plan(self.epochs, self.learning_rate)

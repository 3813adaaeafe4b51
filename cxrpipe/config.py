"""Settings of every program: frozen, documented where they are defined, checked once."""

from dataclasses import dataclass, field

from cxrpipe.checks import at_least as _at_least
from cxrpipe.checks import one_of as _one_of
from cxrpipe.checks import one_source as _one_source
from cxrpipe.errors import ConfigError
from cxrpipe.train_config import TrainConfig as TrainConfig


@dataclass(frozen=True, kw_only=True)
class IndexConfig:
    """Catalogue an archive into a study table: one row per study, with labels and the place of every image.

    Containers (tar, tar.gz, zip) are read as they lie; nothing is unpacked or copied.
    """

    archive: str
    """Archive to read: s3://bucket/prefix, file:///path or a path; a folder, a container or a table."""

    layout: str = "auto"
    """How the archive is laid out: auto, nih, chexpert, padchest, mimic-cxr-jpg, medmnist, shenzhen, montgomery,
    dicom, folders, images or table."""

    out: str = "studies.parquet"
    """Where the study table goes (a URL); skipped.parquet, labels_without_files.parquet and seek_points/ beside it."""

    split_seed: int = 0
    """Seed of the 80/10/10 split by patient, where the archive has no split of its own."""

    def __post_init__(self) -> None:
        if not self.out.endswith(".parquet"):
            raise ConfigError(f"out {self.out!r}; expected a name that ends in .parquet")


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Where the stages run. Zero: sized to the machine or the cluster."""

    preparers: int = 0
    """Actors that fetch, decode and fit images."""

    predictors: int = 0
    """Actors that hold the models; one per GPU where there are GPUs."""

    threads: int = 0
    """CPU threads of one predictor; zero: all cores of its machine."""


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """Score an archive or a study table with an ensemble and a segmenter: one row per study, exactly once.

    A run that was interrupted is resumed by the same command; one that is complete says so and does nothing.
    """

    out: str
    """Score root (a URL): many runs share it."""

    archive: str | None = None
    """Archive to index and score."""

    studies: str | None = None
    """Study table to score, instead of an archive."""

    layout: str = "auto"
    """Layout of the archive: auto, nih, chexpert, padchest, mimic-cxr-jpg, medmnist, shenzhen, montgomery,
    dicom, folders, images or table."""

    split_seed: int = 0
    """Seed of the split of an archive that has none of its own."""

    models: tuple[str, ...] = ()
    """Model folders of the ensemble's members, with commas between (URLs)."""

    segmenter: str | None = None
    """Model folder of the lung segmenter (URL)."""

    split: str = "all"
    """Studies to score: all, train, valid or test."""

    limit: int = 0
    """Score at most so many studies; zero: all."""

    batch_studies: int = 16
    """Studies per forward pass."""

    part_studies: int = 256
    """Studies per part: what a crash can cost at most, per writer."""

    max_failed_fraction: float = 0.1
    """Exit status 3 when more than this fraction of at least 50 studies failed."""

    resources: Resources = field(default_factory=Resources)

    def __post_init__(self) -> None:
        _one_source(self.archive, self.studies)
        _one_of("split", self.split, ("all", "train", "valid", "test"))
        _at_least("limit", self.limit, 0)
        _at_least("batch_studies", self.batch_studies, 1)
        _at_least("part_studies", self.part_studies, 1)
        if not 0 <= self.max_failed_fraction <= 1:
            raise ConfigError(f"max_failed_fraction must lie between 0 and 1, got {self.max_failed_fraction}")
        if not self.models and not self.segmenter:
            raise ConfigError("nothing to score with: name --models A,B, --segmenter U or both")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Figures from scores and labels, with 95% intervals from a bootstrap over patients.

    Prints a table and writes metrics.json, roc.png and confusion.png.
    """

    scores: str
    """Score root (a URL)."""

    studies: str
    """Study table with the labels or masks (a URL)."""

    out: str
    """Folder for metrics.json and the pictures (a URL)."""

    split: str = "test"
    """Studies to evaluate: test, valid, train or all."""

    fingerprint: str | None = None
    """Which models' rows, where the root holds several."""

    resamples: int = 2000
    """Bootstrap resamples."""

    seed: int = 0
    """Seed of the bootstrap."""

    def __post_init__(self) -> None:
        _one_of("split", self.split, ("all", "train", "valid", "test"))
        _at_least("resamples", self.resamples, 1)


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """The whole road on a small synthetic archive: index, train three models, score, evaluate. Takes minutes."""

    out: str = "demo"
    """Local folder for everything the demo makes."""

    archive: str | None = None
    """An archive of your own, scored afterwards with the demo's models, whose probabilities mean nothing."""

    workers: int = 2
    """Training processes."""

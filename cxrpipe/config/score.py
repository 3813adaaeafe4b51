"""Settings of the programs that score archives: score and nightly."""

from dataclasses import dataclass, field

from cxrpipe.config.checks import at_least, one_of, one_source
from cxrpipe.errors import ConfigError

DECODE_TIMEOUT_S = 60
"""A large film takes 0.3 s: what takes so long hangs."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Where the stages run, and how wide. Zero: sized to the machine or the cluster."""

    preparers: int = 0
    """Actors that fetch, decode and fit images."""

    predictors: int = 0
    """Actors that hold the models; one per GPU where there are GPUs, else one per machine."""

    threads: int = 0
    """CPU threads of one predictor; zero: all cores of its machine."""

    placement: str = "auto"
    """Machines of the stages: labels (preparation on those labelled role=preprocess, prediction on role=predict), any,
    or auto: by labels where machines that run now carry them."""

    cpus: int = 0
    """Logical CPUs that the machines of the preparation may grow to, where an autoscaler adds some; zero: those now."""

    gpus: int = 0
    """GPUs that the cluster may grow to; zero: those now."""

    def __post_init__(self) -> None:
        one_of("resources.placement", self.placement, ("auto", "labels", "any"))
        for name in ("preparers", "predictors", "threads", "cpus", "gpus"):
            at_least(f"resources.{name}", getattr(self, name), 0)


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """What `score` and `nightly` have in common."""

    out: str
    """Score root (a URL): many runs share it."""

    layout: str = "auto"
    """Layout of the archive: auto, nih, chexpert, padchest, mimic-cxr-jpg, medmnist, shenzhen, montgomery,
    dicom, folders, images or table."""

    split_seed: int = 0
    """Seed of the split of an archive that has none of its own."""

    models: tuple[str, ...] = ()
    """Model folders of the ensemble's members, with commas between (URLs)."""

    segmenter: str | None = None
    """Model folder of the lung segmenter (URL)."""

    explain: bool = False
    """Draw a heat map (Grad-CAM) of every finding at or above its threshold."""

    tta: bool = False
    """Average each model over slightly enlarged and shifted variants of a view: four times the work of the models."""

    precision: str = "auto"
    """Arithmetic of the models: fp32, bf16, or auto: bf16 where the machine has units for it."""

    compile: str = "auto"
    """Compile the models: on, off, or auto: where the run is long enough to pay for it."""

    limit: int = 0
    """Score at most so many studies; zero: all."""

    batch_studies: int = 16
    """Studies per forward pass."""

    part_studies: int = 256
    """Studies per part: what a crash can cost at most, per writer."""

    decode_timeout_s: float = DECODE_TIMEOUT_S
    """Seconds that decoding one image may take; the study of one that takes longer gets the reason timeout."""

    max_failed_fraction: float = 0.1
    """Exit status 3 when more than this fraction of at least 50 studies failed."""

    resources: Resources = field(default_factory=Resources)

    def __post_init__(self) -> None:
        at_least("limit", self.limit, 0)
        at_least("batch_studies", self.batch_studies, 1)
        at_least("part_studies", self.part_studies, 1)
        if self.decode_timeout_s <= 0:
            raise ConfigError(f"decode_timeout_s must be more than 0 seconds, got {self.decode_timeout_s}")
        if not 0 <= self.max_failed_fraction <= 1:
            raise ConfigError(f"max_failed_fraction must lie between 0 and 1, got {self.max_failed_fraction}")
        if not self.models and not self.segmenter:
            raise ConfigError("nothing to score with: name --models A,B, --segmenter U or both")
        if (self.explain or self.tta) and not self.models:
            raise ConfigError("explain and tta are about classifiers; name some with --models A,B")
        one_of("precision", self.precision, ("auto", "fp32", "bf16"))
        one_of("compile", self.compile, ("auto", "on", "off"))


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(Scoring):
    """Score an archive or a study table with an ensemble and a segmenter: one row per study, exactly once.

    A run that was interrupted is resumed by the same command; one that is complete says so and does nothing.
    """

    archive: str | None = None
    """Archive to index and score."""

    studies: str | None = None
    """Study table to score, instead of an archive."""

    split: str = "all"
    """Studies to score: all, train, valid or test."""

    incremental: bool = False
    """Score only what no complete run of these models holds: new studies, changed ones, those that may succeed now.
    A run of these models that broke is completed first."""

    retry: tuple[str, ...] = field(default=(), metadata={"alone": "retryable"})
    """Score again the studies that failed with these reasons, with commas between; alone: those that may succeed
    without any change (timeout, missing, denied)."""

    dry_run: bool = False
    """Say how many studies are new, changed, to be retried and done, and write nothing."""

    def __post_init__(self) -> None:
        one_source(self.archive, self.studies)
        one_of("split", self.split, ("all", "train", "valid", "test"))
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class NightlyConfig(Scoring):
    """Every night the same command: index what has come, score it, say what happened; one night at a time.

    A night that broke is completed by the next call, or by the same command now.
    """

    archive: str
    """Archive to index, whole, as every night: only what changed is opened."""

    studies: str
    """Study table of this archive (a URL, kept from night to night): tonight's takes the place of the last."""

    pseudonymise: str | None = None
    """Key file, a local path: ids become keyed hashes, as in `index`."""

    reference: str | None = None
    """Score root to compare the night with (a URL); the distributions of the findings are to be as there."""

    def __post_init__(self) -> None:
        if not self.studies.endswith(".parquet"):
            raise ConfigError(f"studies {self.studies!r}; expected a name that ends in .parquet")
        super().__post_init__()

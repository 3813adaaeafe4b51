"""Settings of every program: frozen, documented where they are defined, checked once."""

from dataclasses import dataclass, field

from cxrpipe.checks import at_least as _at_least
from cxrpipe.checks import one_of as _one_of
from cxrpipe.checks import one_source as _one_source
from cxrpipe.errors import ConfigError
from cxrpipe.evaluate_config import CalibrateConfig as CalibrateConfig
from cxrpipe.evaluate_config import CompareConfig as CompareConfig
from cxrpipe.evaluate_config import EvaluateConfig as EvaluateConfig
from cxrpipe.train_config import TrainConfig as TrainConfig

DECODE_TIMEOUT_S = 60
"""A large film takes 0.3 s: what takes so long hangs."""


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
    """Where the study table goes (a URL); beside it skipped.parquet, labels_without_files.parquet, seek_points/, and
    files.parquet, which a later index wants."""

    previous: str | None = None
    """Study table of an earlier index of this archive (a URL): what has not changed since is not opened again. The new
    table is whole, and may replace the earlier one."""

    pseudonymise: str | None = None
    """Key file, a local path: at least 32 random bytes that not everybody may read. Study, patient and SOP instance ids
    and digests become HMAC-SHA256 under this key (128 bits, in hex); splits stay as they are. The table still has urls:
    it is private, and score roots that are made of it have none."""

    split_seed: int = 0
    """Seed of the 80/10/10 split by patient, where the archive has no split of its own."""

    def __post_init__(self) -> None:
        if not self.out.endswith(".parquet"):
            raise ConfigError(f"out {self.out!r}; expected a name that ends in .parquet")


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
        _one_of("resources.placement", self.placement, ("auto", "labels", "any"))
        for name in ("preparers", "predictors", "threads", "cpus", "gpus"):
            _at_least(f"resources.{name}", getattr(self, name), 0)


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
        _at_least("limit", self.limit, 0)
        _at_least("batch_studies", self.batch_studies, 1)
        _at_least("part_studies", self.part_studies, 1)
        if self.decode_timeout_s <= 0:
            raise ConfigError(f"decode_timeout_s must be more than 0 seconds, got {self.decode_timeout_s}")
        if not 0 <= self.max_failed_fraction <= 1:
            raise ConfigError(f"max_failed_fraction must lie between 0 and 1, got {self.max_failed_fraction}")
        if not self.models and not self.segmenter:
            raise ConfigError("nothing to score with: name --models A,B, --segmenter U or both")
        if (self.explain or self.tta) and not self.models:
            raise ConfigError("explain and tta are about classifiers; name some with --models A,B")
        _one_of("precision", self.precision, ("auto", "fp32", "bf16"))
        _one_of("compile", self.compile, ("auto", "on", "off"))


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
        _one_source(self.archive, self.studies)
        _one_of("split", self.split, ("all", "train", "valid", "test"))
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


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Try models on a few images: cxrpipe predict FILE… --models A,B --segmenter U prints a table and draws each.

    Every file is a study of one frontal view. For archives, and for results to keep, use score.
    """

    files: tuple[str, ...] = field(metadata={"bare_words": True})
    """PNG, JPEG or DICOM files (URLs)."""

    models: tuple[str, ...] = ()
    """Model folders of the ensemble's members, with commas between (URLs)."""

    segmenter: str | None = None
    """Model folder of the lung segmenter (URL)."""

    explain: bool = True
    """Draw heat maps of the findings at or above threshold."""

    out: str = "predicted"
    """Folder for a picture of each file and scores.parquet (a URL)."""

    def __post_init__(self) -> None:
        if not self.files:
            raise ConfigError("no files named: cxrpipe predict FILE… --models A,B")
        if not self.models and not self.segmenter:
            raise ConfigError("nothing to predict with: name --models A,B, --segmenter U or both")


@dataclass(frozen=True, kw_only=True)
class ShowConfig:
    """Draw one study: cxrpipe show STUDIES --study ID as the archive has it, cxrpipe show OUT --study ID as scored.

    Views with the outlines of masks (blue: a model's, yellow: the archive's), heat maps beside them.
    """

    source: str = field(metadata={"bare_words": True})
    """Study table, or score root (a URL)."""

    study: str
    """Study id."""

    out: str | None = None
    """PNG to write (a URL); without it, the study's id with .png in the current folder."""

    fingerprint: str | None = None
    """Which models' row, where the root holds several."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Take scores out: cxrpipe export OUT --csv FILE --masks DIR --dicom-seg DIR. The newest row of every study."""

    source: str = field(metadata={"bare_words": True})
    """Score root (a URL)."""

    csv: str | None = None
    """CSV to write (a URL): one row per study, lists as JSON, no pictures."""

    masks: str | None = None
    """Folder for the lung masks (a URL): one PNG per view, in the view's own pixel grid."""

    dicom_seg: str | None = None
    """Folder for the lung masks of DICOM sources as DICOM segmentations (a URL), which name the segmenter. They have
    the patient's name and ids as their source has them."""

    studies: str | None = None
    """Study table that was scored, for --dicom-seg where the root does not have it: that of a pseudonymised archive."""

    fingerprint: str | None = None
    """Which models' rows, where the root holds several."""

    def __post_init__(self) -> None:
        if not (self.csv or self.masks or self.dicom_seg):
            raise ConfigError("nothing to export: name --csv FILE, --masks DIR or --dicom-seg DIR")


@dataclass(frozen=True, kw_only=True)
class ForgetConfig:
    """Take a patient out of a score root: published rows, parts and lists; and keep them out of later runs."""

    patient: str
    """Patient id, as it stands in the study table."""

    out: str
    """Score root (a URL)."""


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """The whole road on a small synthetic archive: index, train three models, score, evaluate. Takes minutes."""

    out: str = "demo"
    """Local folder for everything the demo makes."""

    archive: str | None = None
    """An archive of your own, scored afterwards with the demo's models, whose probabilities mean nothing."""

    workers: int = 2
    """Training processes."""

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

    explain: bool = False
    """Draw a heat map (Grad-CAM) of every finding at or above its threshold."""

    tta: bool = False
    """Average each model over slightly enlarged and shifted variants of a view: four times the work of the models."""

    precision: str = "auto"
    """Arithmetic of the models: fp32, bf16, or auto: bf16 where the machine has units for it."""

    compile: str = "auto"
    """Compile the models: on, off, or auto: where the run is long enough to pay for it."""

    split: str = "all"
    """Studies to score: all, train, valid or test."""

    limit: int = 0
    """Score at most so many studies; zero: all."""

    incremental: bool = False
    """Score only what no complete run of these models holds: new studies, changed ones, those that may succeed now.
    A run of these models that broke is completed first."""

    retry: tuple[str, ...] = field(default=(), metadata={"alone": "retryable"})
    """Score again the studies that failed with these reasons, with commas between; alone: those that may succeed
    without any change (timeout, missing, denied)."""

    dry_run: bool = False
    """Say how many studies are new, changed, to be retried and done, and write nothing."""

    batch_studies: int = 16
    """Studies per forward pass."""

    part_studies: int = 256
    """Studies per part: what a crash can cost at most, per writer."""

    decode_timeout_s: float = 60
    """Seconds that decoding one image may take; the study of one that takes longer gets the reason timeout."""

    max_failed_fraction: float = 0.1
    """Exit status 3 when more than this fraction of at least 50 studies failed."""

    resources: Resources = field(default_factory=Resources)

    def __post_init__(self) -> None:
        _one_source(self.archive, self.studies)
        _one_of("split", self.split, ("all", "train", "valid", "test"))
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
class EvaluateConfig:
    """Figures from scores and labels, with 95% intervals from a bootstrap over patients.

    Prints a table and writes report.html, metrics.json, roc.png and confusion.png.
    """

    scores: str
    """Score root (a URL)."""

    studies: str
    """Study table with the labels or masks (a URL)."""

    out: str
    """Folder for report.html, metrics.json and the pictures (a URL)."""

    split: str = "test"
    """Studies to evaluate: test, valid, train or all."""

    fingerprint: str | None = None
    """Which models' rows, where the root holds several."""

    uncertain: str = "ignore"
    """What an uncertain label (-1) stands for: ignore (the study is left out and counted), positive or negative."""

    blank: str = "ignore"
    """What a label that is not there stands for: ignore or negative."""

    thresholds_on: str = "auto"
    """Split on which thresholds by rule are chosen: train, valid or test; auto: valid where it is scored, else the
    split that is evaluated, which flatters and is said."""

    target_sensitivity: float = 0.9
    """The threshold by rule sensitivity is the highest that reaches this."""

    target_specificity: float = 0.9
    """The threshold by rule specificity is the lowest that reaches this."""

    miss_cost: float = 1.0
    """The threshold by rule cost makes misses and false alarms cheapest; a miss costs this many false alarms."""

    pictures: int = 84
    """Studies in the report's gallery of true and false positives and negatives, at most; zero: none, and no image of
    a patient in the report."""

    resamples: int = 2000
    """Bootstrap resamples."""

    seed: int = 0
    """Seed of the bootstrap."""

    def __post_init__(self) -> None:
        _one_of("split", self.split, ("all", "train", "valid", "test"))
        _at_least("resamples", self.resamples, 1)
        _at_least("pictures", self.pictures, 0)
        _one_of("uncertain", self.uncertain, ("ignore", "positive", "negative"))
        _one_of("blank", self.blank, ("ignore", "negative"))
        _one_of("thresholds_on", self.thresholds_on, ("auto", "train", "valid", "test"))
        _threshold_targets(self.target_sensitivity, self.target_specificity, self.miss_cost)


@dataclass(frozen=True, kw_only=True)
class CalibrateConfig:
    """Fit calibration and thresholds on scored, labelled studies, and write new model folders.

    Each member by itself, at the level of studies. Scoring with the new folders derives rows and opens no image.
    """

    scores: str
    """Score root (a URL) that holds scores of these models."""

    studies: str
    """Study table with the labels (a URL)."""

    models: tuple[str, ...]
    """Model folders, with commas between (URLs): some or all of those that scored."""

    out: str
    """Folder for the new model folders, one of the same name for each (a URL)."""

    split: str = "valid"
    """Studies to fit on: valid, train, test or all. What they are, nothing should be judged on."""

    fingerprint: str | None = None
    """Which models' rows, where the root holds several."""

    method: str = "platt"
    """Calibration of a study's logit: platt (slope and intercept), temperature (slope alone) or none."""

    rule: str = "youden"
    """Threshold on the calibrated probability: youden, sensitivity, specificity, cost or 0.5."""

    uncertain: str = "ignore"
    """What an uncertain label (-1) stands for: ignore, positive or negative."""

    blank: str = "ignore"
    """What a label that is not there stands for: ignore or negative."""

    target_sensitivity: float = 0.9
    """Rule sensitivity: the highest threshold that reaches this."""

    target_specificity: float = 0.9
    """Rule specificity: the lowest threshold that reaches this."""

    miss_cost: float = 1.0
    """Rule cost: a miss costs this many false alarms."""

    def __post_init__(self) -> None:
        _one_of("split", self.split, ("all", "train", "valid", "test"))
        _one_of("method", self.method, ("platt", "temperature", "none"))
        _one_of("rule", self.rule, ("0.5", "youden", "sensitivity", "specificity", "cost"))
        _one_of("uncertain", self.uncertain, ("ignore", "positive", "negative"))
        _one_of("blank", self.blank, ("ignore", "negative"))
        _threshold_targets(self.target_sensitivity, self.target_specificity, self.miss_cost)
        if not self.models:
            raise ConfigError("nothing to calibrate: name --models A,B")


def _threshold_targets(sensitivity: float, specificity: float, miss_cost: float) -> None:
    for name, value in (("sensitivity", sensitivity), ("specificity", specificity)):
        if not 0 < value <= 1:
            raise ConfigError(f"target_{name} must lie between 0 and 1, got {value}")
    if miss_cost <= 0:
        raise ConfigError(f"miss_cost must be more than 0, got {miss_cost}")


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Two scored runs side by side: cxrpipe compare A B. Exit status 5 where the scores of B have drifted.

    A drift is a population stability index above 0.2 and above what chance gives at B's number of studies.
    """

    runs: tuple[str, ...] = field(default=(), metadata={"bare_words": True})
    """The reference and the later one. Each a score root (its newest rows), a run of one (ROOT/runs/ID), or with
    --root an id of a run or `latest`."""

    root: str | None = None
    """Score root (a URL) whose runs are named by their ids."""

    fingerprint: str | None = None
    """Which models' rows, where a root holds several."""

    across_models: bool = False
    """Compare also scores of different models of the same findings; there is no alarm then."""

    out: str | None = None
    """Folder for comparison.json (a URL); without it, nothing is written."""

    resamples: int = 20_000
    """Draws from the reference that say what chance gives."""

    seed: int = 0
    """Seed of these draws."""

    def __post_init__(self) -> None:
        if len(self.runs) != 2:
            raise ConfigError(f"{len(self.runs)} runs to compare; expected two: cxrpipe compare A B")
        _at_least("resamples", self.resamples, 1000)


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

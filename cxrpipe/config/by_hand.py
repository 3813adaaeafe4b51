"""Settings of the programs that people run by hand: predict, show, export, forget and demo."""

from dataclasses import dataclass, field

from cxrpipe.errors import ConfigError


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

"""Settings of `export`."""

from dataclasses import dataclass, field

from cxrpipe.config.values import Id, Url
from cxrpipe.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write the newest scores of every study as CSV, and its lung masks as PNG or DICOM segmentations.

    Example: cxrpipe export scores --csv scores.csv --masks masks
    """

    source: Url = field(metadata={"bare_words": "ROOT"})
    """Score root to export."""

    csv: Url | None = None
    """CSV file to write: one row per study, lists as JSON, no pictures."""

    masks: Url | None = None
    """Folder for the lung masks: one PNG per view, in the pixel grid of the view."""

    dicom_seg: Url | None = None
    """Folder for DICOM segmentations of the lungs, of studies that come from DICOM files. They name the segmenter, and
    hold the patient's name and ids as the source file has them."""

    studies: Url | None = None
    """Study table that was scored. --dicom-seg needs it where the score root does not hold it: after scoring a
    pseudonymised table."""

    fingerprint: Id | None = None
    """Models whose rows are exported, where the score root holds those of several."""

    def __post_init__(self) -> None:
        if not (self.csv or self.masks or self.dicom_seg):
            raise ConfigError("nothing to export: name --csv FILE, --masks FOLDER or --dicom-seg FOLDER")

"""Settings of `export`."""

from dataclasses import dataclass, field

from cxrpipe.config import checks
from cxrpipe.config.values import Id, Url
from cxrpipe.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write the newest scores of every study as CSV, its masks as PNG or DICOM segmentations, its feature vectors.

    Example: cxrpipe export scores --csv scores.csv --masks masks
    """

    source: Url = field(metadata={"bare_words": "ROOT"})
    """Score root to export."""

    csv: Url | None = None
    """CSV file to write: one row per study, lists as JSON, no pictures. Where readers have given verdicts,
    review_FINDING is the label of their majority (1, 0, -1) and readers_FINDING their number."""

    masks: Url | None = None
    """Folder for the masks, in the pixel grid of the view: STUDY_VIEW.png of the lungs, and STUDY_VIEW_NAME.png of
    every structure that the segmenter names."""

    dicom_seg: Url | None = None
    """Folder for DICOM segmentations, of studies that come from DICOM files: of the lungs, or of the structures that
    the segmenter names, a segment for each. They name the segmenter, and hold the patient's name and ids as the source
    file has them."""

    embeddings: Url | None = None
    """Parquet file to write: one row per scored view, with study_id, patient_id, view, view_position and, for each
    model that has feature vectors, features_MODEL in 32 bits. For DuckDB, pandas and faiss. Needs scores of
    `score --embed`. A vector can identify a patient across data sets, as a film can."""

    studies: Url | None = None
    """Study table that was scored. --dicom-seg needs it where the score root does not hold it: after scoring a
    pseudonymised table."""

    fingerprint: Id | None = None
    """Models whose rows are exported, where the score root holds those of several."""

    def __post_init__(self) -> None:
        if not (self.csv or self.masks or self.dicom_seg or self.embeddings):
            raise ConfigError(
                "nothing to export: name --csv FILE, --masks FOLDER, --dicom-seg FOLDER or --embeddings FILE"
            )
        if self.embeddings:
            checks.parquet("embeddings", self.embeddings)

"""Settings of `predict`."""

from dataclasses import dataclass, field

from cxrpipe.config.values import Url
from cxrpipe.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Try models on a few image files: print a table, and draw each file with its lungs and heat maps.

    Example: cxrpipe predict film.png scan.dcm --models models/a,models/b --segmenter models/lungs

    Every file counts as a study with one frontal view. To score an archive and keep the results, use `score`.
    """

    files: tuple[Url, ...] = field(metadata={"bare_words": "FILE..."})
    """PNG, JPEG or DICOM files."""

    models: tuple[Url, ...] = ()
    """Model folders of the classifiers, the members of the ensemble."""

    segmenter: Url | None = None
    """Model folder of the lung segmenter."""

    out: Url = "predicted"
    """Folder for scores.parquet and a picture of each file."""

    explain: bool = True
    """Draw heat maps of the findings at or above threshold."""

    def __post_init__(self) -> None:
        if not self.files:
            raise ConfigError("no files named: cxrpipe predict FILE... --models A,B")
        if not self.models and not self.segmenter:
            raise ConfigError("nothing to predict with: name --models A,B, --segmenter URL or both")

"""Settings of `predict`."""

from dataclasses import dataclass, field

from cxrpipe.config.values import Url
from cxrpipe.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Try models on a few image files: print a table, and draw each file with its lungs and heat maps.

    Example: cxrpipe predict film.png scan.dcm --models models/a,models/b --segmenter models/lungs

    Name files, folders or s3:// prefixes. A folder stands for every image file in it. Every file counts as a study with
    one frontal view. Exit status 3 means that a file failed; a line below the table says why. To score an archive, and
    to keep the results, use `score`.
    """

    files: tuple[Url, ...] = field(metadata={"bare_words": "FILE..."})
    """Image or DICOM files, folders of them, or s3:// prefixes."""

    models: tuple[Url, ...] = ()
    """Model folders of the classifiers: they give probabilities, votes and heat maps. A folder of model folders stands
    for all of them."""

    segmenter: tuple[Url, ...] = ()
    """Model folder of the lung segmenter: it gives the outlines of the lungs, and how much of the image they cover.
    Several, or a folder of model folders, vote."""

    out: Url = "predicted"
    """Folder for scores.parquet and a picture of each file. They replace those of an earlier call."""

    explain: bool = True
    """Draw heat maps of the findings to which the consensus says yes. --no-explain is faster."""

    def __post_init__(self) -> None:
        if not self.files:
            raise ConfigError("no files named: cxrpipe predict FILE... --models A,B")
        if not self.models and not self.segmenter:
            raise ConfigError("nothing to predict with: name --models A,B, --segmenter URL or both")

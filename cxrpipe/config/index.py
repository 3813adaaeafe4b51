"""Settings of `index`."""

from dataclasses import dataclass
from typing import ClassVar

from cxrpipe.config import checks
from cxrpipe.config.outline import EVERYBODY, Outline
from cxrpipe.config.values import LocalPath, Name, Url


@dataclass(frozen=True, kw_only=True)
class IndexConfig:
    """Catalogue an archive into a study table: one row per study.

    Example: cxrpipe index --archive s3://bucket/cxr/ --out studies.parquet

    A row holds the labels of a study, its split, and the place of every image. Images are read where they lie, inside
    tar, tar.gz and zip files too; nothing is unpacked or copied.
    """

    outline: ClassVar[Outline] = {
        EVERYBODY: "archive out previous",
        "reading the archive": "layout split_seed",
        "privacy": "pseudonymise",
    }

    archive: Url
    """Archive to catalogue: a folder, a container (tar, tar.gz, zip) or a table."""

    layout: Name = "auto"
    """Layout of the archive: auto (recognise it and say why), nih, chexpert, padchest, mimic-cxr-jpg, medmnist,
    shenzhen, montgomery, dicom, folders, images or table."""

    out: Url = "studies.parquet"
    """Study table to write. Beside it are written skipped.parquet, labels_without_files.parquet, seek_points/, and
    files.parquet, which --previous reads."""

    previous: Url | None = None
    """Study table of an earlier index of this archive. Only objects that changed since are opened. The new table is
    complete, and may replace the earlier one."""

    pseudonymise: LocalPath | None = None
    """Key file of at least 32 random bytes that only its owner may read. Study, patient and SOP instance ids and
    digests become HMAC-SHA256 under this key (128 bits, in hex); splits do not change. The table still holds URLs, so
    keep it private; score roots made from it hold none."""

    split_seed: int = 0
    """Seed of the 80/10/10 split by patient. An archive that comes with a split keeps it."""

    def __post_init__(self) -> None:
        checks.parquet("out", self.out)

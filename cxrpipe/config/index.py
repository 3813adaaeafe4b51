"""Settings of `index`."""

from dataclasses import dataclass

from cxrpipe.errors import ConfigError


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

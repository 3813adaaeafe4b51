"""Settings of `nightly`."""

from dataclasses import dataclass
from typing import ClassVar

from cxrpipe.config import checks
from cxrpipe.config.outline import EVERYBODY, Outline
from cxrpipe.config.score import Scoring
from cxrpipe.config.values import LocalPath, Url


@dataclass(frozen=True, kw_only=True)
class NightlyConfig(Scoring):
    """Index what has come since last night, score it, and write an account of the night.

    Example: cxrpipe nightly --archive s3://bucket/cxr/ --studies studies.parquet --models models/a --out scores

    Run the same command every night. Only one night runs at a time. An interrupted night is completed by the next call.
    """

    outline: ClassVar[Outline] = {
        EVERYBODY: "archive studies models segmenter out",
        "the night": "reference pseudonymise limit",
        **Scoring.outline,
    }

    archive: Url
    """Archive to index. Name the whole archive every night; only objects that changed are opened."""

    studies: Url
    """Study table of this archive, kept from night to night. Tonight's table replaces it."""

    pseudonymise: LocalPath | None = None
    """Key file of at least 32 random bytes. Ids become keyed hashes, as in `index`."""

    reference: Url | None = None
    """Score root to compare the night with. Exit status 5 when the scores of a finding have drifted from it."""

    def __post_init__(self) -> None:
        checks.parquet("studies", self.studies)
        super().__post_init__()
        if self.pseudonymise:
            self.check_pseudonyms()

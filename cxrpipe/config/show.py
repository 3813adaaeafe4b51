"""Settings of `show`."""

from dataclasses import dataclass, field

from cxrpipe.config.values import Id, Url


@dataclass(frozen=True, kw_only=True)
class ShowConfig:
    """Draw the views of one study with its masks, and with its structures and heat maps once it is scored.

    Example: cxrpipe show studies.parquet --study 00000013_005

    Name a study table to see a study as the archive has it, or a score root to see it as scored. Outlines of masks are
    blue for a model's and yellow for the archive's; structures and heat maps stand beside
    the views.
    """

    source: Url = field(metadata={"bare_words": "STUDIES|ROOT"})
    """Study table or score root."""

    study: Id
    """Id of the study."""

    out: Url | None = None
    """PNG to write. Without --out: STUDY.png in the current folder."""

    fingerprint: Id | None = None
    """Models whose row is drawn, where the score root holds those of several."""

"""Settings of `similar`."""

from dataclasses import dataclass, field

from cxrpipe.config import checks
from cxrpipe.config.values import Id, Name, Url


@dataclass(frozen=True, kw_only=True)
class SimilarConfig:
    """List the studies of a score root that are nearest to one study by feature vector, and draw them.

    Example: cxrpipe similar scores --study 00000013_005

    The scores must hold feature vectors: `score --embed`. The distance of two studies is 1 − the cosine of their
    nearest views. Every study of the root is compared.
    """

    source: Url = field(metadata={"bare_words": "ROOT"})
    """Score root to search."""

    study: Id
    """Id of the study whose neighbours are listed."""

    top: int = 10
    """Studies to list."""

    member: Name | None = None
    """Model whose feature vectors are compared, by the name of its folder. Without --member: the first that has
    vectors."""

    out: Url = "similar.png"
    """PNG to write: the study and its neighbours, where their files can be read."""

    studies: Url | None = None
    """Study table that was scored. The picture needs it where the score root does not hold it: after scoring a
    pseudonymised table."""

    fingerprint: Id | None = None
    """Models whose rows are compared, where the score root holds vectors of several."""

    def __post_init__(self) -> None:
        checks.at_least("top", self.top, 1)

"""Settings of `compare`."""

from dataclasses import dataclass, field
from typing import ClassVar

from cxrpipe.config import checks
from cxrpipe.config.outline import EVERYBODY, Outline
from cxrpipe.config.values import Id, Url
from cxrpipe.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Compare two scored runs, and raise an alarm (exit status 5) when the scores have drifted.

    Example: cxrpipe compare scores/2024 scores/2025 --out comparison

    A finding has drifted when its population stability index is above 0.2 and above what chance gives at the number of
    studies of the later run.
    """

    outline: ClassVar[Outline] = {
        EVERYBODY: "runs root out",
        "models": "fingerprint across_models",
        "chance": "resamples seed",
    }

    runs: tuple[Url, ...] = field(default=(), metadata={"bare_words": "RUN RUN"})
    """The reference run and the later run. Name a score root (its newest rows), one of its runs (ROOT/runs/ID), or with
    --root the id of a run or the word latest."""

    root: Url | None = None
    """Score root of the runs that are named by id."""

    fingerprint: Id | None = None
    """Models whose scores are compared, where a score root holds those of several."""

    across_models: bool = False
    """Also compare scores of different models, by the findings that both runs have. Such a comparison raises no
    alarm."""

    out: Url | None = None
    """Folder for comparison.json and comparison.html, a page that opens offline. Without --out neither is written."""

    resamples: int = 20_000
    """Samples drawn from the reference run to see what chance gives. At least 1000."""

    seed: int = 0
    """Seed of these samples."""

    def __post_init__(self) -> None:
        if len(self.runs) != 2:
            raise ConfigError(f"{len(self.runs)} runs to compare; expected two: cxrpipe compare A B")
        checks.at_least("resamples", self.resamples, 1000)

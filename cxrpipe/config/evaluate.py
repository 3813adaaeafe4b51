"""Settings of the programs that judge scores: evaluate, calibrate, compare."""

from dataclasses import dataclass, field

from cxrpipe.config.checks import at_least, one_of
from cxrpipe.errors import ConfigError

RULES = ("0.5", "prevalence", "youden", "sensitivity", "specificity", "cost")
"""Of thresholds, see `thresholds.Targets`."""
_SPLITS = ("all", "train", "valid", "test")


@dataclass(frozen=True, kw_only=True)
class Judging:
    """What evaluate and calibrate share: scores, labels, what unclear labels mean, and thresholds by rule."""

    scores: str
    """Score root (a URL)."""

    studies: str
    """Study table with the labels or masks (a URL)."""

    fingerprint: str | None = None
    """Which models' rows, where the root holds several."""

    uncertain: str = "ignore"
    """What an uncertain label (-1) stands for: ignore (the study is left out and counted), positive or negative."""

    blank: str = "ignore"
    """What a label that is not there stands for: ignore or negative."""

    target_sensitivity: float = 0.9
    """The threshold by rule sensitivity is the highest that reaches this."""

    target_specificity: float = 0.9
    """The threshold by rule specificity is the lowest that reaches this."""

    miss_cost: float = 1.0
    """The threshold by rule cost makes misses and false alarms cheapest; a miss costs this many false alarms."""

    def __post_init__(self) -> None:
        one_of("uncertain", self.uncertain, ("ignore", "positive", "negative"))
        one_of("blank", self.blank, ("ignore", "negative"))
        for name, value in (("sensitivity", self.target_sensitivity), ("specificity", self.target_specificity)):
            if not 0 < value <= 1:
                raise ConfigError(f"target_{name} must lie between 0 and 1, got {value}")
        if self.miss_cost <= 0:
            raise ConfigError(f"miss_cost must be more than 0, got {self.miss_cost}")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Judging):
    """Figures from scores and labels, with 95% intervals from a bootstrap over patients.

    Prints a table and writes report.html, metrics.json, roc.png and confusion.png.
    """

    out: str
    """Folder for report.html, metrics.json and the pictures (a URL)."""

    split: str = "test"
    """Studies to evaluate: test, valid, train or all."""

    thresholds_on: str = "auto"
    """Split on which thresholds by rule are chosen: train, valid or test; auto: valid where it is scored, else the
    split that is evaluated, which flatters and is said."""

    pictures: int = 84
    """Studies in the report's gallery of true and false positives and negatives, at most; zero: none, and no image of
    a patient in the report."""

    resamples: int = 2000
    """Bootstrap resamples."""

    seed: int = 0
    """Seed of the bootstrap."""

    def __post_init__(self) -> None:
        one_of("split", self.split, _SPLITS)
        at_least("resamples", self.resamples, 1)
        at_least("pictures", self.pictures, 0)
        one_of("thresholds_on", self.thresholds_on, ("auto", "train", "valid", "test"))
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class CalibrateConfig(Judging):
    """Fit calibration and thresholds on scored, labelled studies, and write new model folders.

    Each member by itself, at the level of studies. Scoring with the new folders derives rows and opens no image.
    """

    models: tuple[str, ...]
    """Model folders, with commas between (URLs): some or all of those that scored."""

    out: str
    """Folder for the new model folders, one of the same name for each (a URL)."""

    split: str = "valid"
    """Studies to fit on: valid, train, test or all. What they are, nothing should be judged on."""

    method: str = "platt"
    """Calibration of a study's logit: platt (slope and intercept), temperature (slope alone) or none."""

    rule: str = "prevalence"
    """Threshold on the calibrated probability: prevalence (of the finding; where calibration holds, sensitivity +
    specificity are highest there), youden (where they are highest on these very studies), sensitivity, specificity,
    cost or 0.5."""

    def __post_init__(self) -> None:
        one_of("split", self.split, _SPLITS)
        one_of("method", self.method, ("platt", "temperature", "none"))
        one_of("rule", self.rule, RULES)
        super().__post_init__()
        if not self.models:
            raise ConfigError("nothing to calibrate: name --models A,B")


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Two scored runs side by side: cxrpipe compare A B. Exit status 5 where the scores of B have drifted.

    A drift is a population stability index above 0.2 and above what chance gives at B's number of studies.
    """

    runs: tuple[str, ...] = field(default=(), metadata={"bare_words": True})
    """The reference and the later one. Each a score root (its newest rows), a run of one (ROOT/runs/ID), or with
    --root an id of a run or `latest`."""

    root: str | None = None
    """Score root (a URL) whose runs are named by their ids."""

    fingerprint: str | None = None
    """Which models' rows, where a root holds several."""

    across_models: bool = False
    """Compare also scores of different models of the same findings; there is no alarm then."""

    out: str | None = None
    """Folder for comparison.json and comparison.html, one page that opens offline (a URL); without it, neither is."""

    resamples: int = 20_000
    """Draws from the reference that say what chance gives."""

    seed: int = 0
    """Seed of these draws."""

    def __post_init__(self) -> None:
        if len(self.runs) != 2:
            raise ConfigError(f"{len(self.runs)} runs to compare; expected two: cxrpipe compare A B")
        at_least("resamples", self.resamples, 1000)

"""Settings of `evaluate`, and what `calibrate` shares with it."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

from cxrpipe.config import checks
from cxrpipe.config.outline import EVERYBODY, Outline
from cxrpipe.config.values import Id, Name, Split, SplitOrAll, Url
from cxrpipe.errors import ConfigError

Rule = Literal["0.5", "prevalence", "youden", "sensitivity", "specificity", "cost"]
RULES: tuple[Rule, ...] = get_args(Rule)
"""How a threshold is chosen; see `evaluation.thresholds`."""
EXAMPLE = "cxrpipe evaluate --scores scores --studies studies.parquet --out figures"


@dataclass(frozen=True, kw_only=True)
class Judging:
    """The settings that `evaluate` and `calibrate` share."""

    outline: ClassVar[Outline] = {
        "labels": "labels uncertain blank",
        "aims of the threshold rules": "aim_sensitivity aim_specificity miss_cost",
        "models": "fingerprint",
    }

    scores: Url
    """Score root with the scores."""

    studies: Url
    """Study table with the labels or masks."""

    fingerprint: Id | None = None
    """Models whose scores are used, where the score root holds those of several."""

    labels: Literal["table", "reviews"] = "table"
    """Where labels come from. table: the study table. reviews: the verdicts of readers in the score root, see the
    program review; the readers had seen the model's answer. The table then gives splits and patients."""

    uncertain: Literal["ignore", "ones", "zeros"] = field(
        default="ignore", metadata={"old_words": {"positive": "ones", "negative": "zeros"}}
    )
    """What an uncertain label (-1) counts as. ignore: the study is left out for this finding, and counted."""

    blank: Literal["ignore", "zeros"] = field(default="ignore", metadata={"old_words": {"negative": "zeros"}})
    """What a missing label counts as. ignore: the study is left out for this finding, and counted."""

    aim_sensitivity: float = field(default=0.9, metadata={"old_name": "target_sensitivity"})
    """The rule sensitivity takes the highest threshold that reaches this sensitivity."""

    aim_specificity: float = field(default=0.9, metadata={"old_name": "target_specificity"})
    """The rule specificity takes the lowest threshold that reaches this specificity."""

    miss_cost: float = 1.0
    """The rule cost takes the threshold with the lowest cost, where a miss costs this many false alarms."""

    def __post_init__(self) -> None:
        checks.known_words(self)
        for name in ("aim_sensitivity", "aim_specificity"):
            checks.more_than(name, getattr(self, name), 0)
            checks.between(name, getattr(self, name), 0, 1)
        checks.more_than("miss_cost", self.miss_cost, 0)
        if self.labels == "reviews":
            if not self.scores:
                raise ConfigError("--labels reviews reads the verdicts of a score root: name --scores URL")
            if self.blank == "zeros":
                raise ConfigError("--blank zeros with --labels reviews: what nobody has read is not negative")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Judging):
    """Compute figures from scores and labels, with 95% confidence intervals, and write a report.

    Example: cxrpipe evaluate --scores scores --studies studies.parquet --out figures

    The intervals come from a bootstrap over patients. The program prints a table and writes report.html, metrics.json,
    roc.png, confusion.png and classification.txt (precision, recall and F1 of both classes). With --shifts it reads no
    scores: it scores corrupted copies of a few hundred labelled studies itself, and writes shifts.html, shifts.json,
    shifts.parquet and copies.parquet.
    """

    outline: ClassVar[Outline] = {
        EVERYBODY: "scores studies out split",
        "thresholds": "thresholds_on",
        **Judging.outline,
        "predictive values": "prevalences",
        "robustness": "shifts archive layout split_seed models segmenter most_studies",
        "report": "pictures resamples seed",
    }

    scores: Url = ""
    """Score root with the scores. Needed without --shifts."""

    studies: Url = ""
    """Study table with the labels or masks. --shifts takes --archive in its place."""

    out: Url
    """Folder for report.html, metrics.json and the pictures."""

    split: SplitOrAll = "test"
    """Studies to evaluate."""

    thresholds_on: Literal["auto", Split] = "auto"
    """Split on which the threshold rules choose. auto: valid where it is scored, else the evaluated split itself, whose
    figures are optimistic and marked so."""

    pictures: int = 84
    """Upper limit of studies in the report's gallery of true and false positives and negatives. 0: no gallery, so that
    the report holds no image of a patient."""

    prevalences: tuple[float, ...] = (0.01, 0.05, 0.1, 0.3)
    """Fractions of studies with a finding at which predictive values are shown, beside the measured one. Sensitivity
    and specificity are taken as measured."""

    shifts: bool = False
    """Measure robustness: seven corruptions (exposure, contrast, noise, blur, crop, rotation, resolution) at three
    grades. The scores of the copies go to --out, never into a score root."""

    archive: Url | None = None
    """--shifts: archive to index, where no --studies names its table."""

    layout: Name = "auto"
    """--shifts: layout of the archive, as for `index`."""

    split_seed: int = 0
    """--shifts: seed of the 80/10/10 split by patient of an archive that comes without a split."""

    models: tuple[Url, ...] = ()
    """--shifts: model folders of the classifiers. A folder of model folders stands for all of them."""

    segmenter: tuple[Url, ...] = ()
    """--shifts: model folder of the lung segmenter. Several, or a folder of model folders, vote."""

    most_studies: int = 300
    """--shifts: upper limit of studies. A random sample of the labelled studies of the split is drawn by --seed."""

    resamples: int = 2000
    """Bootstrap resamples."""

    seed: int = 0
    """Seed of the bootstrap, and of the sample of --shifts."""

    def __post_init__(self) -> None:
        if self.shifts:
            if not self.studies:
                checks.one_source(self.archive, None)
            if not self.models and not self.segmenter:
                raise ConfigError("--shifts has nothing to score with: name --models A,B, --segmenter URL or both")
            if self.scores:
                raise ConfigError("--shifts scores copies of studies itself; leave --scores out")
        elif missing := [f"--{name} URL" for name in ("scores", "studies") if not getattr(self, name)]:
            raise ConfigError(f"missing: {', '.join(missing)}. Example: {EXAMPLE}")
        elif self.archive or self.models or self.segmenter:
            raise ConfigError("--archive, --models and --segmenter of evaluate belong to --shifts")
        for prevalence in self.prevalences:
            checks.more_than("prevalences", prevalence, 0)
            checks.less_than("prevalences", prevalence, 1)
        checks.at_least("most_studies", self.most_studies, 1)
        checks.at_least("resamples", self.resamples, 1)
        checks.at_least("pictures", self.pictures, 0)
        super().__post_init__()

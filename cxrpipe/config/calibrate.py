"""Settings of `calibrate`."""

import re
from dataclasses import dataclass
from typing import ClassVar, Literal

from cxrpipe.config.evaluate import Judging, Rule
from cxrpipe.config.outline import EVERYBODY, Outline
from cxrpipe.config.values import Name, SplitOrAll, Url
from cxrpipe.errors import ConfigError

EXAMPLE = "cxrpipe calibrate --scores scores --studies studies.parquet --models models/a,models/b --out calibrated"
_FRACTION = re.compile(r"\d*\.?\d+(e-?\d+)?")


@dataclass(frozen=True, kw_only=True)
class CalibrateConfig(Judging):
    """Fit calibration and thresholds on scored, labelled studies, and write new model folders.

    Example: cxrpipe calibrate --scores scores --studies studies.parquet --models models/a,models/b --out calibrated

    Every model is fitted by itself, on whole studies. Scoring with the new folders derives the new rows from the stored
    ones and opens no image.
    """

    outline: ClassVar[Outline] = {
        EVERYBODY: "scores studies models out",
        "fit": "split method rule prevalence",
        **Judging.outline,
    }

    scores: Url = ""
    """Score root with the scores. Needed unless --prevalence moves what the cards hold."""

    studies: Url = ""
    """Study table with the labels. Needed with --scores."""

    models: tuple[Url, ...]
    """Model folders to calibrate: some or all of those that scored. A folder of model folders stands for all of
    them."""

    out: Url
    """Folder for the new model folders. Each keeps its name."""

    split: SplitOrAll = "valid"
    """Studies to fit on. Do not evaluate on the split used here."""

    method: Literal["platt", "temperature", "none"] = "platt"
    """Calibration of the logit of a study. platt: slope and intercept. temperature: slope alone."""

    rule: Rule = "prevalence"
    """How the threshold on the calibrated probability is chosen. prevalence: the fraction of positive studies;
    sensitivity + specificity is highest there if the calibration holds. youden: where sensitivity + specificity is
    highest on these studies. sensitivity, specificity, cost: see their aims below. 0.5: always 0.5."""

    prevalence: tuple[Name, ...] = ()
    """Fraction of studies with a finding where the models will be used: 0.3 for all findings, or
    Pneumonia=0.3,Edema=0.05. Probabilities and thresholds move from the prevalence of the studies that they were fitted
    on; without --scores, from the one that the cards name."""

    def __post_init__(self) -> None:
        super().__post_init__()
        missing = [f"--{name} URL" for name in ("scores", "studies") if not getattr(self, name)]
        if missing and (len(missing) == 1 or not self.prevalence):
            raise ConfigError(f"missing: {', '.join(missing)}. Example: {EXAMPLE}")
        for pair in self.prevalence:
            finding, _, number = pair.rpartition("=")
            if (
                not _FRACTION.fullmatch(number)
                or not 0 < float(number) < 1
                or (not finding and len(self.prevalence) > 1)
            ):
                raise ConfigError(f"--prevalence {pair!r}; expected 0.3 for all findings, or Edema=0.05,Mass=0.1")
        if not self.models:
            raise ConfigError("nothing to calibrate: name --models A,B")

    @property
    def for_all_findings(self) -> bool:
        """Whether --prevalence is one number for all findings."""
        return "=" not in "".join(self.prevalence)

    def assumed(self, finding: str) -> float | None:
        """The prevalence to move the finding to; None: it stays."""
        by_finding = {name: float(number) for name, _, number in (pair.rpartition("=") for pair in self.prevalence)}
        return by_finding.get(finding, by_finding.get(""))

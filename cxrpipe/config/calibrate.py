"""Settings of `calibrate`."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from cxrpipe.config.evaluate import Judging, Rule
from cxrpipe.config.outline import EVERYBODY, Outline
from cxrpipe.config.values import SplitOrAll, Url
from cxrpipe.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class CalibrateConfig(Judging):
    """Fit calibration and thresholds on scored, labelled studies, and write new model folders.

    Example: cxrpipe calibrate --scores scores --studies studies.parquet --models models/a,models/b --out calibrated

    Every model is fitted by itself, on whole studies. Scoring with the new folders derives the new rows from the stored
    ones and opens no image.
    """

    outline: ClassVar[Outline] = {
        EVERYBODY: "scores studies models out",
        "fit": "split method rule",
        **Judging.outline,
    }

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

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.models:
            raise ConfigError("nothing to calibrate: name --models A,B")

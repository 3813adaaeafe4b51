"""Settings of `probe`."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from cxrpipe.config.evaluate import Judging, Rule
from cxrpipe.config.outline import EVERYBODY, Outline
from cxrpipe.config.values import Name, Url


@dataclass(frozen=True, kw_only=True)
class ProbeConfig(Judging):
    """Fit heads for findings on stored feature vectors, and write a model that scores films as any other.

    Example: cxrpipe probe --scores scores --studies studies.parquet --findings Edema,Mass --out models/probe

    No image is opened. The vectors are those of `score --embed`. The heads learn from the train split; calibration,
    thresholds and figures come from the valid split. `score --models` with the new model derives rows where its root
    holds the vectors.
    """

    outline: ClassVar[Outline] = {
        EVERYBODY: "scores studies findings out",
        "backbone": "member model fingerprint",
        "fit": "balance rule",
        **{title: names for title, names in Judging.outline.items() if title != "models"},
    }

    findings: tuple[Name, ...] = ()
    """Findings to fit heads for. Empty: all findings that the train split has labels of both kinds of."""

    out: Url
    """Folder for the new model."""

    member: Name = ""
    """The model whose vectors are used, by the last part of its folder. Needed where several models have vectors."""

    model: Url = ""
    """Folder of that model, where it is no longer in the folder from which it scored."""

    balance: Literal["weights", "none"] = "weights"
    """Correction for rare findings. weights: their positive views weigh more in the loss. none: all weigh the same."""

    rule: Rule = "prevalence"
    """How the threshold on the calibrated probability is chosen, as in `calibrate`."""

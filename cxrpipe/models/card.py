"""The card that travels with the weights. A model is a folder: `model.safetensors` and `card.json`.

Nothing about a model is a constant elsewhere. The fields above the line decide results and enter the fingerprint;
those in `facts` tell a person where the model comes from.
"""

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np

from cxrpipe.errors import ConfigError
from cxrpipe.images.intensity import RECIPES
from cxrpipe.images.letterbox import Preparation
from cxrpipe.models.consensus import VIEW_RULES

TASKS = ("classify", "segment")
VIEW_FILTERS = ("frontal", "all")


class Embedding(NamedTuple):
    """What a classifier's training views look like to it: its last feature map, averaged over places (C channels)."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    limit: float
    """Root mean square of standard deviations off the mean, beyond which a view is unlike the training data."""


class Crop(NamedTuple):
    """A classifier that looks at the square around the lungs, as one segmenter sees them."""

    segmenter_sha256: str
    """Of the segmenter's weights."""
    margin: float
    """Beyond the lungs on either side, of the lungs' own extent."""


WIDER = 1.5
"""A view that is cropped comes so much larger than the network's side."""


@dataclass(frozen=True, kw_only=True)
class Card:
    task: str
    """`classify` or `segment`."""
    architecture: str
    """A torchvision classifier by name, `smallcnn`, `unet-<encoder>` or `unet-classic`."""
    head: str = "linear"
    """`linear`, or `mlp-<units>`. Not in the fingerprint: the hash of the weights, which have its shape, is."""
    side_px: int
    recipe: str = "voi"
    """The intensity recipe the model was trained under."""
    mean: float
    """Of prepared pixels scaled to 0..1; taken off before the network."""
    std: float
    findings: tuple[str, ...] = ()
    """In the order of the network's outputs; none for a segmenter."""
    views: str = "frontal"
    """Which views it scores: `frontal`, or `all`."""
    aggregation: dict[str, str] = field(default_factory=dict)
    """Finding → how a study's views become one probability: max, mean or min."""
    thresholds: dict[str, float] = field(default_factory=dict)
    """Finding → operating point on the calibrated study probability."""
    calibration: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Finding → slope and intercept of Platt's calibration of the study's logit; absent: none."""
    crop: Crop | None = None
    """None: it looks at whole views."""
    embedding: Embedding | None = None
    """Of the training views; None: nobody can tell whether a view is unlike them."""
    weights_sha256: str = ""
    # ---- not used for inference ---------------------------------------------------------------------------------
    facts: dict[str, Any] = field(default_factory=dict)
    """Training data and population, settings, metrics, version. Never read to score."""

    def __post_init__(self) -> None:
        for name, value, known in (
            ("task", self.task, TASKS),
            ("recipe", self.recipe, RECIPES),
            ("views", self.views, VIEW_FILTERS),
        ):
            if value not in known:
                raise ConfigError(f"card: {name} {value!r}; expected one of {', '.join(known)}")
        if bool(self.findings) != (self.task == "classify"):
            raise ConfigError(f"card: task {self.task!r} with findings {self.findings}; a classifier has some")
        for name in ("aggregation", "thresholds", "calibration"):
            if unknown := set(getattr(self, name)).difference(self.findings):
                raise ConfigError(f"card: {name} of {', '.join(sorted(unknown))}; expected {', '.join(self.findings)}")
        if self.crop and self.task != "classify":
            raise ConfigError("card: crop of a segmenter; only classifiers look at the lungs alone")
        for finding, rule in self.aggregation.items():
            if rule not in VIEW_RULES:
                raise ConfigError(
                    f"card: aggregation of {finding} is {rule!r}; expected one of {', '.join(VIEW_RULES)}"
                )

    @property
    def preparation(self) -> Preparation:
        return Preparation(self.recipe, round(self.side_px * WIDER) if self.crop else self.side_px)

    @property
    def rules(self) -> tuple[str, ...]:
        """(F,) how views are aggregated."""
        return tuple(self.aggregation.get(finding, "max") for finding in self.findings)

    @property
    def operating_points(self) -> np.ndarray:
        """(F,) float32 thresholds."""
        return np.array([self.thresholds.get(finding, 0.5) for finding in self.findings], np.float32)

    @property
    def platt(self) -> tuple[np.ndarray, np.ndarray]:
        """(F,) slopes and (F,) intercepts."""
        pairs = [self.calibration.get(finding, (1.0, 0.0)) for finding in self.findings]
        return np.array([slope for slope, _ in pairs]), np.array([intercept for _, intercept in pairs])

    def inference_fields(self) -> dict[str, Any]:
        """All that can change a result, as plain values."""
        return {key: value for key, value in asdict(self).items() if key not in ("facts", "head")}

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), indent=2).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes, where: str) -> "Card":
        try:
            values = json.loads(data)
            unknown = set(values) - {known.name for known in fields(cls)}
            if unknown:
                raise ValueError(f"unknown fields {sorted(unknown)}")
            values["findings"] = tuple(values.get("findings", ()))
            values["calibration"] = {key: tuple(pair) for key, pair in values.get("calibration", {}).items()}
            if crop := values.get("crop"):
                values["crop"] = Crop(*crop)
            if embedding := values.get("embedding"):
                mean, std, limit = embedding
                values["embedding"] = Embedding(tuple(mean), tuple(std), float(limit))
            return cls(**values)
        except (ValueError, TypeError, AttributeError, ConfigError) as error:
            raise ConfigError(f"{where}: not a model card ({error})") from None

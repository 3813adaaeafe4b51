"""The card of a model. A model is a folder that holds `model.safetensors` and `card.json`.

Nothing about a model is a constant elsewhere. The fields above the line decide results and enter the fingerprint.
`facts` tell a person where the model comes from.
"""

import json
import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np

from cxrpipe.errors import ConfigError
from cxrpipe.images.intensity import INTENSITIES
from cxrpipe.images.letterbox import FITS, RESIZERS, Preparation
from cxrpipe.models.consensus import VIEW_RULES

TASKS = ("classify", "segment", "embed")
"""What a model gives: probabilities of findings, masks, or feature vectors alone."""
OUTPUTS = ("sigmoid", "softmax")
LUNGS = ("left_lung", "right_lung")
"""The structures that are the mask of the lungs, the patient's left and right."""
VIEW_FILTERS = ("frontal", "all")
_KEYS = {"intensity": "recipe"}
"""Field → its key in card.json and in the hashed fields, where the two differ. Cards are older than the name."""


class Embedding(NamedTuple):
    """The training views as the classifier sees them: statistics of its last feature map, averaged over places."""

    mean: tuple[float, ...]
    """(C,) per channel."""
    std: tuple[float, ...]
    """(C,) per channel."""
    limit: float
    """Largest distance from the mean, in standard deviations (root mean square over the channels). A view beyond it is
    unlike the training data."""


class Crop(NamedTuple):
    """A classifier with a crop looks at the square around the lungs that one segmenter draws."""

    segmenter_sha256: str
    """SHA-256 of the segmenter's weights."""
    margin: float
    """Margin on each side, as a fraction of the extent of the lungs."""


class Backbone(NamedTuple):
    """The model whose feature vectors a head was fitted on, by `cxrpipe probe`."""

    weights_sha256: str
    """SHA-256 of the weights of that model. Its stored feature vectors serve this model, too."""
    head: str
    """Name of the layer behind the feature vector, such as `fc`: `<head>.weight` is (F, D), `<head>.bias` (F,)."""


WIDER = 1.5
"""A view that will be cropped is prepared this many times larger than the side of the network."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """Everything that scoring must know of a model besides its weights."""

    task: str
    """`classify`, `segment` or `embed`."""
    architecture: str
    """Name of a torchvision classifier, `smallcnn`, `unet-<encoder>` or `unet-classic`; of an adopted model also
    `timm:<name>`, `xrv:<name>` or `onnx`."""
    head: str = "linear"
    """`linear`, `dense-<units>` or `mlp-<units>`. The fingerprint leaves the head out: the hash of the weights depends
    on its shape."""
    side_px: int
    """Side of the square that the network takes."""
    intensity: str = "voi"
    """How stored values became 8 bits in training: a name of `cxrpipe.images.intensity`. In card.json: `recipe`."""
    mean: float | tuple[float, ...]
    """Subtracted from prepared pixels, which are scaled to 0..1 first. One for all channels, or one for each."""
    std: float | tuple[float, ...]
    """Divides prepared pixels after `mean` has been subtracted. One for all channels, or one for each."""
    samplewise: bool = False
    """Whether each view is standardised by its own mean and standard deviation, in the place of `mean` and `std`."""
    channels: int = 1
    """Channels that the network takes. All hold the same grey pixels, each under its own mean and std."""
    fit: str = "letterbox"
    """How a view becomes a square: `letterbox` (whole, on black), `center-crop` or `squash` (aspect ratio lost)."""
    crop_fraction: float = 1.0
    """Of `center-crop`: the side of the square as a fraction of the resized shorter edge, round(side / crop_fraction).
    timm rounds side / crop_pct down, so that a crop_pct of 0.9 at 224 px is a crop_fraction of 224 / 248."""
    resize: str = "area"
    """How pixels are resized: a name of `cxrpipe.images.letterbox.RESIZERS`."""
    findings: tuple[str, ...] = ()
    """Findings in the order of the network's outputs; only a classifier has some."""
    output: str = "sigmoid"
    """What turns outputs into probabilities: `sigmoid` of each output, or `softmax` over all of them."""
    outputs: tuple[str, ...] = ()
    """The network's outputs in their order, each a finding or empty: an empty one is dropped. (): the findings."""
    structures: tuple[str, ...] = ()
    """What a segmenter's outputs show, `left_lung` and `right_lung` among them. (): one output, both lungs."""
    views: str = "frontal"
    """Which views the model scores: `frontal` or `all`."""
    aggregation: dict[str, str] = field(default_factory=dict)
    """Finding → how the probabilities of a study's views become one: max, mean or min."""
    thresholds: dict[str, float] = field(default_factory=dict)
    """Finding → operating point on the calibrated probability of the study."""
    calibration: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Finding → slope and intercept of Platt's calibration of the study's logit. A missing finding has none."""
    crop: Crop | None = None
    """None: the model looks at whole views."""
    backbone: Backbone | None = None
    """None: the head was not fitted on stored feature vectors."""
    embedding: Embedding | None = None
    """None: nobody can tell whether a view is unlike the training views."""
    weights_sha256: str = ""
    """SHA-256 of model.safetensors."""
    # ---- not used for inference ---------------------------------------------------------------------------------
    facts: dict[str, Any] = field(default_factory=dict)
    """Training data and population, settings, metrics, version. Scoring never reads them."""

    def __post_init__(self) -> None:
        for key, value, known in (
            ("task", self.task, TASKS),
            ("recipe", self.intensity, INTENSITIES),
            ("views", self.views, VIEW_FILTERS),
            ("fit", self.fit, FITS),
            ("resize", self.resize, RESIZERS),
            ("output", self.output, OUTPUTS),
        ):
            if value not in known:
                raise ConfigError(f"card: {key} {value!r}; expected one of {', '.join(known)}")
        if bool(self.findings) != (self.task == "classify"):
            raise ConfigError(
                f"card: task {self.task!r} with findings {self.findings}; a classifier has findings, other models none"
            )
        if self.outputs and tuple(filter(None, self.outputs)) != self.findings:
            raise ConfigError(f"card: outputs {self.outputs} are not the findings {self.findings} in their order")
        if not 0 < self.crop_fraction <= 1:
            raise ConfigError(f"card: crop_fraction {self.crop_fraction}; expected more than 0, and 1 at most")
        if self.structures and self.task != "segment":
            raise ConfigError("card: structures, and no segmenter")
        if self.structures and not set(LUNGS).issubset(self.structures):
            raise ConfigError(
                f"card: structures {', '.join(self.structures)}; expected {' and '.join(LUNGS)} among them"
            )
        for key, of_channels in (("mean", self.mean), ("std", self.std)):
            if isinstance(of_channels, tuple) and len(of_channels) != self.channels:
                raise ConfigError(f"card: {len(of_channels)} values of {key}; expected one, or {self.channels}")
        for key in ("aggregation", "thresholds", "calibration"):
            if unknown := set(getattr(self, key)).difference(self.findings):
                raise ConfigError(
                    f"card: {key} names {', '.join(sorted(unknown))}; expected findings of the card: "
                    f"{', '.join(self.findings)}"
                )
        for finding, threshold in self.thresholds.items():
            if math.isnan(threshold):
                raise ConfigError(f"card: the threshold of {finding} is nan; leave it out, and 0.5 holds")
        if self.crop and self.task != "classify":
            raise ConfigError("card: a segmenter with a crop; only a classifier may look at the lungs alone")
        if self.crop and self.fit != "letterbox":
            raise ConfigError(f"card: fit {self.fit!r} with a crop to the lungs; expected the fit letterbox")
        for finding, rule in self.aggregation.items():
            if rule not in VIEW_RULES:
                raise ConfigError(
                    f"card: aggregation of {finding} is {rule!r}; expected one of {', '.join(VIEW_RULES)}"
                )

    @property
    def preparation(self) -> Preparation:
        """How views are prepared for this model."""
        side_px = round(self.side_px * WIDER) if self.crop else self.side_px
        return Preparation(self.intensity, side_px, self.fit, self.crop_fraction, self.resize)

    @property
    def kept(self) -> tuple[int, ...]:
        """(F,) the outputs that are findings, by their places among all outputs of the network."""
        return tuple(place for place, name in enumerate(self.outputs or self.findings) if name)

    @property
    def vectors_sha256(self) -> str:
        """SHA-256 of the weights behind the feature vectors: those of the backbone under the head, else its own.

        Models that share it, and the fields of `VECTOR_FIELDS`, have the same feature vectors.
        """
        return self.backbone.weights_sha256 if self.backbone else self.weights_sha256

    @property
    def has_heat_maps(self) -> bool:
        """Whether the model can show where it looks. ONNX Runtime gives the outputs of a network alone."""
        return self.task == "classify" and self.architecture != "onnx"

    @property
    def rules(self) -> tuple[str, ...]:
        """(F,) how views are aggregated; max where the card does not say."""
        return tuple(self.aggregation.get(finding, "max") for finding in self.findings)

    @property
    def operating_points(self) -> np.ndarray:
        """(F,) float32 thresholds; 0.5 where the card does not say."""
        return np.array([self.thresholds.get(finding, 0.5) for finding in self.findings], np.float32)

    @property
    def platt(self) -> tuple[np.ndarray, np.ndarray]:
        """(F,) slopes and (F,) intercepts; 1 and 0 where a finding is not calibrated."""
        pairs = [self.calibration.get(finding, (1.0, 0.0)) for finding in self.findings]
        return np.array([slope for slope, _ in pairs]), np.array([intercept for _, intercept in pairs])

    def inference_fields(self) -> dict[str, Any]:
        """All fields that can change a result, as plain values under the keys of card.json.

        Fields that are younger than the first models are left out at their defaults: a model keeps its fingerprint.
        """
        return {
            key: value
            for key, value in self._by_key().items()
            if key not in ("facts", "head") and not (key in _YOUNGER and value == _YOUNGER[key])
        }

    def view_fields(self) -> dict[str, Any]:
        """The fields that decide the answers to a single view, as they are read from JSON, under the keys of card.json.

        `embedding`, which may hold thousands of numbers, is left out: it decides a flag alone.
        """
        of_studies = ("aggregation", "calibration", "thresholds", "embedding")
        plain = {key: value for key, value in self.inference_fields().items() if key not in of_studies}
        fields_: dict[str, Any] = json.loads(json.dumps(plain))
        return fields_

    def to_json(self) -> bytes:
        """The content of card.json."""
        return json.dumps(self._by_key(), indent=2).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes, where: str) -> "Card":
        """The card in a card.json. ConfigError where `data` is none; its message begins with `where`."""
        try:
            values = json.loads(data)
            names = {_KEYS.get(known.name, known.name): known.name for known in fields(cls)}
            unknown = set(values) - set(names)
            if unknown:
                raise ValueError(f"unknown fields {sorted(unknown)}; expected fields of {', '.join(sorted(names))}")
            values = {names[key]: value for key, value in values.items()}
            for key in ("findings", "outputs", "structures"):
                values[key] = tuple(values.get(key, ()))
            for key in ("mean", "std"):
                if isinstance(values.get(key), list):
                    values[key] = tuple(values[key])
            values["calibration"] = {key: tuple(pair) for key, pair in values.get("calibration", {}).items()}
            if crop := values.get("crop"):
                values["crop"] = Crop(*crop)
            if backbone := values.get("backbone"):
                values["backbone"] = Backbone(*backbone)
            if embedding := values.get("embedding"):
                mean, std, limit = embedding
                values["embedding"] = Embedding(tuple(mean), tuple(std), float(limit))
            return cls(**values)
        except (ValueError, TypeError, AttributeError, ConfigError) as error:
            raise ConfigError(f"{where}: not a model card ({error}); expected a card.json written by train") from None

    def _by_key(self) -> dict[str, Any]:
        """The fields in their order, under the keys of card.json."""
        return {_KEYS.get(name, name): value for name, value in asdict(self).items()}


VECTOR_FIELDS = (
    *("recipe", "side_px", "fit", "crop_fraction", "resize"),
    *("channels", "mean", "std", "samplewise", "views", "crop"),
)
"""Keys of card.json: what decides a feature vector besides weights."""
_YOUNGER = {
    known.name: known.default
    for known in fields(Card)
    if known.name
    in ("samplewise", "channels", "fit", "crop_fraction", "resize", "output", "outputs", "structures", "backbone")
}
"""Field → its default, of the fields that the first models had not."""

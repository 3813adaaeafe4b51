"""The card that travels with the weights. A model is a folder: `model.safetensors` and `card.json`.

Nothing about a model is a constant elsewhere. The fields above the line decide results and enter the fingerprint;
those in `facts` tell a person where the model comes from.
"""

import functools
import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, NamedTuple

import numpy as np

from cxrpipe import storage
from cxrpipe.errors import ConfigError
from cxrpipe.images.intensity import RECIPES
from cxrpipe.images.letterbox import PREPARATION_VERSION, Preparation
from cxrpipe.models.consensus import VIEW_RULES

CARD = "card.json"
WEIGHTS = "model.safetensors"
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


class Variant(NamedTuple):
    """One more look at a view, at the time of testing. Never mirrored: the heart would lie on the right."""

    scale: float
    """About the centre."""
    right: float
    """Shift, as a fraction of the side."""
    down: float


VARIANTS = (Variant(1.05, 0.0, 0.0), Variant(1.0, 0.02, 0.02), Variant(1.0, -0.02, -0.02))
"""What `--tta` looks at beside the view as it is."""
WIDER = 1.5
"""A view that is cropped comes so much larger than the network's side."""
EXPLANATION_VERSION = 1
"""Raised whenever a heat map or the rule for who gets one changes."""
FLAGS_VERSION = 1
"""Raised whenever a flag or `mask_quality` is decided otherwise."""


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


class ModelFolder(NamedTuple):
    """A model as it lies: its card, and where its weights are."""

    url: str
    card: Card

    def read_weights(self) -> bytes:
        """The weights file, checked against the card."""
        place = storage.join(self.url, WEIGHTS)
        try:
            data = storage.read(place)
        except FileNotFoundError:
            raise ConfigError(f"{place}: cannot be found from here; every machine must see the model folders") from None
        if hashlib.sha256(data).hexdigest() != self.card.weights_sha256:
            raise ConfigError(f"{place}: not the weights its card was written for; copy the folder again, whole")
        return data


def open_model(url: str, task: str) -> ModelFolder:
    """Read a model folder's card; ConfigError where it is not a model for the task."""
    url = storage.normalise(url)
    try:
        card = Card.from_json(storage.read(storage.join(url, CARD)), url)
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(f"{url}: not a model folder (no {CARD}); expected one written by train") from None
    if card.task != task:
        flag = "--models" if card.task == "classify" else "--segmenter"
        raise ConfigError(f"{url}: a model to {card.task}; name it with {flag}")
    if storage.stat(storage.join(url, WEIGHTS)) is None:
        raise ConfigError(f"{url}: a card without {WEIGHTS}; expected a model folder written by train")
    return ModelFolder(url, card)


def save_model(url: str, card: Card, weights: bytes, facts: dict[str, Any]) -> ModelFolder:
    """Write a model folder; the card last, so that a folder with a card is whole."""
    card = replace(card, weights_sha256=hashlib.sha256(weights).hexdigest(), facts=facts)
    storage.write(storage.join(url, WEIGHTS), weights)
    storage.write(storage.join(url, CARD), card.to_json())
    return ModelFolder(storage.normalise(url), card)


@dataclass(frozen=True)
class Ensemble:
    """The members in the order asked for, and the segmenter."""

    members: tuple[ModelFolder, ...]
    segmenter: ModelFolder | None = None
    explain: bool = False
    """Whether findings at or above threshold get a heat map."""
    tta: bool = False
    """Whether the members look at every view in several variants."""

    def __post_init__(self) -> None:
        if not self.members and self.segmenter is None:
            raise ConfigError("nothing to score with: name --models, --segmenter or both")
        for first, other in itertools.pairwise(self.members):
            for name in ("findings", "views"):
                ours, theirs = getattr(first.card, name), getattr(other.card, name)
                if ours != theirs:
                    raise ConfigError(
                        f"{first.url} and {other.url} differ in {name}: {ours} against {theirs}; "
                        "members of an ensemble must agree"
                    )
        for member in self.members:
            crop, segmenter = member.card.crop, self.segmenter
            if crop and (segmenter is None or segmenter.card.weights_sha256 != crop.segmenter_sha256):
                raise ConfigError(
                    f"{member.url}: looks at the lungs that one segmenter sees; name that one with --segmenter "
                    f"(its card says weights_sha256 {crop.segmenter_sha256[:12]}…)"
                )

    @property
    def findings(self) -> tuple[str, ...]:
        return self.members[0].card.findings if self.members else ()

    @property
    def view_filter(self) -> str:
        return self.models[0].card.views

    @property
    def models(self) -> tuple[ModelFolder, ...]:
        return (*self.members, self.segmenter) if self.segmenter else self.members

    @property
    def preparations(self) -> tuple[Preparation, ...]:
        """The distinct ones: each is made, and sent to the device, once."""
        return tuple(dict.fromkeys(model.card.preparation for model in self.models))

    @property
    def variants(self) -> tuple[Variant, ...]:
        """Those looked at beside the view as it is."""
        return VARIANTS if self.tta else ()

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of all that can change a result; equal fingerprints mean equal rows."""
        return self._hash(without=())

    @functools.cached_property
    def views_fingerprint(self) -> str:
        """Hash of all that can change what is said of a single view: the rest can be derived from that.

        Which findings get a heat map depends on thresholds.
        """
        return self._hash(without=() if self.explain else ("aggregation", "calibration", "thresholds"))

    def _hash(self, without: Sequence[str]) -> str:
        cards = [model.card.inference_fields() for model in self.models]
        facts = {
            "preparation": PREPARATION_VERSION,
            "members": [{name: value for name, value in card.items() if name not in without} for card in cards],
            "segmenter": self.segmenter is not None,
            "flags": FLAGS_VERSION,
            "explanation": EXPLANATION_VERSION if self.explain else None,
            "variants": self.variants,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def open_ensemble(
    models: Sequence[str], segmenter: str | None, *, explain: bool = False, tta: bool = False
) -> Ensemble:
    return Ensemble(
        tuple(open_model(url, "classify") for url in models),
        open_model(segmenter, "segment") if segmenter else None,
        explain,
        tta,
    )

"""The ensemble: which models score together, and the fingerprint of all that can change a result."""

import functools
import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cxrpipe.errors import ConfigError
from cxrpipe.images.flags import FLAGS_VERSION
from cxrpipe.images.heatmaps import EXPLANATION_VERSION
from cxrpipe.images.letterbox import PREPARATION_VERSION, Preparation
from cxrpipe.models.folder import ModelFolder, open_model


class Variant(NamedTuple):
    """One more look at a view, at the time of testing. Never mirrored: the heart would lie on the right."""

    scale: float
    """About the centre."""
    right: float
    """Shift, as a fraction of the side."""
    down: float


VARIANTS = (Variant(1.05, 0.0, 0.0), Variant(1.0, 0.02, 0.02), Variant(1.0, -0.02, -0.02))
"""What `--tta` looks at beside the view as it is."""


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

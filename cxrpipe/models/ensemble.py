"""The ensemble: the models that score together, and the fingerprint of everything that can change a result."""

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
from cxrpipe.models.folder import ModelFolder, model_folders, open_model


class Variant(NamedTuple):
    """A scaled or shifted copy of a view, scored beside it. Never mirrored: the heart would lie on the right."""

    scale: float
    """Scale about the centre."""
    right: float
    """Shift to the right, as a fraction of the side."""
    down: float
    """Shift down, as a fraction of the side."""


VARIANTS = (Variant(1.05, 0.0, 0.0), Variant(1.0, 0.02, 0.02), Variant(1.0, -0.02, -0.02))
"""The variants of `--tta`, beside the view itself."""


@dataclass(frozen=True)
class Ensemble:
    """The members in the order of `--models`, and the segmenter."""

    members: tuple[ModelFolder, ...]
    segmenter: ModelFolder | None = None
    explain: bool = False
    """Whether findings at or above their threshold get a heat map."""
    tta: bool = False
    """Whether the members score every view in several variants."""

    def __post_init__(self) -> None:
        if not self.members and self.segmenter is None:
            raise ConfigError("nothing to score with: name --models, --segmenter or both")
        for first, other in itertools.pairwise(self.members):
            for name in ("findings", "views"):
                of_first, of_other = getattr(first.card, name), getattr(other.card, name)
                if of_first != of_other:
                    raise ConfigError(
                        f"{first.url} and {other.url} differ in {name}: {of_first} against {of_other}; "
                        "members of an ensemble must agree; score with one of them, or train them alike"
                    )
        for member in self.members:
            crop, segmenter = member.card.crop, self.segmenter
            if crop and (segmenter is None or segmenter.card.weights_sha256 != crop.segmenter_sha256):
                raise ConfigError(
                    f"{member.url}: crops to the lungs that one segmenter draws; name that one with --segmenter "
                    f"(weights_sha256 {crop.segmenter_sha256[:12]}… in its card)"
                )

    @property
    def findings(self) -> tuple[str, ...]:
        """The findings of the members; none for a segmenter alone."""
        return self.members[0].card.findings if self.members else ()

    @property
    def view_filter(self) -> str:
        """Which views are scored: `frontal` or `all`."""
        return self.models[0].card.views

    @property
    def models(self) -> tuple[ModelFolder, ...]:
        """The members, then the segmenter."""
        return (*self.members, self.segmenter) if self.segmenter else self.members

    @functools.cached_property
    def preparations(self) -> tuple[Preparation, ...]:
        """The distinct preparations. Each is made and sent to the device once."""
        return tuple(dict.fromkeys(model.card.preparation for model in self.models))

    @property
    def variants(self) -> tuple[Variant, ...]:
        """The variants that are scored beside the view itself."""
        return VARIANTS if self.tta else ()

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of everything that can change a result. Equal fingerprints mean equal rows."""
        return self._hash(without=())

    @functools.cached_property
    def views_fingerprint(self) -> str:
        """Hash of everything that can change the results of a single view. Rows can be derived from these results.

        Thresholds count only with heat maps: they decide which findings get one.
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
    """Open the model folders of an ensemble. ConfigError if they do not fit together.

    models  model folders, and folders that hold model folders (see `model_folders`)
    """
    return Ensemble(
        tuple(open_model(url, "classify") for url in model_folders(models)),
        open_model(segmenter, "segment") if segmenter else None,
        explain,
        tta,
    )

"""The ensemble: the models that score together, and the fingerprint of everything that can change a result."""

import functools
import hashlib
import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from cxrpipe import console
from cxrpipe.errors import ConfigError
from cxrpipe.images.flags import FLAGS_VERSION
from cxrpipe.images.heatmaps import EXPLANATION_VERSION
from cxrpipe.images.letterbox import PREPARATION_VERSION, Preparation
from cxrpipe.models import spelling
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
    """The members in the order of `--models`, and the segmenters."""

    members: tuple[ModelFolder, ...]
    segmenters: tuple[ModelFolder, ...] = ()
    """None, one, or several that vote."""
    explain: bool = False
    """Whether findings to which the consensus says yes get a heat map."""
    tta: bool = False
    """Whether the members score every view in several variants."""
    embed: bool = False
    """Whether the members' feature vectors of every view are kept."""

    def __post_init__(self) -> None:
        if not self.members and not self.segmenters:
            raise ConfigError("nothing to score with: name --models, --segmenter or both")
        if self.members and not self.findings and (self.explain or self.tta):
            raise ConfigError("--explain and --tta need classifiers, and all --models are backbones; leave both out")
        if self.explain and not any(member.card.has_heat_maps for member in self.members):
            raise ConfigError("--explain: ONNX Runtime runs all --models, and has no heat maps; leave --explain out")
        for first, other in itertools.pairwise(self.members or self.segmenters):
            if first.card.views != other.card.views:
                raise ConfigError(
                    f"{first.url} and {other.url} differ in views: {first.card.views} against {other.card.views}; "
                    "members of an ensemble score the same views; score with one of them, or train them alike"
                )
        self._refuse_two_spellings()
        self._refuse_other_crops()
        self._refuse_two_frames()

    @functools.cached_property
    def findings(self) -> tuple[str, ...]:
        """The findings that any member knows, in the order in which they appear; none for a segmenter alone."""
        return tuple(dict.fromkeys(itertools.chain(*(member.card.findings for member in self.members))))

    def by_finding(self, of_members: Sequence[np.ndarray]) -> np.ndarray:
        """Put the values of the members' own findings at their places among all findings.

        of_members  per member (…, F_k); a member knows F_k of the F findings
        Gives (K, …, F) float32, nan where a member does not know a finding.
        """
        shape = of_members[0].shape[:-1]
        values = np.full((len(self.members), *shape, len(self.findings)), np.nan, np.float32)
        for of_all, of_own, places in zip(values, of_members, self.places, strict=True):
            of_all[..., places] = of_own
        return values

    @functools.cached_property
    def places(self) -> tuple[list[int], ...]:
        """Per member the places of its findings among all findings."""
        place = {finding: number for number, finding in enumerate(self.findings)}
        return tuple([place[finding] for finding in member.card.findings] for member in self.members)

    @functools.cached_property
    def thresholds(self) -> np.ndarray:
        """(K, F) float32: the members' operating points; nan where a member does not know a finding."""
        return self.by_finding([member.card.operating_points for member in self.members])

    @property
    def structures(self) -> tuple[str, ...]:
        """What the segmenters draw by name, in the order in which they name it; () where they draw the lungs alone."""
        return tuple(dict.fromkeys(itertools.chain(*(segmenter.card.structures for segmenter in self.segmenters))))

    @functools.cached_property
    def mask_frame(self) -> Preparation:
        """The square that masks are drawn on: that of the segmenter with the largest side."""
        return max((segmenter.card.preparation for segmenter in self.segmenters), key=lambda frame: frame.side_px)

    @property
    def view_filter(self) -> str:
        """Which views are scored: `frontal` or `all`."""
        return self.models[0].card.views

    @property
    def models(self) -> tuple[ModelFolder, ...]:
        """The members, then the segmenters."""
        return (*self.members, *self.segmenters)

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

    def _refuse_two_spellings(self) -> None:
        """ConfigError where two members spell a finding differently: it would be two findings, decided apart."""
        first_use: dict[str, tuple[str, str]] = {}
        for member in self.members:
            for finding in member.card.findings:
                key = re.sub(r"[\W_]", "", spelling.of_output(finding) or finding).lower()
                name, url = first_use.setdefault(key, (finding, member.url))
                if name != finding and url != member.url:
                    raise ConfigError(
                        f"{url} has the finding {name!r}, {member.url} {finding!r}: one finding in two spellings would "
                        "be decided twice; spell it alike in both cards (card.json), or score with one of them"
                    )

    def _refuse_other_crops(self) -> None:
        """ConfigError where a member crops to the lungs of another segmenter, or where several draw them."""
        for member in self.members:
            if (crop := member.card.crop) is None:
                continue
            if [segmenter.card.weights_sha256 for segmenter in self.segmenters] != [crop.segmenter_sha256]:
                several = f", without the other {len(self.segmenters) - 1}" if len(self.segmenters) > 1 else ""
                raise ConfigError(
                    f"{member.url}: crops to the lungs that one segmenter draws; name that one with "
                    f"--segmenter{several} (weights_sha256 {crop.segmenter_sha256[:12]}… in its card)"
                )
            if self.mask_frame.fit != "letterbox":
                raise ConfigError(
                    f"{self.segmenters[0].url}: fit {self.mask_frame.fit}; a member that crops to its lungs "
                    f"({member.url}) needs a segmenter of the fit letterbox"
                )

    def _refuse_two_frames(self) -> None:
        """ConfigError where two segmenters fit views differently: their squares show other parts of a view."""
        for first, other in itertools.pairwise(self.segmenters):
            fits = [f"{each.card.fit} {each.card.crop_fraction:g}" for each in (first, other)]
            if len(set(fits)) > 1:
                raise ConfigError(
                    f"{first.url} and {other.url} differ in fit: {' against '.join(fits)}; segmenters that vote fit "
                    "views alike, whatever their sides; segment with one of them"
                )

    def _hash(self, without: Sequence[str]) -> str:
        cards = [model.card.inference_fields() for model in self.models]
        facts = {
            "preparation": PREPARATION_VERSION,
            "members": [{name: value for name, value in card.items() if name not in without} for card in cards],
            "segmenter": bool(self.segmenters),
            "flags": FLAGS_VERSION,
            "explanation": EXPLANATION_VERSION if self.explain else None,
            "variants": self.variants,
        }
        if self.embed:  # left out otherwise: fingerprints are older than feature vectors
            facts["embed"] = True
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def open_ensemble(
    models: Sequence[str],
    segmenters: Sequence[str] = (),
    *,
    explain: bool = False,
    tta: bool = False,
    embed: bool = False,
) -> Ensemble:
    """Open the model folders of an ensemble. ConfigError if they do not fit together.

    models      model folders, and folders that hold model folders (see `model_folders`)
    segmenters  likewise
    embed       keeps feature vectors; only then a member may be a backbone without findings
    """
    tasks = ("classify", "embed") if embed else ("classify",)
    ensemble = Ensemble(
        tuple(open_model(url, *tasks) for url in model_folders(models)),
        tuple(open_model(url, "segment") for url in model_folders(segmenters)),
        tta=tta,
        embed=embed,
    )
    return explaining(ensemble) if explain else ensemble


def explaining(ensemble: Ensemble) -> Ensemble:
    """The ensemble with heat maps, which are those of the members that have some. A line names the others."""
    whole = replace(ensemble, explain=True)
    for member in whole.members:
        if member.card.findings and not member.card.has_heat_maps:
            console.log(f"{member.url}: an ONNX file; heat maps are those of the other members")
    return whole

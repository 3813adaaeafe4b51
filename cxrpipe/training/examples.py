"""Studies → training examples: prepared pixels with a target. Fitting is the same as in scoring."""

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cxrpipe.archives.reader import Reader
from cxrpipe.archives.truth import truth_mask
from cxrpipe.errors import ConfigError, StudyError
from cxrpipe.images import letterbox
from cxrpipe.images.letterbox import Preparation
from cxrpipe.images.squares import Decode, decode_view
from cxrpipe.records import FRONTAL, Study

IGNORED = np.nan
"""Target of a cell that is left out of the loss."""
_TRIED = 8
"""Studies whose masks are read before a training is set up: 0.5 s in all for 8 of Montgomery on disk."""
UNCERTAIN = -1.0
"""Target of an uncertain cell that is a third kind, or a teacher's to decide."""
SMOOTH = 0.7
"""The mean of what CheXpert's label smoothing draws from, 0.55 to 0.85: cross-entropy is linear in its target, so the
gradient is that of the draws on average, without their noise."""
_POLICIES = {
    "ignore": IGNORED,
    "ones": 1.0,
    "zeros": 0.0,
    "smooth": SMOOTH,
    "multi-class": UNCERTAIN,
    "self-trained": UNCERTAIN,
}


@dataclass(frozen=True)
class ExampleSpec:
    """What one training makes of a study."""

    preparation: Preparation
    findings: tuple[str, ...]
    """Empty for a segmenter, whose target is the mask."""
    uncertain: tuple[str, ...] = ()
    """What each finding's uncertain labels become in the train split; empty: ignored, as they are in every other."""
    blank: str = "ignore"
    """What a finding becomes that is not mentioned, in every split: `ignore` or `zeros`."""
    for_segmenter: Preparation | None = None
    """What the segmenter that crops the views is given; None: they stay whole."""

    def targets(self, study: Study) -> np.ndarray:
        """(F,) float32: 1 and 0, nan for what is left out of the loss, and between for what is uncertain."""
        policies = self.uncertain if study.split == "train" and self.uncertain else ("ignore",) * len(self.findings)
        read = {1.0: 1.0, 0.0: 0.0, None: 0.0 if self.blank == "zeros" else IGNORED}
        labels = (study.labels.get(finding) for finding in self.findings)
        pairs = zip(labels, policies, strict=True)
        return np.array([read.get(label, _POLICIES[policy]) for label, policy in pairs], np.float32)

    def wants(self, study: Study, number: int) -> bool:
        """Whether view `number` of the study is an example: frontal, and for a segmenter with a mask."""
        frontal = study.views[number].view_position in FRONTAL
        return frontal and (bool(self.findings) or any(mask.view == number for mask in study.mask_views))

    @property
    def preparations(self) -> tuple[Preparation, ...]:
        return (self.preparation, self.for_segmenter) if self.for_segmenter else (self.preparation,)

    @property
    def nothing(self) -> tuple[np.ndarray, np.ndarray]:
        """Pixels and targets of no example: (0, S, S) uint8, and (0, F) float32 or (0, S, S) uint8."""
        pixels = np.zeros((0, self.preparation.side_px, self.preparation.side_px), np.uint8)
        return pixels, np.zeros((0, len(self.findings)), np.float32) if self.findings else pixels


def key_of(study_id: str) -> int:
    """A number of 63 bits in the place of a study's name: torch's batches hold no words."""
    return int.from_bytes(hashlib.blake2b(study_id.encode(), digest_size=8).digest()) >> 1


class Example(NamedTuple):
    pixels: np.ndarray  # (S, S) uint8
    target: np.ndarray  # (F,) float32, see ExampleSpec.targets; for a segmenter (S, S) uint8 of 0 and 1
    problem: str = ""
    """Why it cannot be used; the arrays are empty then."""
    for_segmenter: np.ndarray | None = None  # (T, T) uint8, where the spec asks for it


def examples(study: Study, reader: Reader, spec: ExampleSpec, decode: Decode = decode_view) -> Iterator[Example]:
    """One for every wanted view of the study; bad data becomes a problem, and is never raised.

    decode  as of `prepare_study`. Masks are decoded in this process: they are not what a scanner or a vendor wrote.
    """
    side = spec.preparation.side_px
    for number, view in enumerate(study.views):
        if not spec.wants(study, number):
            continue
        try:
            decoded = decode(reader.read(view), view.name, spec.preparations)
            if spec.findings:
                target = spec.targets(study)
            else:
                mask = truth_mask(study, number, reader, (decoded.rows_px, decoded.columns_px))
                target = letterbox.prepare_mask(mask, side).astype(np.uint8)
            for_segmenter = decoded.squares[spec.for_segmenter] if spec.for_segmenter else None
            yield Example(decoded.squares[spec.preparation], target, for_segmenter=for_segmenter)
        except StudyError as error:
            yield Example(*spec.nothing, error.detail)


def check_masks(studies: Sequence[Study], reader: Reader, spec: ExampleSpec, decode: Decode) -> None:
    """ConfigError where a few studies of a segmenter's, drawn at random, have no mask that can be used.

    A kind of mask that cannot be read is that of the whole archive; setting up a training for it takes minutes.
    """
    tried = random.Random(0).sample(studies, min(_TRIED, len(studies)))
    found = [example for study in tried for example in examples(study, reader, spec, decode)]
    if found and all(example.problem for example in found):
        raise ConfigError(f"none of {len(tried)} studies tried has a mask that can be used: {found[0].problem}")

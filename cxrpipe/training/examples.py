"""Training examples of studies: prepared pixels with a target. Pixels are prepared as in scoring."""

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cxrpipe.archives.reader import Reader
from cxrpipe.archives.truth import truth_mask
from cxrpipe.errors import ConfigError, StudyError
from cxrpipe.images import fits
from cxrpipe.images.letterbox import Preparation
from cxrpipe.images.squares import Decode, decode_view
from cxrpipe.records import FRONTAL, Study

IGNORED = np.nan
"""Target of a cell that the loss leaves out."""
_TRIED = 8
"""Studies whose masks are read before a training starts: 0.5 s for 8 studies of Montgomery on disk."""
UNCERTAIN = -1.0
"""Target of an uncertain cell that is a third class, or that the teacher decides."""
SMOOTH = 0.7
"""Mean of 0.55 to 0.85, from which the label smoothing of CheXpert draws. Cross-entropy is linear in its target: the
gradient is the average over the draws, without their noise."""
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
    """How a training turns a study into examples."""

    preparation: Preparation
    findings: tuple[str, ...]
    """Empty for a segmenter: its target is the mask."""
    uncertain: tuple[str, ...] = ()
    """Policy of every finding for uncertain labels of the train split; empty: they are ignored.

    In other splits uncertain labels are always ignored."""
    blank: str = "ignore"
    """Policy for missing labels, in every split: `ignore` or `zeros`."""
    for_segmenter: Preparation | None = None
    """Preparation of the segmenter that crops the views; None: views stay whole."""

    def targets(self, study: Study) -> np.ndarray:
        """Give the targets of a study, (F,) float32: 1, 0, `SMOOTH`, `UNCERTAIN`, or nan (the loss leaves it out)."""
        policies = self.uncertain if study.split == "train" and self.uncertain else ("ignore",) * len(self.findings)
        target_of = {1.0: 1.0, 0.0: 0.0, None: 0.0 if self.blank == "zeros" else IGNORED}
        labels = (study.labels.get(finding) for finding in self.findings)
        pairs = zip(labels, policies, strict=True)
        return np.array([target_of.get(label, _POLICIES[policy]) for label, policy in pairs], np.float32)

    def wants(self, study: Study, number: int) -> bool:
        """Tell whether view `number` is an example: it is frontal, and for a segmenter it has a mask."""
        frontal = study.views[number].view_position in FRONTAL
        return frontal and (bool(self.findings) or any(mask.view == number for mask in study.mask_views))

    @property
    def preparations(self) -> tuple[Preparation, ...]:
        """All preparations of a view: that of the network, then that of the segmenter."""
        return (self.preparation, self.for_segmenter) if self.for_segmenter else (self.preparation,)

    @property
    def empty(self) -> tuple[np.ndarray, np.ndarray]:
        """Pixels and targets of zero examples: (0, S, S) uint8, and (0, F) float32 or (0, S, S) uint8."""
        pixels = np.zeros((0, self.preparation.side_px, self.preparation.side_px), np.uint8)
        return pixels, np.zeros((0, len(self.findings)), np.float32) if self.findings else pixels


def key_of(study_id: str) -> int:
    """Hash a study id to 63 bits: batches of torch hold no strings."""
    return int.from_bytes(hashlib.blake2b(study_id.encode(), digest_size=8).digest()) >> 1


class Example(NamedTuple):
    """One view to learn from, or the problem that keeps it from use."""

    pixels: np.ndarray  # (S, S) uint8
    target: np.ndarray  # (F,) float32, see ExampleSpec.targets; for a segmenter (S, S) uint8 of 0 and 1
    problem: str = ""
    """Why the view cannot be used; empty: it can. With a problem, the arrays are empty."""
    for_segmenter: np.ndarray | None = None  # (T, T) uint8, where the spec asks for it


def examples(study: Study, reader: Reader, spec: ExampleSpec, decode: Decode = decode_view) -> Iterator[Example]:
    """Make an example of every wanted view of the study. Bad data becomes a problem of its example and is never raised.

    decode  `decode_view`, or `Isolated`. Masks are decoded in this process: no scanner and no vendor wrote them.
    """
    for number, view in enumerate(study.views):
        if not spec.wants(study, number):
            continue
        try:
            decoded = decode(reader.read(view), view.name, spec.preparations)
            if spec.findings:
                target = spec.targets(study)
            else:
                mask = truth_mask(study, number, reader, (decoded.rows_px, decoded.columns_px))
                target = fits.fitted_mask(mask, spec.preparation).astype(np.uint8)
            for_segmenter = decoded.squares[spec.for_segmenter] if spec.for_segmenter else None
            yield Example(decoded.squares[spec.preparation], target, for_segmenter=for_segmenter)
        except StudyError as error:
            yield Example(*spec.empty, error.detail)


def check_masks(studies: Sequence[Study], reader: Reader, spec: ExampleSpec, decode: Decode) -> None:
    """Read a few masks, drawn at random; ConfigError where none of them can be used.

    If masks of a kind cannot be read, those of the whole archive cannot, and setting up a training takes minutes.
    """
    sample = random.Random(0).sample(studies, min(_TRIED, len(studies)))
    tried = [example for study in sample for example in examples(study, reader, spec, decode)]
    if tried and all(example.problem for example in tried):
        raise ConfigError(f"none of {len(sample)} studies tried has a mask that can be used: {tried[0].problem}")

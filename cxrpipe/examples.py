"""Studies → training examples: prepared pixels with a target. Fitting is the same as in scoring."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cxrpipe import images, transforms
from cxrpipe.cards import Preparation
from cxrpipe.errors import StudyError
from cxrpipe.reader import Reader
from cxrpipe.records import FRONTAL, Study, View

IGNORED = np.nan
"""Target of a cell that is left out of the loss: uncertain, or not mentioned."""


@dataclass(frozen=True)
class Recipe:
    """What one training makes of a study."""

    preparation: Preparation
    findings: tuple[str, ...]
    """Empty for a segmenter, whose target is the mask."""

    def wants(self, study: Study, number: int) -> bool:
        """Whether view `number` of the study is an example: frontal, and for a segmenter with a mask."""
        frontal = study.views[number].view_position in FRONTAL
        return frontal and (bool(self.findings) or any(mask.view == number for mask in study.mask_views))

    @property
    def nothing(self) -> tuple[np.ndarray, np.ndarray]:
        """Pixels and targets of no example: (0, S, S) uint8, and (0, F) float32 or (0, S, S) uint8."""
        pixels = np.zeros((0, self.preparation.side_px, self.preparation.side_px), np.uint8)
        return pixels, np.zeros((0, len(self.findings)), np.float32) if self.findings else pixels


class Example(NamedTuple):
    pixels: np.ndarray  # (S, S) uint8
    target: np.ndarray  # (F,) float32 of 0, 1 and nan (ignored); for a segmenter (S, S) uint8 of 0 and 1
    problem: str = ""
    """Why it cannot be used; the arrays are empty then."""


def examples(study: Study, reader: Reader, recipe: Recipe) -> Iterator[Example]:
    """One for every wanted view of the study; bad data becomes a problem, and is never raised."""
    side = recipe.preparation.side_px
    for number, view in enumerate(study.views):
        if not recipe.wants(study, number):
            continue
        try:
            radiograph = images.decode(reader.read(view), recipe.preparation.recipe, view.name)
            if recipe.findings:
                target = label_targets(study, recipe.findings)
            else:
                mask = _mask_of(radiograph, truth_mask(study, number, reader), view)
                target = transforms.prepare_mask(mask, side).astype(np.uint8)
            yield Example(transforms.prepare(radiograph, side), target)
        except StudyError as error:
            yield Example(*recipe.nothing, error.detail)


def label_targets(study: Study, findings: Sequence[str]) -> np.ndarray:
    """(F,) float32: 1 and 0 as labelled; uncertain and not mentioned are ignored."""
    labels = (study.labels.get(finding) for finding in findings)
    return np.array([label if label in (0.0, 1.0) else IGNORED for label in labels], np.float32)


def _mask_of(radiograph: images.Radiograph, mask: np.ndarray, view: View) -> np.ndarray:
    """The mask; StudyError where it does not lie on the radiograph's own grid."""
    if mask.shape != radiograph.pixels.shape:
        raise StudyError("corrupt", f"{view.name}: {radiograph.pixels.shape} pixels; its mask has {mask.shape}")
    return mask


def truth_mask(study: Study, number: int, reader: Reader) -> np.ndarray:
    """(H, W) bool: the union of the masks of view `number`. StudyError where they cannot be read or differ in size."""
    united: np.ndarray | None = None
    for mask in study.mask_views:
        if mask.view == number:
            own = images.decode_mask(reader.read(mask), mask.name)
            if united is not None and own.shape != united.shape:
                raise StudyError("corrupt", f"{mask.name}: {own.shape} pixels; its other mask has {united.shape}")
            united = own if united is None else united | own
    if united is None:
        raise StudyError("missing", f"{study.study_id}: no mask of view {number}")
    return united

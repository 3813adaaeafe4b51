"""Named intensity recipes: how the values of a file become 8 bits. A card names the one its model was trained under.

| recipe        | 8-bit file | 16-bit file | DICOM                                                    |
|---------------|------------|-------------|----------------------------------------------------------|
| `voi`         | as it is   | / 257       | as a viewer shows it: modality, VOI, MONOCHROME1         |
| `nih`         | as it is   | refused     | refused                                                  |
| `padchest`    | refused    | / 257       | refused                                                  |
| `chexpert_v1` | as it is   | refused     | stored values × 255 / max, MONOCHROME1, equalised        |
| `mimic_v2`    | as it is   | refused     | stored values by min and max, MONOCHROME1, equalised     |

The last two are how the published JPEGs were made of DICOM, so a published JPEG has been through them already. What a
recipe is not defined for is refused with `unsupported_source`, a row and not the end of a run: one odd file in a
million would stop every night. Where all of an archive is refused, the first fifty studies say so.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from cxrpipe import dicom
from cxrpipe.dicom import DicomImage
from cxrpipe.errors import StudyError

Pixels = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Intensity:
    """What a recipe does with each kind of source, giving (H, W) uint8. None: it is not defined."""

    name: str
    eight_bit: Pixels | None = None
    sixteen_bit: Pixels | None = None
    dicom: Callable[[DicomImage], np.ndarray] | None = None

    def of_file(self, pixels: np.ndarray, name: str) -> np.ndarray:
        """(H, W) uint8 or uint16 of a PNG or JPEG → (H, W) uint8."""
        eight = pixels.dtype == np.uint8
        how = self.eight_bit if eight else self.sixteen_bit
        if how is None:
            raise self._refusal("8-bit files" if eight else "16-bit files", name)
        return how(pixels)

    def of_dicom(self, image: DicomImage) -> np.ndarray:
        """A decoded DICOM file → (H, W) uint8."""
        if self.dicom is None:
            raise self._refusal("DICOM", image.name)
        return self.dicom(image)

    def _refusal(self, source: str, name: str) -> StudyError:
        return StudyError(
            "unsupported_source",
            f"{name}: recipe {self.name} is not defined for {source}; score it with a model of another recipe",
        )


def as_it_is(pixels: np.ndarray) -> np.ndarray:
    return pixels


def by_257(pixels: np.ndarray) -> np.ndarray:
    return cv2.convertScaleAbs(pixels, alpha=1 / 257)  # 65535 → 255


def chexpert_v1(image: DicomImage) -> np.ndarray:
    """As the author of CheXpert gives it (stanfordmlgroup/chexpert-labeler, issue 11)."""
    values = image.stored.astype(np.float32)
    top = float(values.max())
    return _equalised(cv2.convertScaleAbs(values, alpha=255 / top if top > 0 else 0), image.inverted)


def mimic_v2(image: DicomImage) -> np.ndarray:
    """As the author of MIMIC-CXR-JPG gives it (MIT-LCP/mimic-cxr, issue 16): truncated to 8 bits, not rounded."""
    values = image.stored.astype(np.float64)
    values -= values.min()
    top = float(values.max())
    return _equalised((values / (top or 1) * 255).astype(np.uint8), image.inverted)


def _equalised(pixels: np.ndarray, inverted: bool) -> np.ndarray:
    return cv2.equalizeHist(cv2.bitwise_not(pixels) if inverted else pixels)


RECIPES: dict[str, Intensity] = {
    recipe.name: recipe
    for recipe in (
        Intensity(name="voi", eight_bit=as_it_is, sixteen_bit=by_257, dicom=dicom.as_shown),
        Intensity(name="nih", eight_bit=as_it_is),
        Intensity(name="padchest", sixteen_bit=by_257),
        Intensity(name="chexpert_v1", eight_bit=as_it_is, dicom=chexpert_v1),
        Intensity(name="mimic_v2", eight_bit=as_it_is, dicom=mimic_v2),
    )
}

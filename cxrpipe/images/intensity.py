"""Named intensity recipes: how the values of a file become 8 bits. A card names the one its model was trained under.

| recipe        | 8-bit file | 16-bit file             | DICOM                                               |
|---------------|------------|-------------------------|-----------------------------------------------------|
| `voi`         | as it is   | / 257                   | as a viewer shows it: modality, VOI, MONOCHROME1    |
| `nih`         | as it is   | / 257                   | as a viewer shows it                                |
| `padchest`    | as it is   | / 257 (65535 → 255)     | as a viewer shows it                                |
| `chexpert_v1` | as it is   | × 255 / max, equalised  | stored values × 255 / max, MONOCHROME1, equalised   |
| `mimic_v2`    | as it is   | min to max, equalised   | stored values min to max, MONOCHROME1, equalised    |

The last two are how the published JPEGs were made of DICOM, so a published JPEG has been through them already. The
first three differ in name alone: a card says which archive its model learned from.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from cxrpipe.images import dicom
from cxrpipe.images.dicom import DicomImage


@dataclass(frozen=True, kw_only=True)
class Intensity:
    """What a recipe does with each kind of source, giving (H, W) uint8."""

    name: str
    sixteen_bit: Callable[[np.ndarray], np.ndarray]
    dicom: Callable[[DicomImage], tuple[np.ndarray, tuple[str, ...]]]

    def of_file(self, pixels: np.ndarray) -> np.ndarray:
        """(H, W) uint8 or uint16 of any other file → (H, W) uint8; 8 bits were made for the eye, and stay."""
        return pixels if pixels.dtype == np.uint8 else self.sixteen_bit(pixels)

    def of_dicom(self, image: DicomImage) -> tuple[np.ndarray, tuple[str, ...]]:
        """A decoded DICOM file → (H, W) uint8, and the flags of what was ignored on the way."""
        return self.dicom(image)


def by_257(pixels: np.ndarray) -> np.ndarray:
    return cv2.convertScaleAbs(pixels, alpha=1 / 257)  # 65535 → 255


def by_maximum(values: np.ndarray) -> np.ndarray:
    """As the author of CheXpert gives it (stanfordmlgroup/chexpert-labeler, issue 11)."""
    top = float(values.max())
    return cv2.convertScaleAbs(values.astype(np.float32), alpha=255 / top if top > 0 else 0)


def by_range(values: np.ndarray) -> np.ndarray:
    """As the author of MIMIC-CXR-JPG gives it (MIT-LCP/mimic-cxr, issue 16): truncated to 8 bits, not rounded."""
    above = values.astype(np.float64) - values.min()
    return (above / (above.max() or 1) * 255).astype(np.uint8)


def _published(name: str, scaled: Callable[[np.ndarray], np.ndarray]) -> Intensity:
    """A recipe by which a published set of JPEGs was made: scale, turn MONOCHROME1, equalise the histogram."""
    return Intensity(
        name=name,
        sixteen_bit=lambda pixels: cv2.equalizeHist(scaled(pixels)),
        dicom=lambda image: (_equalised(scaled(image.stored), image.inverted), ()),
    )


def _equalised(pixels: np.ndarray, inverted: bool) -> np.ndarray:
    return cv2.equalizeHist(cv2.bitwise_not(pixels) if inverted else pixels)


RECIPES: dict[str, Intensity] = {
    recipe.name: recipe
    for recipe in (
        *(Intensity(name=name, sixteen_bit=by_257, dicom=dicom.as_shown) for name in ("voi", "nih", "padchest")),
        _published("chexpert_v1", by_maximum),
        _published("mimic_v2", by_range),
    )
}

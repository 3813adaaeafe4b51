"""Intensities: named ways in which the stored values of a file become 8 bits. A card names that of its training.

| intensity     | 8-bit file | 16-bit file             | DICOM                                               |
|---------------|------------|-------------------------|-----------------------------------------------------|
| `voi`         | as it is   | / 257                   | as a viewer shows it: modality, VOI, MONOCHROME1    |
| `nih`         | as it is   | / 257                   | as a viewer shows it                                |
| `padchest`    | as it is   | / 257 (65535 → 255)     | as a viewer shows it                                |
| `chexpert_v1` | as it is   | × 255 / max, equalised  | stored values × 255 / max, MONOCHROME1, equalised   |
| `mimic_v2`    | as it is   | min to max, equalised   | stored values min to max, MONOCHROME1, equalised    |
| `xrv`         | as it is   | / 257                   | stored values / (2^bits - 1), MONOCHROME1; no VOI   |

The authors of CheXpert and MIMIC-CXR-JPG made their JPEGs from DICOM by the last two, so their JPEGs stay as they are.
The first three differ in name alone: the name tells from which archive a model learned. `xrv` is that of
torchxrayvision (`utils.read_xray_dcm`), which refuses 16-bit files. Values below 0 of a signed DICOM file become 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from cxrpipe.images.lookup import extremes, looked_up

if TYPE_CHECKING:
    from cxrpipe.images.dicom import DicomImage


@dataclass(frozen=True, kw_only=True)
class Intensity:
    """One way to make 8 bits, defined for every kind of source."""

    name: str
    sixteen_bit: Callable[[np.ndarray], np.ndarray]
    """(H, W) uint16 → (H, W) uint8."""
    dicom: Callable[[DicomImage], tuple[np.ndarray, tuple[str, ...]]]
    """A decoded DICOM file → (H, W) uint8, and flags."""
    by_value: bool
    """Whether the other pixels of a DICOM file have no part in how a value is shown, if the file has a window."""

    def of_file(self, pixels: np.ndarray) -> np.ndarray:
        """(H, W) uint8 or uint16 of any file but DICOM → (H, W) uint8. 8 bits, made for the eye, stay as they are."""
        return pixels if pixels.dtype == np.uint8 else self.sixteen_bit(pixels)

    def of_dicom(self, image: DicomImage) -> tuple[np.ndarray, tuple[str, ...]]:
        """A decoded DICOM file → (H, W) uint8, and a flag if a malformed element was ignored on the way."""
        return self.dicom(image)


def by_257(pixels: np.ndarray) -> np.ndarray:
    """uint16 → uint8 by division: 65535 becomes 255."""
    return cv2.convertScaleAbs(pixels, alpha=1 / 257)


def by_maximum(values: np.ndarray) -> np.ndarray:
    """Scale 0..maximum to 0..255, as the author of CheXpert describes (stanfordmlgroup/chexpert-labeler, issue 11)."""
    top = float(values.max())
    return cv2.convertScaleAbs(values.astype(np.float32), alpha=255 / top if top > 0 else 0)


def by_range(values: np.ndarray) -> np.ndarray:
    """Scale minimum..maximum to 0..255, as the author of MIMIC-CXR-JPG describes (MIT-LCP/mimic-cxr, issue 16).

    The result is truncated to 8 bits, not rounded.
    """
    lowest, highest = extremes(values)
    above = np.arange(highest - lowest + 1, dtype=np.float64)
    return looked_up(values, (above / (above[-1] or 1) * 255).astype(np.uint8), lowest)


def by_bits(image: DicomImage) -> tuple[np.ndarray, tuple[str, ...]]:
    """Scale 0..2^bits - 1 to 0..255, whatever values the image has, by its Bits Stored (0028,0101)."""
    levels = np.rint(np.arange(1 << image.bits) * (255 / ((1 << image.bits) - 1))).astype(np.uint8)
    stored = np.maximum(image.stored, 0) if image.stored.dtype.kind == "i" else image.stored
    return looked_up(stored, levels[::-1] if image.is_monochrome1 else levels, 0), ()


def _presentation_values(image: DicomImage) -> tuple[np.ndarray, tuple[str, ...]]:
    from cxrpipe.images import dicom  # whoever only names intensities does not wait for pydicom

    return dicom.presentation_values(image)


def _published(name: str, scaled: Callable[[np.ndarray], np.ndarray]) -> Intensity:
    """The intensity of a published set of JPEGs: scale, invert MONOCHROME1, equalise the histogram."""
    return Intensity(
        name=name,
        sixteen_bit=lambda pixels: cv2.equalizeHist(scaled(pixels)),
        dicom=lambda image: (_equalised(scaled(image.stored), image.is_monochrome1), ()),
        by_value=False,
    )


def _equalised(pixels: np.ndarray, is_monochrome1: bool) -> np.ndarray:
    return cv2.equalizeHist(cv2.bitwise_not(pixels) if is_monochrome1 else pixels)


INTENSITIES: dict[str, Intensity] = {
    intensity.name: intensity
    for intensity in (
        *(
            Intensity(name=name, sixteen_bit=by_257, dicom=_presentation_values, by_value=True)
            for name in ("voi", "nih", "padchest")
        ),
        _published("chexpert_v1", by_maximum),
        _published("mimic_v2", by_range),
        Intensity(name="xrv", sixteen_bit=by_257, dicom=by_bits, by_value=False),
    )
}

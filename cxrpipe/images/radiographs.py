"""Encoded bytes → radiograph. The header and the structure of a file are checked before it is decoded.

The intensity decides how stored values become 8 bits (`cxrpipe.images.intensity`).
"""

from typing import NamedTuple

import cv2
import numpy as np

from cxrpipe.images import dicom, label_masks, rasters
from cxrpipe.images.intensity import INTENSITIES, Intensity
from cxrpipe.images.rasters import MAX_PIXELS as MAX_PIXELS
from cxrpipe.images.rasters import LeastSize
from cxrpipe.images.rasters import is_blank as is_blank

FEW_BITS_USED = "few_bits_used"
"""No value of a 16-bit file uses the highest bit: 10, 12 or 14 bits were not scaled up, or the film is dark."""


class Radiograph(NamedTuple):
    pixels: np.ndarray  # (H, W) uint8, bright = dense
    reduced_from: tuple[int, int] | None = None
    """(rows, columns) of the file if it was decoded at reduced scale, else None."""
    flags: tuple[str, ...] = ()
    """Reasons to doubt the pixels, in the words of a score row's `flags`."""

    @property
    def size_px(self) -> tuple[int, int]:
        """(rows, columns) of the file."""
        return self.reduced_from or (self.pixels.shape[0], self.pixels.shape[1])


def decode(data: bytes, intensity: str, name: str = "image", *, at_least: LeastSize | None = None) -> Radiograph:
    """Decode a PNG, JPEG, TIFF, BMP, WebP, DICOM or .npy file under a named intensity.

    Raises StudyError with a reason of `cxrpipe.records.REASONS` if the bytes are at fault. `name` opens its message.

    at_least  a JPEG may be decoded at a half, a quarter or an eighth, if it keeps this size: no intensity changes the
              values of 8-bit files, so none of them needs the full scale. So may JPEG 2000 in DICOM, at a half or a
              quarter, if each value is shown by itself (`dicom.shows_each_value`). None: every file is decoded whole
    """
    if intensity not in INTENSITIES:
        raise ValueError(f"intensity {intensity!r}; expected one of {', '.join(INTENSITIES)}")
    if dicom.begins_as_dicom(data):
        return _dicom(data, INTENSITIES[intensity], name, at_least)
    if at_least is not None and (smaller := rasters.reduced(data, name, at_least)):
        return Radiograph(*smaller)
    values = _grey(rasters.stored(data, name))
    flags = (FEW_BITS_USED,) if uses_few_bits(values) else ()
    return Radiograph(INTENSITIES[intensity].of_file(values), flags=flags)


def decode_mask(data: bytes, name: str = "mask") -> np.ndarray:
    """A mask file → (H, W) bool, by its labels or its brightness (see `label_masks`)."""
    return label_masks.lungs_of(rasters.colours(data, name), name)


def uses_few_bits(values: np.ndarray) -> bool:
    """Whether no 16-bit value uses the highest bit. The values are not scaled up, for a dark film is a film."""
    return values.dtype == np.uint16 and int(values.max()) < 1 << 15


def _dicom(data: bytes, intensity: Intensity, name: str, at_least: LeastSize | None) -> Radiograph:
    """Decode a DICOM file, after checks that it is whole, shows a chest by its header and is not too large.

    The whole film decides whether it is blank, or hidden by its window.
    """
    dataset, cut_in = dicom.parse(data, name)
    dicom.check_whole(dataset, cut_in, name)
    header = dicom.header_of(dataset, name)
    rows, columns = dicom.check_header(header, name)
    rasters.check_size(rows, columns, name)
    may_shrink = at_least is not None and intensity.by_value and dicom.shows_each_value(dataset, header, name)
    image = dicom.image_of(dataset, header, name, at_least if may_shrink else None)
    pixels, ignored = intensity.of_dicom(image)
    if image.halvings and (ignored or is_blank(pixels)):
        image = dicom.image_of(dataset, header, name)
        pixels, ignored = intensity.of_dicom(image)
    flags = tuple(sorted({*image.flags, *ignored}))
    if not image.halvings:
        return Radiograph(pixels, flags=flags)
    return Radiograph(dicom.aligned(pixels, rows, columns, image.halvings), (rows, columns), flags)


def _grey(pixels: np.ndarray) -> np.ndarray:
    """(H, W[, 3 or 4]) → (H, W). Equal channels become one, colours luminance, transparent pixels black."""
    if pixels.ndim == 2:
        return pixels
    blue, green, red, *alphas = cv2.split(pixels)
    same = np.array_equal(blue, green) and np.array_equal(green, red)
    grey = green if same else cv2.cvtColor(pixels, cv2.COLOR_BGRA2GRAY if alphas else cv2.COLOR_BGR2GRAY)
    opaque = 255 if grey.dtype == np.uint8 else 65535
    if not alphas or alphas[0].min() == opaque:
        return grey
    (alpha,) = alphas
    return (grey.astype(np.float32) * (alpha.astype(np.float32) / opaque)).round().astype(grey.dtype)

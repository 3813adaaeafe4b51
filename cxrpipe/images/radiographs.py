"""Encoded bytes → radiograph. A file is judged by its header and its structure before it is decoded.

How stored values become 8 bits is the intensity recipe's business (`cxrpipe.images.intensity`).
"""

from typing import NamedTuple

import cv2
import numpy as np

from cxrpipe.images import dicom, label_masks, rasters
from cxrpipe.images.intensity import RECIPES
from cxrpipe.images.rasters import MAX_PIXELS as MAX_PIXELS
from cxrpipe.images.rasters import is_blank as is_blank

FEW_BITS_USED = "few_bits_used"
"""A 16-bit file whose values never use the highest bit: 10, 12 or 14 bits that were not scaled up, or a dark film."""


class Radiograph(NamedTuple):
    pixels: np.ndarray  # (H, W) uint8, bright = dense
    reduced_from: tuple[int, int] | None = None
    """(rows, columns) of the file where it was decoded at reduced scale."""
    flags: tuple[str, ...] = ()
    """What makes the pixels doubtful, in the words of a score row's `flags`."""

    @property
    def size_px(self) -> tuple[int, int]:
        """(rows, columns) of the file."""
        return self.reduced_from or (self.pixels.shape[0], self.pixels.shape[1])


def decode(data: bytes, recipe: str, name: str = "image", *, enough_px: int | None = None) -> Radiograph:
    """Decode a PNG, JPEG, TIFF, BMP, WebP or DICOM file, or an array's image (.npy), under a named intensity recipe.

    StudyError with the contract's reason where the bytes are at fault; `name` is for its message.

    enough_px  a JPEG may be decoded at a half, a quarter or an eighth, its longer side not below this; every recipe
               leaves the values of 8-bit files as they are, so that none of them can tell
    """
    if recipe not in RECIPES:
        raise ValueError(f"recipe {recipe!r}; expected one of {', '.join(RECIPES)}")
    how = RECIPES[recipe]
    if dicom.begins_as_dicom(data):
        image = _dicom(data, name)
        pixels, flags = how.of_dicom(image)
        return Radiograph(pixels, flags=tuple(sorted({*image.flags, *flags})))
    if enough_px is not None and (smaller := rasters.reduced(data, name, enough_px)):
        return Radiograph(*smaller)
    values = _grey(rasters.stored(data, name))
    return Radiograph(how.of_file(values), flags=(FEW_BITS_USED,) if uses_few_bits(values) else ())


def decode_mask(data: bytes, name: str = "mask") -> np.ndarray:
    """(H, W) bool of a mask file, by its labels or its brightness: see `label_masks`."""
    return label_masks.lungs_of(rasters.colours(data, name), name)


def uses_few_bits(values: np.ndarray) -> bool:
    """Whether 16-bit values never use the highest bit. They stay as they are: a dark film is a film."""
    return values.dtype == np.uint16 and int(values.max()) < 1 << 15


def _dicom(data: bytes, name: str) -> dicom.DicomImage:
    """The stored values of a DICOM file: whole, of a chest by its header, and not too large, before it is decoded."""
    dataset, cut_in = dicom.parse(data, name)
    dicom.check_whole(dataset, cut_in, name)
    header = dicom.header_of(dataset, name)
    rows, columns = dicom.check_header(header, name)
    rasters.check_size(rows, columns, name)
    return dicom.image_of(dataset, header, name)


def _grey(pixels: np.ndarray) -> np.ndarray:
    """(H, W) of (H, W[, 2..4]): equal channels are one, others by luminance; what is transparent is black."""
    if pixels.ndim == 2:
        return pixels
    colour, alpha = (pixels[..., :3], pixels[..., 3]) if pixels.shape[2] == 4 else (pixels, None)
    blue, green, red = cv2.split(colour)
    same = np.array_equal(blue, green) and np.array_equal(green, red)
    grey = green if same else cv2.cvtColor(colour, cv2.COLOR_BGR2GRAY)
    opaque = 255 if grey.dtype == np.uint8 else 65535
    if alpha is None or alpha.min() == opaque:
        return grey
    return (grey.astype(np.float32) * (alpha.astype(np.float32) / opaque)).round().astype(grey.dtype)

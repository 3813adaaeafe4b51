"""Decodes JPEG 2000 at a half or a quarter: a frame holds its wavelets by levels, and the finest are left out.

[Why and when](docs/decisions.md#jpeg-2000-is-decoded-at-reduced-scale).
"""

import io

import cv2
import numpy as np
from PIL import ImageFile

from cxrpipe.images.dicom import frames
from cxrpipe.images.dicom.frames import Encoded
from cxrpipe.images.rasters import LeastSize

MOST_HALVINGS = 2
"""An eighth differs too much from the whole film: by up to 2 grey levels on average."""


def halvings(encoded: Encoded, at_least: LeastSize) -> int:
    """How often both sides may be halved, so that the frame keeps the least size."""
    size = encoded.rows, encoded.columns
    return max(n for n in range(min(encoded.levels, MOST_HALVINGS) + 1) if n == 0 or at_least.is_kept(*size, 1 << n))


def words(frame: bytes, encoded: Encoded, halvings: int) -> np.ndarray:
    """The words of a frame (see `codecs`), with sides halved `halvings` times and rounded up. Raises OSError."""
    scaled = np.asarray(_Reduced(frames.codestream(frame), encoded, halvings))
    values = scaled >> (8 * scaled.itemsize - encoded.bits)  # Pillow scales samples up to 8 or 16 bits
    return values ^ values.dtype.type(1 << encoded.bits - 1) if encoded.signed else values  # and shifts signed ones up


def aligned(pixels: np.ndarray, rows: int, columns: int, halvings: int) -> np.ndarray:
    """Move the pixels (h, w) uint8 of a reduced film to where a film of `rows` × `columns` shrunk by area has them.

    A pixel (i, j) of the reduced film lies at the pixel (2ⁿ i, 2ⁿ j) of the whole, and not in the middle of 2ⁿ × 2ⁿ of
    them. If it stays there, the film is shifted by up to 1.5 of its pixels, and scaled if a side was rounded up.
    """
    step = 1 << halvings
    height, width = pixels.shape
    down, across = rows / height, columns / width
    onto_whole = np.array([[across, 0, across / 2 - 0.5], [0, down, down / 2 - 0.5]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(
        cv2.warpAffine(pixels, onto_whole / step, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    )


class _Reduced(ImageFile.ImageFile):
    """JPEG 2000 of one component for Pillow's decoder.

    Pillow's own class rounds some sides of a quarter down, where the standard rounds up, and fails (`RG1_J2KI`).
    """

    format = "JPEG2000"

    def __init__(self, codestream: bytes, encoded: Encoded, halvings: int) -> None:
        self._encoded, self._halvings, self._bytes = encoded, halvings, len(codestream)
        super().__init__(io.BytesIO(codestream))

    def _open(self) -> None:
        rows, columns = (-(-side >> self._halvings) for side in (self._encoded.rows, self._encoded.columns))
        self._size, self._mode = (columns, rows), "L" if self._encoded.bits <= 8 else "I;16"
        all_layers, no_descriptor = 0, -1
        arguments = ("j2k", self._halvings, all_layers, no_descriptor, self._bytes)
        self.tile = [ImageFile._Tile("jpeg2k", (0, 0, columns, rows), 0, arguments)]

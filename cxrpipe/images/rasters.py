"""Checks a PNG, JPEG, TIFF, BMP, WebP or .npy file, then decodes its stored values.

An image is turned by its EXIF or TIFF orientation (274), in every format and at every scale, as viewers do.
Not handled: gamma, colour profiles, the transparent value of a grey or RGB PNG (tRNS).
"""

import io
import math
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

from cxrpipe.errors import StudyError
from cxrpipe.images import bmp, jpeg, png, tiff, webp

MAX_PIXELS = 100_000_000
MIN_SIDE_PX = 16
_BLANK_STEP = 16

_JPEG = b"\xff\xd8\xff"
_NPY = b"\x93NUMPY"
_AS_STORED = cv2.IMREAD_UNCHANGED
_REDUCED = {8: cv2.IMREAD_REDUCED_GRAYSCALE_8, 4: cv2.IMREAD_REDUCED_GRAYSCALE_4, 2: cv2.IMREAD_REDUCED_GRAYSCALE_2}


class LeastSize(NamedTuple):
    """The size that an image must keep if it is decoded at reduced scale."""

    longer_px: int
    shorter_px: int = 0

    def is_kept(self, rows: int, columns: int, reduction: int) -> bool:
        """Whether sides divided by `reduction` are long enough."""
        longer, shorter = max(rows, columns), min(rows, columns)
        return longer >= reduction * self.longer_px and shorter >= reduction * self.shorter_px


class Format(NamedTuple):
    """A format that OpenCV alone decodes."""

    begins: Callable[[bytes], bool]
    """Whether a file has this format by its first bytes."""
    check: Callable[[bytes, str], tuple[int, int]]
    """(rows, columns) of a file with a sound structure, else StudyError."""
    exif: Callable[[bytes], bytes] = lambda data: b""
    """The EXIF block, unless OpenCV turns the image itself."""
    has_alpha: Callable[[bytes], bool] = lambda data: True
    """Whether a fourth channel is alpha."""
    is_inverted: Callable[[bytes], bool] = lambda data: False
    """Whether 0 is white in the values that OpenCV returns."""


_FORMATS = (
    Format(
        tiff.begins, tiff.check, has_alpha=tiff.has_alpha, is_inverted=tiff.zero_is_white
    ),  # OpenCV turns TIFF itself
    Format(webp.begins, webp.check, webp.exif),
    Format(bmp.begins, bmp.check, has_alpha=lambda data: False),  # many writers leave zeros in the fourth channel
)


def stored(data: bytes, name: str) -> np.ndarray:
    """(H, W) or (H, W, 3 or 4) uint8 or uint16, channels in OpenCV's order, alpha last. A JPEG gives its luminance."""
    if not data:
        raise StudyError("empty", f"{name}: the file has zero bytes; copy it again")
    if data.startswith(_NPY):
        return _npy(data, name)
    if data.startswith(_JPEG):
        _check_jpeg(data, name)
        return _decoded(data, cv2.IMREAD_GRAYSCALE, name)
    if data.startswith(png.SIGNATURE):
        return _png(data, name)
    form = _format(data, name)
    check_size(*form.check(data, name), name)
    values = _decoded(data, _AS_STORED, name)
    if values.ndim == 3 and values.shape[2] == 4 and not form.has_alpha(data):
        values = values[..., :3]
    if form.is_inverted(data):
        values = cv2.bitwise_not(values)
    return np.ascontiguousarray(turned(values, tiff.orientation(form.exif(data))))


def colours(data: bytes, name: str) -> np.ndarray:
    """The values of `stored`, except that a colour JPEG keeps its colours."""
    if not data.startswith(_JPEG):
        return stored(data, name)
    _check_jpeg(data, name)
    return _decoded(data, cv2.IMREAD_ANYCOLOR, name)


def reduced(data: bytes, name: str, at_least: LeastSize) -> tuple[np.ndarray, tuple[int, int]] | None:
    """The luminance of a JPEG at a half, a quarter or an eighth, and its full size (rows, columns).

    None for other formats, and if no reduced scale keeps the least size.
    """
    if not data.startswith(_JPEG):
        return None
    rows, columns = _check_jpeg(data, name)
    reduction = next((factor for factor in _REDUCED if at_least.is_kept(rows, columns, factor)), None)
    if reduction is None:
        return None
    pixels = _decoded(data, _REDUCED[reduction], name)
    is_turned = (pixels.shape[0] < pixels.shape[1]) != (rows < columns) and rows != columns  # by the EXIF orientation
    return pixels, (columns, rows) if is_turned else (rows, columns)


def scaled_up(values: np.ndarray, significant_bits: int | None) -> np.ndarray:
    """Scale samples that a PNG left in the lowest bits (by its sBIT chunk) to the whole range.

    The standard asks writers to scale samples up and to name their original bits. Some writers name the bits and do not
    scale. In their files no value needs more bits than named, and values lie between the steps of a scaled file.
    """
    depth = 8 * values.dtype.itemsize
    samples = values if values.ndim == 2 else values[..., :3]
    if significant_bits is None or not 0 < significant_bits < depth or int(samples.max()) >> significant_bits:
        return values
    factor = (2**depth - 1) / (2**significant_bits - 1)
    shifted = not (samples & (2 ** (depth - significant_bits) - 1)).any()
    if shifted or np.abs(samples - np.rint(samples / factor) * factor).max() <= 0.5:
        return values
    full = values.copy()
    full[..., : samples.shape[-1]] = np.rint(samples * factor)
    return full


def turned(values: np.ndarray, orientation: int) -> np.ndarray:
    """Turn an image upright; `orientation` 1..8 tells which corner is stored first (EXIF)."""
    if orientation >= 5:
        values = np.swapaxes(values, 0, 1)
    rows_back = orientation in (3, 4, 7, 8)
    columns_back = orientation in (2, 3, 6, 7)
    return values[:: -1 if rows_back else 1, :: -1 if columns_back else 1]


def is_blank(pixels: np.ndarray) -> bool:
    """Whether an image has no contrast: its standard deviation is below one grey level.

    Some rows alone settle nearly every film: the squares of their deviations are part of the sum over the whole image.
    """
    some = pixels[::_BLANK_STEP]
    return _deviation(some) ** 2 * some.size < pixels.size and _deviation(pixels) < 1.0


def _deviation(pixels: np.ndarray) -> float:
    return float(cv2.meanStdDev(pixels)[1][0, 0])


def check_size(rows: int, columns: int, name: str) -> None:
    """StudyError if an image is too large to decode or too small to be a radiograph."""
    if rows * columns > MAX_PIXELS:
        raise StudyError(
            "too_large", f"{name}: declares {rows}x{columns} pixels; expected at most {MAX_PIXELS:,} in all"
        )
    if min(rows, columns) < MIN_SIDE_PX:
        raise StudyError("too_small", f"{name}: {rows}x{columns} pixels; expected at least {MIN_SIDE_PX} a side")


def _format(data: bytes, name: str) -> Format:
    for form in _FORMATS:
        if form.begins(data):
            return form
    expected = "PNG, JPEG, TIFF, BMP, WebP or DICOM"
    raise StudyError("not_an_image", f"{name}: starts with {data[:8]!r}; expected {expected}")


def _png(data: bytes, name: str) -> np.ndarray:
    """The values of a PNG, as of `stored`."""
    facts = png.check(data, name)
    check_size(facts.rows_px, facts.columns_px, name)
    values = png.decode(data, facts)
    if values is None:
        values = _decoded(data, _AS_STORED, name)
    values = scaled_up(values, facts.significant_bits)
    return np.ascontiguousarray(turned(values, tiff.orientation(facts.exif)))


def _check_jpeg(data: bytes, name: str) -> tuple[int, int]:
    frame = jpeg.check(data, name)
    check_size(frame.rows, frame.columns, name)
    if frame.bits != 8 or frame.is_lossless:
        kind = "a lossless JPEG" if frame.is_lossless else "a JPEG"
        raise StudyError("not_an_image", f"{name}: {kind} of {frame.bits} bits; expected 8, lossy; save it as PNG")
    return frame.rows, frame.columns


def _decoded(data: bytes, flags: int, name: str) -> np.ndarray:
    # OpenCV also prints the errors that it raises, and the warnings of libtiff about unknown tags.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        values = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        values = None
    if values is None or values.dtype not in (np.uint8, np.uint16):
        raise StudyError(
            "corrupt", f"{name}: cannot be decoded, though its header and structure are sound; export it again"
        )
    return values


def _npy(data: bytes, name: str) -> np.ndarray:
    """(H, W) or (H, W, 3) uint8 or uint16, channels in OpenCV's order. The header is checked first."""
    stream = io.BytesIO(data)
    try:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError("expected format 1.0")
        shape, by_columns, dtype = np.lib.format.read_array_header_1_0(stream)
    except ValueError as error:
        raise StudyError("corrupt", f"{name}: the .npy cannot be read ({error}); save the array again") from None
    if by_columns or dtype not in (np.uint8, np.uint16) or len(shape) not in (2, 3) or shape[2:] not in ((), (3,)):
        raise StudyError("not_an_image", f"{name}: {dtype} of shape {shape}; expected uint8 or uint16 (H, W[, 3])")
    check_size(shape[0], shape[1], name)
    if len(data) - stream.tell() < math.prod(shape) * dtype.itemsize:
        raise StudyError("truncated", f"{name}: the .npy of shape {shape} ends early; copy the file again")
    pixels = np.frombuffer(data, dtype, math.prod(shape), stream.tell()).reshape(shape)
    return np.ascontiguousarray(pixels[..., ::-1] if pixels.ndim == 3 else pixels)

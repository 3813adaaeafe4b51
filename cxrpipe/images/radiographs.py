"""Encoded bytes → radiograph. A file is judged by its header and its structure before it is decoded.

How stored values become 8 bits is the intensity recipe's business (`cxrpipe.images.intensity`).
"""

import io
import math
import struct
import zlib
from typing import NamedTuple

import cv2
import numpy as np

from cxrpipe.errors import StudyError
from cxrpipe.images import dicom, jpeg
from cxrpipe.images.intensity import RECIPES

MAX_PIXELS = 100_000_000
MIN_SIDE_PX = 16

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_NPY = b"\x93NUMPY"


_REDUCED = {8: cv2.IMREAD_REDUCED_GRAYSCALE_8, 4: cv2.IMREAD_REDUCED_GRAYSCALE_4, 2: cv2.IMREAD_REDUCED_GRAYSCALE_2}


class Radiograph(NamedTuple):
    pixels: np.ndarray  # (H, W) uint8, bright = dense
    reduced_from: tuple[int, int] | None = None
    """(rows, columns) of the file where it was decoded at reduced scale."""

    @property
    def size_px(self) -> tuple[int, int]:
        """(rows, columns) of the file."""
        return self.reduced_from or (self.pixels.shape[0], self.pixels.shape[1])


def decode(data: bytes, recipe: str, name: str = "image", *, enough_px: int | None = None) -> Radiograph:
    """Decode a PNG, JPEG or DICOM file, or an array's image (.npy), under a named intensity recipe.

    StudyError with the contract's reason where the bytes are at fault; `name` is for its message.

    enough_px  a JPEG may be decoded at a half, a quarter or an eighth, its longer side not below this; every recipe
               leaves the values of 8-bit files as they are, so that none of them can tell
    """
    if recipe not in RECIPES:
        raise ValueError(f"recipe {recipe!r}; expected one of {', '.join(RECIPES)}")
    how = RECIPES[recipe]
    if dicom.begins_as_dicom(data):
        return Radiograph(how.of_dicom(_dicom(data, name)))
    if data.startswith(_JPEG) and enough_px is not None:
        return _jpeg(data, name, enough_px)
    return Radiograph(how.of_file(_stored(data, name)))


def decode_mask(data: bytes, name: str = "mask") -> np.ndarray:
    """(H, W) bool: whatever is brighter than half of the brightest, be that 255, 65535 or 1."""
    values = _stored(data, name)
    return values > int(values.max()) // 2


def is_blank(pixels: np.ndarray) -> bool:
    """No contrast at all: less than one grey level of standard deviation."""
    return float(cv2.meanStdDev(pixels)[1][0, 0]) < 1.0


def _stored(data: bytes, name: str) -> np.ndarray:
    """(H, W) uint8 or uint16: the grey values of the file."""
    if not data:
        raise StudyError("empty", f"{name}: zero bytes")
    if data.startswith(_NPY):
        return _grey(_check_npy(data, name))
    if data.startswith(_PNG):
        rows, columns = _check_png(data, name)
        flags = cv2.IMREAD_UNCHANGED
    elif data.startswith(_JPEG):
        rows, columns = jpeg.check(data, name)
        flags = cv2.IMREAD_GRAYSCALE
    else:
        raise StudyError("not_an_image", f"{name}: starts with {data[:8]!r}; expected PNG, JPEG or DICOM")
    _check_size(rows, columns, name)
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if pixels is None:
        raise StudyError("corrupt", f"{name}: {rows}x{columns} by its header, but cannot be decoded")
    return _grey(pixels)


def _jpeg(data: bytes, name: str, enough_px: int) -> Radiograph:
    rows, columns = jpeg.check(data, name)
    _check_size(rows, columns, name)
    reduction = next((each for each in _REDUCED if max(rows, columns) >= each * enough_px), None)
    if reduction is None:
        return Radiograph(_stored(data, name))
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), _REDUCED[reduction])
    if pixels is None:
        raise StudyError("corrupt", f"{name}: {rows}x{columns} by its header, but cannot be decoded")
    turned = (pixels.shape[0] < pixels.shape[1]) != (rows < columns) and rows != columns  # by its EXIF orientation
    return Radiograph(pixels, (columns, rows) if turned else (rows, columns))


def _dicom(data: bytes, name: str) -> dicom.DicomImage:
    """The stored values of a DICOM file: whole, of a chest by its header, and not too large, before it is decoded."""
    dataset, cut_in = dicom.parse(data, name)
    dicom.check_whole(dataset, cut_in, name)
    header = dicom.header_of(dataset, name)
    rows, columns = dicom.check_header(header, name)
    _check_size(rows, columns, name)
    stored = dicom.stored_values(dataset, header, name)
    return dicom.DicomImage(dataset, stored, header.photometric_interpretation == "MONOCHROME1", name)


def _check_size(rows: int, columns: int, name: str) -> None:
    if rows * columns > MAX_PIXELS:
        raise StudyError("too_large", f"{name}: declares {rows}x{columns} pixels; the limit is {MAX_PIXELS:,}")
    if min(rows, columns) < MIN_SIDE_PX:
        raise StudyError("too_small", f"{name}: {rows}x{columns} pixels; expected at least {MIN_SIDE_PX} a side")


def _check_npy(data: bytes, name: str) -> np.ndarray:
    """(H, W) or (H, W, 3) uint8 or uint16, channels in OpenCV's order. Judged by its header, as others are."""
    stream = io.BytesIO(data)
    try:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError("expected format 1.0")
        shape, by_columns, dtype = np.lib.format.read_array_header_1_0(stream)
    except ValueError as error:
        raise StudyError("corrupt", f"{name}: an .npy that cannot be read ({error})") from None
    if by_columns or dtype not in (np.uint8, np.uint16) or len(shape) not in (2, 3) or shape[2:] not in ((), (3,)):
        raise StudyError("not_an_image", f"{name}: {dtype} of shape {shape}; expected uint8 or uint16 (H, W[, 3])")
    _check_size(shape[0], shape[1], name)
    if len(data) - stream.tell() < math.prod(shape) * dtype.itemsize:
        raise StudyError("truncated", f"{name}: an .npy of shape {shape} that ends early")
    pixels = np.frombuffer(data, dtype, math.prod(shape), stream.tell()).reshape(shape)
    return np.ascontiguousarray(pixels[..., ::-1] if pixels.ndim == 3 else pixels)


def _check_png(data: bytes, name: str) -> tuple[int, int]:
    """(rows, columns), after every chunk's length and CRC held (PNG, section 5). Decoders are laxer."""
    position, size = len(_PNG), None
    while True:
        header = data[position : position + 8]
        if len(header) < 8:
            raise StudyError("truncated", f"{name}: a PNG without its end")
        length, kind = struct.unpack(">I4s", header)
        end = position + 8 + length
        if end + 4 > len(data):
            raise StudyError("truncated", f"{name}: a PNG that ends inside a {kind!r} chunk")
        if zlib.crc32(data[position + 4 : end]) != struct.unpack(">I", data[end : end + 4])[0]:
            raise StudyError("corrupt", f"{name}: the checksum of a {kind!r} chunk does not hold")
        if size is None:
            if kind != b"IHDR" or length != 13:
                raise StudyError("corrupt", f"{name}: a PNG that does not begin with its header")
            columns, rows = struct.unpack(">II", data[position + 8 : position + 16])
            size = rows, columns
        if kind == b"IEND":
            return size
        position = end + 4


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

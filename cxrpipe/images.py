"""Encoded bytes → radiograph. A file is judged by its header and its structure before it is decoded.

Recipes say how stored values become 8 bits; a card names the one its model was trained under.
"""

import io
import math
import re
import struct
import zlib
from typing import NamedTuple

import cv2
import numpy as np

from cxrpipe.errors import StudyError

MAX_PIXELS = 100_000_000
MIN_SIDE_PX = 16
RECIPES = ("voi",)
"""`voi`: the values of interest, as a viewer shows them. 8-bit values as they are, 16-bit ones divided by 257."""

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_NPY = b"\x93NUMPY"
_JPEG_SIZE_MARKERS = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_JPEG_SCAN_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


class Radiograph(NamedTuple):
    pixels: np.ndarray  # (H, W) uint8, bright = dense


def decode(data: bytes, recipe: str, name: str = "image") -> Radiograph:
    """Decode a PNG, a JPEG or an array's image (.npy) under a named intensity recipe.

    StudyError with the contract's reason where the bytes are at fault; `name` is for its message.
    """
    if recipe not in RECIPES:
        raise ValueError(f"recipe {recipe!r}; expected one of {RECIPES}")
    return Radiograph(_eight_bit(_stored(data, name)))


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
        rows, columns = _check_jpeg(data, name)
        flags = cv2.IMREAD_GRAYSCALE
    else:
        raise StudyError("not_an_image", f"{name}: starts with {data[:8]!r}; expected PNG or JPEG")
    _check_size(rows, columns, name)
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if pixels is None:
        raise StudyError("corrupt", f"{name}: {rows}x{columns} by its header, but cannot be decoded")
    return _grey(pixels)


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


def _check_jpeg(data: bytes, name: str) -> tuple[int, int]:
    """(rows, columns), after walking all segments to the end marker (ITU T.81, annex B).

    OpenCV reads a truncated JPEG without a word and makes the rest grey.
    """
    position, size = 2, None
    while True:
        marker = data[position : position + 2]
        if len(marker) < 2:
            raise StudyError("truncated", f"{name}: a JPEG without its end marker")
        if marker[0] != 0xFF:
            raise StudyError("corrupt", f"{name}: a JPEG with no marker where one belongs")
        kind = marker[1]
        if kind == 0xFF:  # fill byte
            position += 1
            continue
        if kind == 0xD9:
            if size is None:
                raise StudyError("corrupt", f"{name}: a JPEG without an image")
            return size
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        segment = data[position + 4 : position + 2 + length]
        if len(segment) != length - 2:
            raise StudyError("truncated", f"{name}: a JPEG that ends inside a segment, or gives it no length")
        if kind in _JPEG_SIZE_MARKERS:
            if len(segment) < 5:
                raise StudyError("corrupt", f"{name}: a JPEG whose header is too short")
            size = struct.unpack(">HH", segment[1:5])
        position += 2 + length
        if kind == 0xDA:  # entropy-coded data follow, to the next marker that is not a restart
            end = _JPEG_SCAN_END.search(data, position)
            position = end.start() if end else len(data)


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


def _eight_bit(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return pixels
    return cv2.convertScaleAbs(pixels, alpha=1 / 257)  # 65535 → 255

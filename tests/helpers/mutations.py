"""Files of every format with mutated bytes, the same for the same seed: what a fuzz test feeds to decoders and jobs.

`mutate` alone mostly tests checksums: hardly a mutated PNG or zip gets past its CRC. So `mend` writes checksums and
lengths again, where a format has them, and what is mutated reaches the code behind them.
"""

import contextlib
import functools
import gzip
import random
import re
import struct
import zlib
from collections.abc import Callable

import cv2
import imagecodecs
import numpy as np
import pydicom
import pydicom.uid
from builders import jpeg, png, radiograph, tar, tar_gz, zipped
from dicoms import dataset, dicom, encapsulated, lut, saved


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One to eight of: flip a bit, cut, repeat a piece, zero a piece, write an extreme number."""
    mutated = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        place = rng.randrange(max(1, len(mutated)))
        match rng.randrange(5):
            case 0 if mutated:
                mutated[place] ^= 1 << rng.randrange(8)
            case 1:
                del mutated[place : place + rng.choice([1, 4, 100, len(mutated)])]
            case 2:
                mutated[place:place] = mutated[place : place + rng.randrange(64)]
            case 3:
                mutated[place : place + 16] = bytes(len(mutated[place : place + 16]))
            case _:
                mutated[place : place + 4] = struct.pack(">I", rng.choice([0, 1, 0x7FFFFFFF, 0xFFFFFFFF]))
    return bytes(mutated)


_CELLS = (
    "",
    " ",
    "-1",
    "2",
    "1e99",
    "nan",
    "é",
    "\0",
    '"',
    "../film0.png",
    "film9.png",
    "s0",
    "LL",
    "frontal",
    "valid",
)


def mutate_cell(table: bytes, rng: random.Random) -> bytes:
    """Write another value into one cell of a CSV: of its bytes hardly one can change without a refusal."""
    lines = [line.split(",") for line in table.decode().splitlines()]
    row = rng.choice(lines[1:])
    row[rng.randrange(len(row))] = rng.choice(_CELLS)
    return "\n".join(",".join(line) for line in lines).encode()


# ---- what is mutated ------------------------------------------------------------------------------------------


def _grey16() -> np.ndarray:
    return np.linspace(0, 4095, 80 * 64).round().astype(np.uint16).reshape(80, 64)


def _encoded(suffix: str, pixels: np.ndarray, *options: int) -> bytes:
    return cv2.imencode(suffix, pixels, options)[1].tobytes()


def _dicom(number: int, values: np.ndarray, **tags: object) -> bytes:
    return dicom(values, **(_ids(number) | tags))


def _ids(number: int) -> dict[str, object]:
    """No two files are the same instance, or only the first would be opened."""
    return {"StudyInstanceUID": f"1.2.3.4.{number}", "SOPInstanceUID": f"1.2.3.4.5.{number}"}


def _dicom_as(syntax: str, number: int) -> bytes:
    made = dataset(_grey16(), bits=12, WindowCenter=2048, WindowWidth=4096, **_ids(number))
    made.compress(syntax, generate_instance_uid=False)
    return saved(made)


def _dicom_of(syntax: str, frame: bytes, number: int) -> bytes:
    return encapsulated(frame, syntax, _grey16(), bits=12, **_ids(number))


def _dicom_jpeg(number: int) -> bytes:
    made = dataset(radiograph(), syntax=pydicom.uid.JPEGBaseline8Bit, **_ids(number))
    made.PixelData = pydicom.encaps.encapsulate([jpeg(radiograph())])
    return saved(made)


_WINDOW = {"WindowCenter": 1000, "WindowWidth": 800, "RescaleSlope": 2, "RescaleIntercept": -10}
_LUTS = {"ModalityLUTSequence": [lut(np.arange(4096))], "VOILUTSequence": [lut(np.arange(4096)[::-1])]}
_FILMS = {f"{label}/{number}.png": number for label in ("NORMAL", "PNEUMONIA") for number in range(3)}

WHOLE: dict[str, Callable[[int], bytes]] = {
    "grey.png": lambda _: png(radiograph()),
    "rgba.png": lambda _: png(np.dstack([radiograph()] * 4)),
    "grey16.png": lambda _: png(_grey16()),
    "grey.jpg": lambda _: jpeg(radiograph()),
    "colour.jpg": lambda _: jpeg(np.dstack([radiograph(1)] * 3)),
    "progressive.jpeg": lambda _: _encoded(".jpg", radiograph(), cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "lzw.tif": lambda _: _encoded(".tif", radiograph(), cv2.IMWRITE_TIFF_COMPRESSION, 5),
    "plain.tif": lambda _: _encoded(".tif", _grey16(), cv2.IMWRITE_TIFF_COMPRESSION, 1),
    "deflate.tiff": lambda _: _encoded(".tif", radiograph(), cv2.IMWRITE_TIFF_COMPRESSION, 8),
    "grey.bmp": lambda _: _encoded(".bmp", radiograph()),
    "lossy.webp": lambda _: _encoded(".webp", np.dstack([radiograph()] * 3), cv2.IMWRITE_WEBP_QUALITY, 80),
    "lossless.webp": lambda _: _encoded(".webp", np.dstack([radiograph()] * 3), cv2.IMWRITE_WEBP_QUALITY, 101),
    "window.dcm": lambda number: _dicom(number, _grey16(), bits=12, **_WINDOW),
    "luts.dcm": lambda number: _dicom(number, _grey16(), bits=12, **_LUTS),
    "big_endian.dcm": lambda number: _dicom(
        number, _grey16().byteswap(), bits=12, syntax=pydicom.uid.ExplicitVRBigEndian
    ),
    "implicit.dcm": lambda number: _dicom(number, _grey16(), bits=12, syntax=pydicom.uid.ImplicitVRLittleEndian),
    "deflated.dcm": lambda number: _dicom(
        number, _grey16(), bits=12, syntax=pydicom.uid.DeflatedExplicitVRLittleEndian
    ),
    "signed.dcm": lambda number: _dicom(number, _grey16().astype(np.int16) - 1024, bits=16, PixelPaddingValue=-2000),
    "rle.dcm": lambda number: _dicom_as(pydicom.uid.RLELossless, number),
    "jpeg2000.dcm": lambda number: _dicom_as(pydicom.uid.JPEG2000Lossless, number),
    "jpeg_ls.dcm": lambda number: _dicom_as(pydicom.uid.JPEGLSLossless, number),
    "jpeg.dcm": _dicom_jpeg,
    "jpeg_lossless.dcm": lambda number: _dicom_of(
        pydicom.uid.JPEGLosslessSV1, imagecodecs.jpeg8_encode(_grey16(), lossless=True, bitspersample=12), number
    ),
    "jpeg_12_bits.dcm": lambda number: _dicom_of(
        pydicom.uid.JPEGExtended12Bit, imagecodecs.jpeg8_encode(_grey16(), 90, bitspersample=12), number
    ),
    "htj2k.dcm": lambda number: _dicom_of(pydicom.uid.HTJ2KLossless, imagecodecs.htj2k_encode(_grey16()), number),
    "pack.tar": lambda _: tar({name: png(radiograph(seed)) for name, seed in _FILMS.items()}),
    "pack.tar.gz": lambda _: tar_gz({name: png(radiograph(seed)) for name, seed in _FILMS.items()}),
    "pack.zip": lambda _: zipped({name: png(radiograph(seed)) for name, seed in _FILMS.items()}),
    "table.csv": lambda _: "".join(
        f"{line}\n"
        for line in (
            "study_id,path,patient_id,view_position,split,patient_age,patient_sex,label_Pneumonia",
            *(f"s{number},film{number}.png,p{number // 2},PA,test,{40 + number},F,1" for number in range(6)),
        )
    ).encode(),
}
"""A whole file of every kind, by a name whose suffix is its format's; of DICOM there are many, by number."""

IMAGES = [name for name in WHOLE if name.endswith((".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"))]
DICOM = [name for name in WHOLE if name.endswith(".dcm")]
CONTAINERS = ["pack.tar", "pack.tar.gz", "pack.zip"]


@functools.lru_cache(maxsize=2 * len(WHOLE))
def whole(name: str, number: int = 0) -> bytes:
    return WHOLE[name](number)


def mutated(name: str, rng: random.Random, mended: bool, number: int = 0) -> bytes:
    """A mutated file of this kind; `mended`: with checksums and lengths that hold again."""
    data = whole(name, number if name in DICOM else 0)
    if name.endswith(".dcm"):  # half of the mutations are in the header, which is small beside the pixels
        start = data.find(b"\xe0\x7f\x10\x00")
        start = start if start > 0 else len(data)
        if rng.random() < 0.5:
            return _mended(name, data[:128] + mutate(data[128:start], rng) + data[start:], mended)
        return _mended(name, data[:start] + mutate(data[start:], rng), mended)
    if name.endswith(".csv") and mended:
        return mutate_cell(data, rng)
    if name.endswith(".tar.gz") and mended:
        return gzip.compress(mend_tar(mutate(whole("pack.tar"), rng)), 1, mtime=0)
    return _mended(name, mutate(data, rng), mended)


def _mended(name: str, data: bytes, mended: bool) -> bytes:
    return mend(name, data) if mended else data


# ---- checksums and lengths ------------------------------------------------------------------------------------


def mend(name: str, data: bytes) -> bytes:
    """Write the checksums and lengths of a mutated file again, as far as its format has some."""
    menders = [mender for suffix, mender in _MENDERS.items() if name.endswith(suffix)]
    return menders[0](data) if menders else data


def mend_png(data: bytes) -> bytes:
    """Chunks by the places of their names; length and CRC of each. What is left of the scanlines is deflated again."""
    names = [*re.finditer(rb"IHDR|PLTE|tRNS|sBIT|pHYs|IDAT|IEND", data)]
    if not names:
        return data
    ends = [name.start() - 8 for name in names[1:]] + [len(data) - 4]
    chunks = [(name[0], data[name.end() : max(name.end(), end)]) for name, end in zip(names, ends, strict=True)]
    scanlines = inflated(b"".join(body for name, body in chunks if name == b"IDAT"), 15)
    before = [(name, body) for name, body in chunks if name not in (b"IDAT", b"IEND")]
    mended = [*before, (b"IDAT", zlib.compress(scanlines, 1)), (b"IEND", b"")]
    packed = (
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in mended
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def inflated(data: bytes, window: int) -> bytes:
    """As much of a deflated stream as can be had, a byte at a time; window: as of zlib."""
    stream, found = zlib.decompressobj(window), []
    with contextlib.suppress(zlib.error):
        for place in range(len(data)):
            found.append(stream.decompress(data[place : place + 1]))
    return b"".join(found)


def mend_jpeg(data: bytes) -> bytes:
    """Segments of the header by their markers; the length of each. What follows the start of scan is left alone."""
    scan = data.find(b"\xff\xda")
    header, rest = (data[:scan], data[scan:]) if scan > 0 else (data, b"")
    segments = re.split(rb"(\xff[\xc0-\xcf\xdb\xdd\xe0-\xef\xfe])", header[2:])[1:]
    pairs = zip(segments[::2], segments[1::2], strict=True)
    sized = (marker + struct.pack(">H", max(2, len(body)) % 65536) + body[2:] for marker, body in pairs)
    return b"\xff\xd8" + b"".join(sized) + rest


def mend_webp(data: bytes) -> bytes:
    """RIFF and the length of its first chunk, which is all there is after it."""
    whole, first = (struct.pack("<I", max(len(data) - header, 0)) for header in (8, 20))
    return b"RIFF" + whole + data[8:16] + first + data[20:]


def mend_bmp(data: bytes) -> bytes:
    return b"BM" + struct.pack("<I", len(data)) + data[6:]


def mend_tiff(data: bytes) -> bytes:
    """It has no checksum; the directory is where it was."""
    return b"II*\0" + data[4:]


_NATIVE, _ENCAPSULATED = b"\xe0\x7f\x10\x00OW\0\0", b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff"
_ITEM, _END_OF_ITEMS = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0" + bytes(4)


def mend_dicom(data: bytes) -> bytes:
    """Preamble, `DICM` and the length of the pixels, which come last: native ones, or a single frame in one item."""
    data = bytes(128) + b"DICM" + data[132:]
    header, found, pixels = data.rpartition(_ENCAPSULATED)
    if found:
        table = int.from_bytes(pixels[4:8], "little")  # of offsets: none, or one
        frame = pixels[16 + (table if table == 4 else 0) :].removesuffix(_END_OF_ITEMS)
        item = _ITEM + struct.pack("<I", len(frame)) + frame
        return header + found + _ITEM + bytes(4) + item + _END_OF_ITEMS
    header, found, pixels = data.rpartition(_NATIVE)
    if found:
        return header + found + struct.pack("<I", len(pixels[4:])) + pixels[4:]
    return data


def mend_tar(data: bytes) -> bytes:
    """The checksum of every block that says `ustar`."""
    fixed = bytearray(data)
    for start in range(0, len(fixed) - 511, 512):
        if fixed[start + 257 : start + 262] == b"ustar":
            fixed[start + 148 : start + 156] = b" " * 8
            fixed[start + 148 : start + 156] = b"%06o\0 " % sum(fixed[start : start + 512])
    return bytes(fixed)


def mend_zip(data: bytes) -> bytes:
    """The CRC and size of what is left of every entry, before it and in the directory."""
    fixed = bytearray(data)
    for entry in re.finditer(rb"PK\x01\x02", data):
        at = entry.start()
        if at + 46 > len(data):
            continue
        start = struct.unpack_from("<I", data, at + 42)[0]
        if start + 30 > len(data) or data[start : start + 4] != b"PK\x03\x04":
            continue
        name, extra = struct.unpack_from("<HH", data, start + 26)
        content = inflated(data[start + 30 + name + extra :], -15)
        crc, size = struct.pack("<I", zlib.crc32(content)), struct.pack("<I", len(content))
        fixed[at + 16 : at + 20] = fixed[start + 14 : start + 18] = crc
        fixed[at + 24 : at + 28] = fixed[start + 22 : start + 26] = size
    return bytes(fixed)


_MENDERS = {
    ".png": mend_png,
    ".jpg": mend_jpeg,
    ".jpeg": mend_jpeg,
    ".webp": mend_webp,
    ".bmp": mend_bmp,
    ".tif": mend_tiff,
    ".tiff": mend_tiff,
    ".dcm": mend_dicom,
    ".tar": mend_tar,
    ".zip": mend_zip,
}

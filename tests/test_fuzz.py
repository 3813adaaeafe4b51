"""Mutated bytes end as data or as our own error: never as another exception, a crash or a hang, and in bounded memory.

They are decoded in a process of its own, which is killed after TIMEOUT_S and may have MEMORY_BYTES.
"""

import multiprocessing
import os
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import decoders
import numpy as np
import pydicom
import pydicom.uid
import pytest
from builders import jpeg, png, radiograph
from dicoms import dataset, dicom, lut, saved
from tiffs import tiff

from cxrpipe.errors import StudyError
from cxrpipe.images.isolation import Isolated

pytestmark = pytest.mark.slow

TIMEOUT_S = 30
MEMORY_BYTES = 3 << 30  # a picture may have 100 million pixels, if the mutation says so
MUTATIONS = int(os.environ.get("CXRPIPE_FUZZ", "2000"))


def _mutate(data: bytes, rng: random.Random) -> bytes:
    """One to eight of: flip a byte, cut, repeat a piece, zero a piece, write an extreme number."""
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


def _with_right_checksums(data: bytes) -> bytes:
    """A mutated PNG whose chunks are believed: so the decoder behind the check is reached as well."""
    fixed, position = bytearray(data), 8
    while position + 12 <= len(fixed):
        end = position + 8 + struct.unpack(">I", fixed[position : position + 4])[0]
        if end + 4 > len(fixed):
            break
        fixed[end : end + 4] = struct.pack(">I", zlib.crc32(fixed[position + 4 : end]))
        position = end + 4
    return bytes(fixed)


@pytest.fixture(scope="module")
def decode() -> Iterator[Callable[[bytes], None]]:
    """Asserts that bytes become a picture or a reason."""
    with Isolated(decoders.pixels_of, TIMEOUT_S, memory_bytes=MEMORY_BYTES) as isolated:

        def decoded(data: bytes) -> None:
            try:
                isolated(data, "mutated", ())
            except StudyError as error:
                if error.reason in ("crashed", "timeout"):
                    pytest.fail(error.detail)

        yield decoded


@pytest.mark.parametrize(
    ("encoded", "mend"),
    [
        (png(radiograph()), lambda data: data),
        (png(radiograph()), _with_right_checksums),
        (png(np.dstack([radiograph()] * 4)), _with_right_checksums),
        (png(radiograph().astype(np.uint16) * 257), _with_right_checksums),
        (jpeg(radiograph()), lambda data: data),
        (tiff(radiograph(), radiograph()[::4, ::4]), lambda data: data),
        (cv2.imencode(".tif", radiograph())[1].tobytes(), lambda data: data),
        (cv2.imencode(".bmp", radiograph())[1].tobytes(), lambda data: data),
        (cv2.imencode(".webp", radiograph())[1].tobytes(), lambda data: data),
    ],
    ids=["png", "png-checksums", "png-rgba", "png-16", "jpeg", "tiff", "tiff-lzw", "bmp", "webp"],
)
def test_mutated_images_become_pictures_or_reasons(
    decode: Callable[[bytes], None], encoded: bytes, mend: Callable[[bytes], bytes]
) -> None:
    rng = random.Random(0)
    for _ in range(MUTATIONS // 5):
        decode(mend(_mutate(encoded, rng)))


def _compressed(syntax: str) -> bytes:
    made = dataset(np.linspace(0, 4095, 80 * 64).round().astype(np.uint16).reshape(80, 64), bits=12)
    made.compress(syntax, generate_instance_uid=False)
    return saved(made)


def _dicom_jpeg() -> bytes:
    made = dataset(radiograph(), syntax=pydicom.uid.JPEGBaseline8Bit)
    made.PixelData = pydicom.encaps.encapsulate([jpeg(radiograph())])
    return saved(made)


_WINDOW = {"WindowCenter": 1000, "WindowWidth": 800, "RescaleSlope": 2, "RescaleIntercept": -10}
_LUTS = {"ModalityLUTSequence": [lut(np.arange(4096))], "VOILUTSequence": [lut(np.arange(4096)[::-1])]}


@pytest.mark.parametrize(
    "encoded",
    [
        dicom(radiograph().astype(np.uint16) * 16, bits=12, **_WINDOW),
        dicom(radiograph().astype(np.uint16) * 16, bits=12, **_LUTS),
        _compressed(pydicom.uid.RLELossless),
        _compressed(pydicom.uid.JPEG2000Lossless),
        _dicom_jpeg(),
    ],
    ids=["window", "luts", "rle", "jpeg2000", "jpeg"],
)
def test_mutated_dicom_files_become_pictures_or_reasons(decode: Callable[[bytes], None], encoded: bytes) -> None:
    """Half of the mutations are in the header, which is small beside the pixels."""
    rng = random.Random(0)
    start = encoded.rindex(b"\xe0\x7f\x10\x00")
    decode(encoded)
    for number in range(MUTATIONS // 5):
        if number % 2:
            decode(encoded[:128] + _mutate(encoded[128:start], rng) + encoded[start:])
        else:
            decode(encoded[:start] + _mutate(encoded[start:], rng))


@pytest.mark.parametrize("name", ["RG1_JLSN", "RG1_J2KI"])
def test_mutated_real_dicom_files_become_pictures_or_reasons(
    decode: Callable[[bytes], None], real_data: Path, name: str
) -> None:
    """Their codecs cannot be written here. Few, for they are large."""
    encoded = (real_data / "dicom" / name).read_bytes()
    rng = random.Random(0)
    for _ in range(MUTATIONS // 200):
        decode(encoded[:6000] + _mutate(encoded[6000:], rng))


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".zip"])
def test_mutated_containers_give_studies_that_can_be_read_or_reasons(tmp_path: Path, suffix: str) -> None:
    whole = tmp_path / f"whole{suffix}"
    _pack(whole)
    rng = random.Random(0)
    mutated = tmp_path / f"mutated{suffix}"
    with multiprocessing.get_context("spawn").Pool(1, decoders.limit_memory, (MEMORY_BYTES,)) as process:

        def studies_of(data: bytes, path: Path) -> int | None:
            return process.apply_async(decoders.index_of, (data, str(path))).get(TIMEOUT_S)

        assert studies_of(whole.read_bytes(), whole) == 6
        assert None in [studies_of(_mutate(whole.read_bytes(), rng), mutated) for _ in range(MUTATIONS // 20)]


def _pack(path: Path) -> None:
    names = [f"{label}/{number}.png" for label in ("NORMAL", "PNEUMONIA") for number in range(3)]
    data = png(radiograph())
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as container:
            for name in names:
                container.writestr(name, data)
        return
    source = path.with_name("source.png")
    source.write_bytes(data)
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as container:
        for name in names:
            container.add(source, name)

"""Mutated bytes end as data or as our own error: never as a crash, never as another exception."""

import contextlib
import os
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pydicom.uid
import pytest
from builders import jpeg, png, radiograph
from dicoms import dataset, dicom, lut, saved

from cxrpipe import archives, images
from cxrpipe.archives import Catalogue
from cxrpipe.errors import ConfigError, StudyError
from cxrpipe.reader import Reader
from cxrpipe.records import Study

pytestmark = pytest.mark.slow

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


def _decode(data: bytes) -> None:
    try:
        pixels = images.decode(data, "voi").pixels
    except StudyError:
        return
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 2
    assert pixels.size <= images.MAX_PIXELS


@pytest.mark.parametrize(
    ("encoded", "mend"),
    [
        (png(radiograph()), lambda data: data),
        (png(radiograph()), _with_right_checksums),
        (png(np.dstack([radiograph()] * 4)), _with_right_checksums),
        (png(radiograph().astype(np.uint16) * 257), _with_right_checksums),
        (jpeg(radiograph()), lambda data: data),
    ],
    ids=["png", "png-checksums", "png-rgba", "png-16", "jpeg"],
)
def test_mutated_images_become_pictures_or_reasons(encoded: bytes, mend: Callable[[bytes], bytes]) -> None:
    rng = random.Random(0)
    for _ in range(MUTATIONS // 5):
        _decode(mend(_mutate(encoded, rng)))


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
def test_mutated_dicom_files_become_pictures_or_reasons(encoded: bytes) -> None:
    """Half of the mutations are in the header, which is small beside the pixels."""
    rng = random.Random(0)
    start = encoded.rindex(b"\xe0\x7f\x10\x00")
    _decode(encoded)
    for number in range(MUTATIONS // 5):
        if number % 2:
            _decode(encoded[:128] + _mutate(encoded[128:start], rng) + encoded[start:])
        else:
            _decode(encoded[:start] + _mutate(encoded[start:], rng))


@pytest.mark.parametrize("name", ["RG1_JLSN", "RG1_J2KI"])
def test_mutated_real_dicom_files_become_pictures_or_reasons(real_data: Path, name: str) -> None:
    """Their codecs cannot be written here. Few, for they are large."""
    encoded = (real_data / "dicom" / name).read_bytes()
    rng = random.Random(0)
    for _ in range(MUTATIONS // 200):
        _decode(encoded[:6000] + _mutate(encoded[6000:], rng))


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".zip"])
def test_mutated_containers_give_studies_that_can_be_read_or_reasons(tmp_path: Path, suffix: str) -> None:
    whole = tmp_path / f"whole{suffix}"
    _pack(whole)
    rng = random.Random(0)
    for _ in range(MUTATIONS // 20):
        mutated = tmp_path / f"mutated{suffix}"
        mutated.write_bytes(_mutate(whole.read_bytes(), rng))
        try:
            catalogue = Catalogue(str(mutated), tmp_path / "seek_points")
            found = list(archives.studies(catalogue, archives.LAYOUTS["folders"], split_seed=0))
        except ConfigError:
            continue
        with Reader(str(tmp_path / "seek_points")) as reader:
            for view in (view for each in found if isinstance(each, Study) for view in each.views):
                with contextlib.suppress(StudyError):
                    reader.read(view)


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

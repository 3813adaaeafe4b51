"""Bytes of a film → squares, for each kind of file, beside OpenCV, pydicom, Pillow and release 0.1.0.

    python benchmarks/prepare.py [--kinds png8,jpeg] [--sides 224,256] [--archive DIR [--films 40]]

The films are synthetic and of full size (2140 x 1760 px), and are encoded here. `--archive` adds real films, such
as the PNGs of NIH ChestX-ray14. `ours` is everything that preparing does: SHA-256, checks, decoding, the blank test
and one square per side. `isolated` is the same behind the wall, with the CPU time of both processes. The others only
decode, but `0.1.0` prepares DICOM to 224 px as that release did, where pylibjpeg is installed. All ways take turns in
one process with one thread. Figures are ms of CPU time a film (the least of several rounds). The ratios of ours and
of isolated to another way stand in brackets.
"""

import argparse
import contextlib
import ctypes
import functools
import hashlib
import importlib.util
import io
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, TypeVar

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import imagecodecs
import numpy as np
import psutil
import pydicom
import pydicom.encaps
import pydicom.uid
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels.decoders.base import get_decoder

from cxrpipe.archives import phantom
from cxrpipe.archives.index import index
from cxrpipe.archives.reader import Reader
from cxrpipe.images.isolation import Isolated
from cxrpipe.images.letterbox import Preparation
from cxrpipe.images.squares import Decode, decode_view
from cxrpipe.records import View
from cxrpipe.records.study_table import StudyTable

ROWS_PX, COLUMNS_PX = 2140, 1760

Decoder = Callable[[bytes], object]
Film = TypeVar("Film")


# ---- how other libraries decode ---------------------------------------------------------------------------------


def by_opencv(data: bytes) -> np.ndarray:
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert decoded is not None
    return decoded


def by_pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def by_pydicom(data: bytes) -> np.ndarray:
    """Stored values, by the first decoder that pydicom finds installed."""
    return pydicom.dcmread(io.BytesIO(data)).pixel_array


def by_release_0_1_0(data: bytes) -> np.ndarray:
    """What release 0.1.0 did with DICOM, but for checks that are still done: pylibjpeg decoded, numpy did the rest."""
    hashlib.sha256(data).hexdigest()
    dataset = pydicom.dcmread(io.BytesIO(data))
    syntax = dataset.file_meta.TransferSyntaxUID
    plugin = "pylibjpeg" if syntax.is_encapsulated else ""
    stored, _ = get_decoder(syntax).as_array(dataset, raw=True, index=0, decoding_plugin=plugin)
    unused = 16 - dataset.BitsStored
    assert np.array_equal(stored, stored << unused >> unused)
    lowest, highest = int(stored.min()), int(stored.max())
    values = (np.arange(lowest, highest + 1) - dataset.WindowCenter) / dataset.WindowWidth + 0.5
    levels = np.rint(values.clip(0, 1) * 255).astype(np.uint8)
    pixels = levels[stored.astype(np.int32) - lowest]
    assert all(cv2.meanStdDev(pixels)[1] > 1 for _ in range(2))
    return cv2.resize(pixels, (224 * COLUMNS_PX // ROWS_PX, 224), interpolation=cv2.INTER_AREA)


# ---- the kinds of files -----------------------------------------------------------------------------------------


class Kind(NamedTuple):
    """A kind of file: how a film is encoded in it, and who else decodes it."""

    bits: int
    """Of the film's values."""
    encode: Callable[[np.ndarray], bytes]
    """(H, W) uint16, 0..2**bits - 1 → a file."""
    others: dict[str, Decoder]
    """Name of a library → how it decodes the file to an array."""


def png8(film: np.ndarray) -> bytes:
    return _encoded(".png", film.astype(np.uint8))


def png16(film: np.ndarray) -> bytes:
    """12 bits, scaled to the whole range as the PNG standard asks."""
    return _encoded(".png", film << 4 | film >> 8)


def jpeg(film: np.ndarray) -> bytes:
    return _encoded(".jpg", film.astype(np.uint8))


def _encoded(suffix: str, pixels: np.ndarray) -> bytes:
    return cv2.imencode(suffix, pixels)[1].tobytes()


def dicom_raw(film: np.ndarray) -> bytes:
    return _dicom(film, 10, pydicom.uid.ExplicitVRLittleEndian, film.tobytes())


def jpeg_lossless(film: np.ndarray) -> bytes:
    frame = imagecodecs.jpeg8_encode(film, lossless=True, predictor=1, bitspersample=10)
    return _dicom(film, 10, pydicom.uid.JPEGLosslessSV1, pydicom.encaps.encapsulate([frame]))


def jpeg_extended(film: np.ndarray) -> bytes:
    frame = imagecodecs.jpeg8_encode(film, 90, bitspersample=12)
    return _dicom(film, 12, pydicom.uid.JPEGExtended12Bit, pydicom.encaps.encapsulate([frame]))


def jpeg_ls(film: np.ndarray) -> bytes:
    return _dicom(film, 10, pydicom.uid.JPEGLSLossless, pydicom.encaps.encapsulate([imagecodecs.jpegls_encode(film)]))


def j2k(film: np.ndarray) -> bytes:
    frame = imagecodecs.jpeg2k_encode(film, 0, codecformat="J2K", bitspersample=10, reversible=True)
    return _dicom(film, 10, pydicom.uid.JPEG2000Lossless, pydicom.encaps.encapsulate([frame]))


def htj2k(film: np.ndarray) -> bytes:
    frame = imagecodecs.htj2k_encode(film, reversible=True)
    return _dicom(film, 16, pydicom.uid.HTJ2KLossless, pydicom.encaps.encapsulate([frame]))


def rle(film: np.ndarray) -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(dicom_raw(film)))
    dataset.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
    return _saved(dataset)


def _dicom(film: np.ndarray, bits: int, syntax: str, pixel_data: bytes) -> bytes:
    """A CR of the chest whose window shows the whole range of `bits`."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = pydicom.uid.ComputedRadiographyImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4.5"
    dataset.Modality, dataset.BodyPartExamined, dataset.PhotometricInterpretation = "CR", "CHEST", "MONOCHROME2"
    dataset.Rows, dataset.Columns = film.shape
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, bits, bits - 1
    dataset.WindowCenter, dataset.WindowWidth = 2 ** (bits - 1), 2**bits
    dataset.PixelData = pixel_data
    return _saved(dataset)


def _saved(dataset: Dataset) -> bytes:
    file = io.BytesIO()
    pydicom.dcmwrite(file, dataset, enforce_file_format=True)
    return file.getvalue()


RASTER = {"OpenCV": by_opencv, "Pillow": by_pillow}
DICOM = {"pydicom": by_pydicom}
if importlib.util.find_spec("libjpeg") and importlib.util.find_spec("openjpeg"):
    DICOM["0.1.0"] = by_release_0_1_0

KINDS = {
    "png8": Kind(8, png8, RASTER),
    "png16": Kind(12, png16, RASTER),
    "jpeg": Kind(8, jpeg, RASTER),
    "dicom_raw": Kind(10, dicom_raw, DICOM),
    "jpeg_lossless": Kind(10, jpeg_lossless, DICOM),
    "jpeg_extended": Kind(12, jpeg_extended, DICOM),
    "jpeg_ls": Kind(10, jpeg_ls, DICOM),
    "j2k": Kind(10, j2k, DICOM),
    "htj2k": Kind(16, htj2k, DICOM),
    "rle": Kind(10, rle, DICOM),
}


# ---- films ------------------------------------------------------------------------------------------------------


@functools.cache
def synthetic(number: int, bits: int) -> np.ndarray:
    """(ROWS_PX, COLUMNS_PX) uint16, 0..2**bits - 1: a drawn chest with the grain of a detector."""
    rng = np.random.default_rng(number)
    drawn = phantom.radiograph(rng, side_px=ROWS_PX // 2).pixels.astype(np.float32)
    smooth = cv2.GaussianBlur(cv2.resize(drawn, (ROWS_PX, ROWS_PX), interpolation=cv2.INTER_CUBIC), (0, 0), 2)
    grain = cv2.GaussianBlur(rng.standard_normal(smooth.shape, np.float32), (0, 0), 0.6)  # neighbours are correlated
    edge = (ROWS_PX - COLUMNS_PX) // 2
    film = (smooth / 255 + 0.008 * grain)[:, edge : edge + COLUMNS_PX]
    return np.rint(film.clip(0, 1) * (2**bits - 1)).astype(np.uint16)


@contextlib.contextmanager
def opened(archive: str, limit: int) -> Iterator[tuple[Reader, list[View]]]:
    """A reader of an archive, and the views of its first studies, in their order."""
    with TemporaryDirectory(prefix="cxrpipe-") as scratch:
        table_url = str(Path(scratch) / "studies.parquet")
        index(archive, table_url)
        table = StudyTable(table_url)
        with Reader(table.seek_points) as reader:
            yield reader, [view for study in islice(table.studies(), limit) for view in study.views]


# ---- measuring --------------------------------------------------------------------------------------------------


def ours(decode: Decode, preparations: Sequence[Preparation], data: bytes) -> object:
    """What preparing does with the bytes of a view."""
    return hashlib.sha256(data).hexdigest(), decode(data, "film", preparations)


def cpu_s() -> float:
    """CPU time of this process and of its living children, to the nanosecond."""
    return time.process_time() + sum(time.clock_gettime(_clock_of(child.pid)) for child in psutil.Process().children())


def _clock_of(pid: int) -> int:
    clock = ctypes.c_int()
    if ctypes.CDLL(None).clock_getcpuclockid(pid, ctypes.byref(clock)):
        raise ProcessLookupError(pid)
    return clock.value


def least_ms(ways: Mapping[str, Callable[[Film], object]], films: Sequence[Film], rounds: int) -> dict[str, float]:
    """ms of CPU time a film, for each way: the least of `rounds`, in which the ways take turns."""
    least = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, way in ways.items():
            before = cpu_s()
            for film in films:
                way(film)
            least[name] = min(least[name], (cpu_s() - before) / len(films) * 1000)
    return least


def row(kind: str, films: Sequence[bytes], figures: dict[str, float], others: dict[str, Decoder]) -> str:
    """A line of the table: ours and isolated in ms, then every other with the ratio of ours to it."""
    of_ours = f"{figures['ours']:.2f} | {figures['isolated']:.2f}"
    beside = " | ".join(
        f"{figures[name]:.2f} ({figures['ours'] / figures[name]:.2f}, {figures['isolated'] / figures[name]:.2f})"
        if name in others
        else ("not measured" if name == "0.1.0" and "pydicom" in others else "")
        for name in COLUMNS
    )
    return f"| {kind} | {np.mean([len(film) for film in films]) / 1000:,.0f} | {of_ours} | {beside} |"


COLUMNS = ("OpenCV", "Pillow", "pydicom", "0.1.0")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", default=",".join(KINDS), help="Kinds of files, by comma; empty: only the archive.")
    parser.add_argument("--sides", default="224,256", help="Sides of the squares in px, by comma.")
    parser.add_argument("--synthetic", type=int, default=3, help="How many films are drawn for each kind.")
    parser.add_argument("--archive", default="", help="An archive of PNGs or JPEGs, as it lies.")
    parser.add_argument("--films", type=int, default=40, help="How many films of the archive.")
    parser.add_argument("--rounds", type=int, default=5)
    settings = parser.parse_args()
    cv2.setNumThreads(1)
    preparations = tuple(Preparation("voi", int(side_px)) for side_px in settings.sides.split(","))
    print(f"| file | kB | ours, ms | isolated, ms | {' | '.join(COLUMNS)} |\n|---|---|---|---|{'---|' * len(COLUMNS)}")
    with Isolated(decode_view, timeout_s=60) as isolated:
        our_ways: dict[str, Decoder] = {
            "ours": functools.partial(ours, decode_view, preparations),
            "isolated": functools.partial(ours, isolated, preparations),
        }
        for name in filter(None, settings.kinds.split(",")):
            kind = KINDS[name]
            films = [kind.encode(synthetic(number, kind.bits)) for number in range(settings.synthetic)]
            print(row(name, films, least_ms(our_ways | kind.others, films, settings.rounds), kind.others), flush=True)
        if settings.archive:
            with opened(settings.archive, settings.films) as (reader, views):
                films = [reader.read(view) for view in views]
                figures = least_ms(our_ways | RASTER, films, settings.rounds)
                print(row("archive", films, figures, RASTER))
                reading = least_ms({"read": reader.read}, views, settings.rounds)["read"]
                print(f"\nReading a film: {reading:.2f} ms, {reading / figures['OpenCV']:.2f} of OpenCV's decoding")


if __name__ == "__main__":
    main()

"""JPEG 2000 at a half, a quarter and an eighth: how far its squares lie from those of the whole film.

    python benchmarks/reduced.py [--side 224] [--dicom FILE ...]

Each line is a film of 10 bits (2140 x 1760 px, synthetic, or a DICOM file) and a way to show it. Figures are the mean
and the largest difference in grey levels, as the reduced film is used; `aside` is the mean if nobody moved it by the
half pixels that wavelets leave it aside. The guards of `dicom.shows_each_value` are not asked here: the lines show why
they are there.
"""

import argparse
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import imagecodecs
import numpy as np
import pydicom
from prepare import synthetic
from pydicom.dataset import Dataset

from cxrpipe.images.dicom import DicomImage, aligned, frames, reduced
from cxrpipe.images.intensity import INTENSITIES
from cxrpipe.images.letterbox import prepare
from cxrpipe.images.radiographs import Radiograph


class Film(NamedTuple):
    name: str
    values: np.ndarray  # (H, W) uint16
    bits: int
    reversible: bool = True


class Way(NamedTuple):
    """How a film is shown."""

    name: str
    intensity: str
    window: float | None = None
    """Width as a fraction of the whole range."""


WAYS = (
    *(Way(f"window of 1/{part}", "voi", 1 / part) for part in (1, 4, 8, 32)),
    Way("no window", "voi"),
    Way("chexpert_v1", "chexpert_v1"),
    Way("mimic_v2", "mimic_v2"),
)


def films(paths: list[str]) -> Iterator[Film]:
    clean = synthetic(0, 10)
    yield Film("synthetic", clean, 10)
    yield Film("synthetic, 9/7 wavelet", clean, 10, reversible=False)
    yield Film("synthetic, 8 bits", clean >> 2, 8)
    rng = np.random.default_rng(0)
    yield Film("noisy", np.rint((clean + rng.normal(0, 8, clean.shape)).clip(0, 1023)).astype(np.uint16), 10)
    dead = clean // 2
    dead[rng.integers(0, dead.shape[0], 20), rng.integers(0, dead.shape[1], 20)] = 1023
    yield Film("dark, 20 dead pixels", dead, 10)
    turned = cv2.getRotationMatrix2D((880, 1070), 3, 1)
    size = clean.shape[::-1]
    yield Film("padding of 65535", cv2.warpAffine(clean, turned, size, flags=cv2.INTER_NEAREST, borderValue=65535), 16)
    for path in paths:
        dataset = pydicom.dcmread(path)
        yield Film(path.rpartition("/")[2], dataset.pixel_array, dataset.BitsStored)


def square(film: Film, way: Way, values: np.ndarray, halvings: int, side_px: int, *, move: bool = True) -> np.ndarray:
    dataset = Dataset()
    if way.window:
        middle = float(np.median(film.values)) if way.window < 1 else float(film.values.max()) / 2
        dataset.WindowCenter, dataset.WindowWidth = middle, way.window * (float(film.values.max()) + 1)
        if film.bits == 16:
            dataset.WindowCenter, dataset.WindowWidth = 512, way.window * 1024
    image = DicomImage(dataset, values, film.bits, False, film.name, ())
    pixels, _ = INTENSITIES[way.intensity].of_dicom(image)
    rows, columns = film.values.shape
    if halvings and move:
        pixels = aligned(pixels, rows, columns, halvings)
    return prepare(Radiograph(pixels, (rows, columns)), side_px).astype(int)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--dicom", nargs="*", default=[], help="DICOM files whose pixels are encoded again.")
    settings = parser.parse_args()
    cv2.setNumThreads(1)
    print("| film | shown by | half: mean, max (aside) | quarter | eighth |\n|---|---|---|---|---|")
    for film in films(settings.dicom):
        frame = imagecodecs.jpeg2k_encode(
            film.values.astype(np.uint8) if film.bits == 8 else film.values,
            0,
            codecformat="J2K",
            bitspersample=film.bits,
            reversible=film.reversible,
        )
        encoded = frames.check(frame, pydicom.uid.JPEG2000, film.name)
        assert encoded is not None
        whole = imagecodecs.jpeg2k_decode(frame)
        smaller = {halvings: reduced.words(frame, encoded, halvings) for halvings in (1, 2, 3)}
        for way in WAYS:
            right = square(film, way, whole, 0, settings.side)
            cells = []
            for halvings, values in smaller.items():
                off = np.abs(square(film, way, values, halvings, settings.side) - right)
                aside = np.abs(square(film, way, values, halvings, settings.side, move=False) - right)
                cells.append(f"{off.mean():.2f}, {off.max()} ({aside.mean():.2f})")
            print(f"| {film.name} | {way.name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

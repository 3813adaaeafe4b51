"""Writes archives of synthetic chest radiographs, in the layouts of two published archives.

They serve tests, tutorials and the demo: no download, no patients. A small network learns the two findings from a
few hundred of these radiographs; what it has learned means nothing for real ones.
"""

import gzip
import io
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from cxrpipe.archives.phantom import radiograph

NIH_HEADER = (  # as published: two of its column names contain an unquoted comma
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
FILM_MM = 430  # side of a 17 inch cassette


class _NihStudy(NamedTuple):
    name: str  # 00000001_000.png
    patient: int
    follow_up: int
    age: int
    gender: str
    findings: tuple[str, ...]

    def csv_line(self, side_px: int) -> str:
        labels = "|".join(self.findings) or "No Finding"
        size = f"{side_px},{side_px},{FILM_MM / side_px:.3f},{FILM_MM / side_px:.3f}"
        return f"{self.name},{labels},{self.follow_up},{self.patient},{self.age},{self.gender},PA,{size}"


def write_nih(folder: Path, *, studies: int = 480, seed: int = 0, side_px: int = 256) -> Path:
    """Write an archive in the layout of NIH ChestX-ray14 and return its folder.

    Each finding is present in about 40 % of the studies. It comes and goes between the films of a patient, which share
    an anatomy. A few PNGs are RGBA, as some of the real ones are. The test list has a quarter of the patients. Equal
    arguments give equal bytes.
    """
    rng = np.random.default_rng(seed)
    rows: list[_NihStudy] = []
    while len(rows) < studies:
        rows += _nih_patient(rng, number=rows[-1].patient + 1 if rows else 1)
    rows = rows[:studies]

    folder.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate((rows[: studies // 2], rows[studies // 2 :]), start=1):
        entries = ((f"images/{row.name}", _nih_png(row, seed, side_px)) for row in part)
        _write_tar_gz(folder / f"images_{number:03d}.tar.gz", entries)
    _write_lines(folder / "Data_Entry_2017_v2020.csv", [NIH_HEADER, *(row.csv_line(side_px) for row in rows)])
    _write_lines(folder / "train_val_list.txt", [row.name for row in rows if row.patient % 4 != 2])
    _write_lines(folder / "test_list.txt", [row.name for row in rows if row.patient % 4 == 2])
    return folder


def write_montgomery(folder: Path, *, studies: int = 64, seed: int = 1, side_px: int = 256) -> Path:
    """Write an archive in the layout of the Montgomery County set and return its folder.

    Names end in _1 where opacities are drawn, which stand for tuberculosis (42 %, as in the real set). Images and masks
    (8-bit, 0 and 255) are cropped alike to side_px x 0.85 side_px, upright or lying. Equal arguments give equal bytes.
    """
    for kind in ("CXR_png", "ManualMask/leftMask", "ManualMask/rightMask", "ClinicalReadings"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for number in range(1, studies + 1):
        rng = np.random.default_rng((seed, number))
        ill, upright = rng.random() < 0.42, rng.random() < 0.5
        gender, age = rng.choice(["F", "M"]), rng.integers(18, 90)
        film = radiograph(rng, side_px=side_px, pneumonia=ill)
        name = f"MCUCXR_{number:04d}_{int(ill)}"
        margin = round(0.075 * side_px)
        kept, whole = slice(margin, side_px - margin), slice(None)
        crop = (whole, kept) if upright else (kept, whole)
        for kind, image in (
            ("CXR_png", film.pixels),
            ("ManualMask/leftMask", 255 * film.left.astype(np.uint8)),
            ("ManualMask/rightMask", 255 * film.right.astype(np.uint8)),
        ):
            (folder / kind / f"{name}.png").write_bytes(_png(image[crop]))
        reading = "infiltrate, drawn" if ill else "normal"
        lines = [f"Patient's Sex: {gender}", f"Patient's Age: {age:03d}Y", reading]
        _write_lines(folder / "ClinicalReadings" / f"{name}.txt", lines)
    return folder


def _nih_patient(rng: np.random.Generator, number: int) -> list[_NihStudy]:
    visits, age, gender = min(rng.geometric(0.5), 8), int(rng.integers(18, 90)), str(rng.choice(["F", "M"]))
    return [
        _NihStudy(
            name=f"{number:08d}_{visit:03d}.png",
            patient=number,
            follow_up=visit,
            age=age + visit,
            gender=gender,
            findings=tuple(finding for finding in ("Cardiomegaly", "Pneumonia") if rng.random() < 0.4),
        )
        for visit in range(visits)
    ]


def _nih_png(row: _NihStudy, seed: int, side_px: int) -> bytes:
    film = radiograph(
        np.random.default_rng((seed, row.patient, row.follow_up + 1)),
        side_px=side_px,
        pneumonia="Pneumonia" in row.findings,
        cardiomegaly="Cardiomegaly" in row.findings,
        anatomy=np.random.default_rng((seed, row.patient)),
    )
    in_colour = (row.patient + row.follow_up) % 100 == 3
    return _png(cv2.cvtColor(film.pixels, cv2.COLOR_GRAY2BGRA) if in_colour else film.pixels)


def _png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


def _write_tar_gz(path: Path, entries: Iterable[tuple[str, bytes]]) -> None:
    """Write a tar.gz whose bytes depend on the entries only: its headers hold no times, owners or file name."""
    with (
        path.open("wb") as file,
        gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for name, content in entries:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")

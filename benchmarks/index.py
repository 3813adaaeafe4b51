"""What an index costs: seconds and resident memory, of archives of two sizes each, every one in its own process.

    python benchmarks/index.py                       # all cases, some minutes
    python benchmarks/index.py --cases images,zip

`images` and `folders` are S3 prefixes whose listing pages are made up at the client, 1,000 objects a page: what is
timed is the program, not a network. `plan` is the hash that `score` takes of the table of `images`.
Peak memory is the kernel's VmHWM; `start` is what the imports take. On a busy machine CPU seconds tell more than those
of the clock.
"""

import argparse
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SIZES = {
    "images": (100_000, 1_000_000),
    "folders": (100_000, 1_000_000),
    "plan": (100_000, 1_000_000),
    "zip": (10_000, 100_000),
    "nih": (11_212, 112_120),
}
_TINY = b"\x89PNG\r\n\x1a\n not looked into"
_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=",".join(SIZES))
    parser.add_argument("--one", nargs=3, metavar=("CASE", "COUNT", "FOLDER"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        case, count, folder = asked.one
        print(json.dumps(CASES[case](int(count), Path(folder))))
        return
    print(f"{'case':9}{'studies':>10}{'seconds':>10}{'CPU s':>8}{'start MB':>10}{'peak MB':>10}{'growth MB':>11}")
    for case in asked.cases.split(","):
        before = None
        for count in SIZES[case]:
            figures = _in_own_process(case, count)
            growth = "" if before is None else f"{figures['peak_mb'] - before:.0f}"
            before = figures["peak_mb"]
            print(
                f"{case:9}{count:>10,}{figures['seconds']:>10.1f}{figures['cpu_s']:>8.1f}{figures['start_mb']:>10.0f}"
                f"{figures['peak_mb']:>10.0f}{growth:>11}",
                flush=True,
            )


def _in_own_process(case: str, count: int) -> dict[str, float]:
    figures = {}
    with tempfile.TemporaryDirectory(prefix="cxrpipe-benchmark-") as folder:
        for step in [f"make_{case}", case]:
            if step in CASES:
                command = [sys.executable, __file__, "--one", step, str(count), folder]
                said = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
                figures = json.loads(said.splitlines()[-1])
    return figures


# ---- the cases ------------------------------------------------------------------------------------------------


def images(count: int, folder: Path) -> dict[str, float]:
    return _index_pages(count, folder, lambda number: f"2026/{number // 1000:05}/IM{number:08}.png")


def folders(count: int, folder: Path) -> dict[str, float]:
    return _index_pages(
        count, folder, lambda number: f"{('NORMAL', 'PNEUMONIA')[number * 2 // count]}/IM{number:08}.png"
    )


def plan(count: int, folder: Path) -> dict[str, float]:
    from cxrpipe.records.study_table import StudyTable
    from cxrpipe.runs.plan import Selection, plan_hash

    selection = Selection(StudyTable(str(folder / "table" / "studies.parquet")), None, None)
    return _measured(lambda: plan_hash(selection, "fingerprint"))


def packed(count: int, folder: Path) -> dict[str, float]:
    return _index(str(folder / "archive"), folder)


CASES: dict[str, Callable[[int, Path], Any]] = {
    "images": images,
    "folders": folders,
    "make_plan": images,
    "plan": plan,
    "zip": packed,
    "nih": packed,
    "make_zip": lambda count, folder: _make_zip(count, folder / "archive"),
    "make_nih": lambda count, folder: _make_nih(count, folder / "archive"),
}


def _index(archive: str, folder: Path, **settings: Any) -> dict[str, float]:
    from cxrpipe.archives.index import index

    return _measured(lambda: index(archive, str(folder / "table" / "studies.parquet"), **settings))


def _index_pages(count: int, folder: Path, name: Callable[[int], str]) -> dict[str, float]:
    from cxrpipe.storage import s3

    s3.client = lambda: _Pages(count, name)  # type: ignore[assignment]
    return _index("s3://stub/cxr", folder)


def _measured(work: Callable[[], Any]) -> dict[str, float]:
    start_mb, started, cpu = _peak_mb(), time.monotonic(), time.process_time()
    work()
    return {
        "start_mb": start_mb,
        "seconds": time.monotonic() - started,
        "cpu_s": time.process_time() - cpu,
        "peak_mb": _peak_mb(),
    }


def _peak_mb() -> float:
    """Largest resident set so far. Not getrusage's: that one survives exec, and so begins with the parent's."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))


# ---- the archives ---------------------------------------------------------------------------------------------


class _Pages:
    """As much of a boto3 S3 client as a listing uses."""

    def __init__(self, count: int, name: Callable[[int], str]) -> None:
        import boto3

        self._count, self._name = count, name
        self.exceptions = boto3.client("s3", region_name="us-east-1").exceptions

    def head_object(self, **_: str) -> Any:
        raise self.exceptions.ClientError({"Error": {"Code": "404"}}, "HeadObject")

    def get_paginator(self, _: str) -> "_Pages":
        return self

    def paginate(self, Bucket: str, Prefix: str) -> Iterator[dict]:  # noqa: N803
        for first in range(0, self._count, 1000):
            numbers = range(first, min(first + 1000, self._count))
            yield {
                "Contents": [
                    {
                        "Key": Prefix + self._name(number),
                        "Size": 400_000 + number,
                        "ETag": f'"{number * 2654435761:032x}"',
                    }
                    for number in numbers
                ]
            }


def _make_zip(count: int, folder: Path) -> None:
    folder.mkdir()
    with zipfile.ZipFile(folder / "chest.zip", "w") as packed:
        for number in range(count):
            packed.writestr(
                f"train/{('NORMAL', 'PNEUMONIA')[number % 2]}/{number:08}.png", _TINY + str(number).encode()
            )


def _make_nih(count: int, folder: Path) -> None:
    """Twelve tar.gz files and the CSV, as published; three and a half studies of a patient, as there."""
    folder.mkdir()
    names = [f"{number * 2 // 7 + 1:08}_{number % 100:03}.png" for number in range(count)]
    with open(folder / "Data_Entry_2017_v2020.csv", "w") as table:
        table.write(_HEADER + "\n")
        for number, name in enumerate(names):
            labels = ("No Finding", "Effusion|Mass", "Infiltration")[number % 3]
            table.write(f"{name},{labels},{number % 9},{int(name[:8])},{20 + number % 60},F,PA,2682,2749,0.143,0.143\n")
    (folder / "test_list.txt").write_text("\n".join(name for name in names if int(name[:8]) % 5 == 0))
    (folder / "train_val_list.txt").write_text("\n".join(name for name in names if int(name[:8]) % 5))
    for tar in range(12):
        with tarfile.open(folder / f"images_{tar + 1:03}.tar.gz", "w:gz", compresslevel=1) as packed:
            for name in names[tar * count // 12 : (tar + 1) * count // 12]:
                entry = tarfile.TarInfo(f"images/{name}")
                entry.size = len(_TINY)
                packed.addfile(entry, io.BytesIO(_TINY))


if __name__ == "__main__":
    main()

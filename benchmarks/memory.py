"""Memory and cost of the Ray job as it grows: python benchmarks/memory.py [--studies 300,3000,30000] [--stub].

A table of so many studies, each a view of 64 x 64 px in a tar; a tiny network; one process per size. With --stub
nothing is decoded: what is left is what the job itself costs for each row. Per size: the peak of all processes'
proportional set size, the driver's resident peak, seconds, studies per second in steady state, and what the stages
(prepare, predict, finish, land) took for each study, added up over their processes.
"""

import argparse
import functools
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import cv2
import numpy as np
import psutil

from cxrpipe.archives.study_table_writer import write_study_table
from cxrpipe.config import ScoreConfig
from cxrpipe.images.letterbox import Preparation
from cxrpipe.images.squares import Decoded, decode_view
from cxrpipe.models.card import Card
from cxrpipe.models.folder import save_model
from cxrpipe.records import Study, View, runs_of

SIDE_PX = 32
KINDS = 100
"""Different images: the table names each many times, for only their number matters."""


class Measured(NamedTuple):
    studies: int
    seconds: float
    per_second: float
    stages_ms: float
    """For each study."""
    all_mb: float
    driver_mb: float


def nothing_decoded(data: bytes, name: str, preparations: Sequence[Preparation]) -> Decoded:
    """What stands for decoding under --stub."""
    square = np.full((SIDE_PX, SIDE_PX), len(data) % 255, np.uint8)
    square[0] = 255
    return Decoded(64, 64, False, dict.fromkeys(preparations, square))


def make(folder: Path, studies: int) -> None:
    """A tar of images, a table that names them, a model."""
    import torch  # not above: the processes that import `nothing_decoded` from this file would all pay for torch

    from cxrpipe.models import architectures, weights

    rng = np.random.default_rng(0)
    places = []
    with tarfile.open(folder / "images.tar", "w") as tar:
        for number in range(KINDS):
            png = cv2.imencode(".png", rng.integers(0, 256, (64, 64), dtype=np.uint8))[1].tobytes()
            entry = tarfile.TarInfo(f"{number}.png")
            entry.size = len(png)
            tar.addfile(entry, io.BytesIO(png))
            places.append((entry.name, tar.offset - -(-len(png) // 512) * 512, len(png)))
    with tempfile.TemporaryDirectory() as scratch:
        table = str(folder / "studies.parquet")
        found = _studies(folder, studies, places)
        write_study_table(found, table, archive=str(folder), layout="table", split_seed=0, scratch=Path(scratch))
    torch.manual_seed(0)
    card = Card(
        task="classify", architecture="smallcnn", side_px=SIDE_PX, mean=0.5, std=0.25, findings=("A", "B"), views="all"
    )
    save_model(str(folder / "model"), card, weights.weights_bytes(architectures.build_from_card(card)), facts={})


def _studies(folder: Path, studies: int, places: list[tuple[str, int, int]]) -> Iterator[Study]:
    for number in range(studies):
        entry, offset, length = places[number % KINDS]
        view = View(url=str(folder / "images.tar"), entry=entry, offset=offset, length=length)
        yield Study(
            study_id=f"{number:010d}", patient_id=str(number // 2), views=(view,), split="test", labels={"A": 0.0}
        )


def work(folder: Path, stub: bool) -> None:
    """Score the table, in this process and Ray's."""
    from memory import nothing_decoded  # by a name that other processes can import too

    from cxrpipe.on_ray.score import engine
    from cxrpipe.programs.score import score_archive

    config = ScoreConfig(
        studies=str(folder / "studies.parquet"),
        models=(str(folder / "model"),),
        out=str(folder / "out"),
        part_studies=1_000,
        compile="off",
    )
    assert score_archive(config, functools.partial(engine, decode=nothing_decoded if stub else decode_view)) == 0


def measure(studies: int, stub: bool) -> Measured:
    with tempfile.TemporaryDirectory(prefix="cxrpipe-memory-") as scratch:
        folder = Path(scratch)
        make(folder, studies)
        command = [sys.executable, __file__, "--work", scratch, *(["--stub"] if stub else [])]
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        everything = driver = 0.0
        while child.poll() is None:
            everything, driver = max(everything, _all_mb(child.pid)), max(driver, _resident_mb(child.pid))
            time.sleep(0.5)
        assert child.returncode == 0
        (account,) = runs_of(str(folder / "out"))
        stages_ms = 1_000 * sum(account.stage_seconds.values()) / studies
        return Measured(studies, account.seconds, account.studies_per_second, stages_ms, everything, driver)


def _all_mb(pid: int) -> float:
    """Shared pages count once, in parts: the object store is mapped by all."""
    total = 0.0
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        try:
            total += process.memory_full_info().pss / 1e6
        except psutil.Error:
            continue  # it has just ended
    return total


def _resident_mb(pid: int) -> float:
    try:
        return psutil.Process(pid).memory_info().rss / 1e6
    except psutil.Error:
        return 0.0


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--studies", default="300,3000,30000", help="Sizes, with commas between.")
    asked.add_argument("--stub", action="store_true", help="Decode nothing.")
    asked.add_argument("--work", help=argparse.SUPPRESS)
    given = asked.parse_args()
    if given.work:
        work(Path(given.work), given.stub)
        return
    print(f"{'studies':>9} {'seconds':>9} {'studies/s':>10} {'stages, ms':>11} {'all, MB':>9} {'driver, MB':>11}")
    for size in given.studies.split(","):
        row = measure(int(size), given.stub)
        print(
            f"{row.studies:>9,} {row.seconds:>9.1f} {row.per_second:>10.1f} {row.stages_ms:>11.2f}"
            f" {row.all_mb:>9.0f} {row.driver_mb:>11.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()

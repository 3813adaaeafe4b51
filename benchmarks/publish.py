"""What publishing a run costs: python benchmarks/publish.py [--studies 10000,100000] [--out s3://bucket/root].

Writes the parts of a run as scoring does: 256 studies a part, two members, four findings, a view with a mask of 1.5 kB.
Then reads which studies are done, as a resumed run does first, and publishes the run, each in a process of its own. Per
size: seconds, CPU in µs for each study, and how far the process grew.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import pyarrow as pa

from cxrpipe import storage
from cxrpipe.archives.study_table_writer import write_study_table
from cxrpipe.records import Study, View, score_schema
from cxrpipe.records.score import SCORED_VIEW
from cxrpipe.records.study_table import StudyTable
from cxrpipe.runs.plan import Selection, freeze, new_run
from cxrpipe.runs.publish import publish
from cxrpipe.runs.resume import done_ids
from cxrpipe.runs.root import Run, RunPlan, ScoreRoot

FINDINGS = ("Atelectasis", "Cardiomegaly", "Effusion", "Pneumonia")
MEMBERS = 2
PART = 256
MASK_BYTES = 1_500


def make(folder: Path, out: str, studies: int) -> None:
    """A frozen run with all its parts."""
    table_url = str(folder / "studies.parquet")
    write_study_table(_studies(studies), table_url, archive="/cxr", layout="table", split_seed=0, scratch=folder)
    table = StudyTable(table_url)
    run = new_run(ScoreRoot.at(out), RunPlan("0" * 64, "f" * 64, FINDINGS))
    freeze(run, Selection(table, None, None), table.seek_points)
    rng = np.random.default_rng(0)
    number = 0
    for batch in table.batches(["study_id", "patient_id", "study_digest"]):
        for start in range(0, batch.num_rows, PART):
            rows = _rows(batch.slice(start, PART), rng)
            storage.write_table(storage.join(run.parts, f"part-{number:08d}.parquet"), rows)
            number += 1


def _studies(number: int) -> Iterator[Study]:
    for place in range(number):
        view = View(url=f"/cxr/{place // 10_000:03d}.tar", entry=f"{place:08d}.png", offset=512 * place, length=400_000)
        yield Study(study_id=f"1.2.840.1136.{place:012d}", patient_id=str(place // 2), split="test", views=(view,))


def _rows(ids: pa.Table, rng: np.random.Generator) -> pa.Table:
    """Score rows of these N studies, with values as random as those of real ones."""
    n = ids.num_rows
    columns = {name: ids[name].combine_chunks() for name in ids.column_names}
    columns |= {"fingerprint": pa.array(["f" * 64] * n), "status": pa.array(["ok"] * n)}
    columns |= {name: pa.array(np.ones(n, np.int16)) for name in ("n_views", "n_views_ok")}
    columns |= {"flags": pa.array([[]] * n, pa.list_(pa.string()))}
    for finding in FINDINGS:
        columns |= {
            f"prob_{finding}": pa.array(rng.random(n, np.float32)),
            f"votes_{finding}": pa.array(rng.integers(0, MEMBERS + 1, n, np.int8)),
            f"consensus_{finding}": pa.array(rng.random(n) < 0.5),
            f"member_probs_{finding}": _lists(pa.array(rng.random(n * MEMBERS, np.float32)), MEMBERS),
            f"disagreement_{finding}": pa.array(rng.random(n, np.float32)),
        }
    numbers = rng.random(n * MEMBERS * len(FINDINGS), np.float32)
    view = {
        "url": pa.array(["/cxr/001.tar"] * n),
        "entry": pa.array([f"{study_id[-8:]}.png" for study_id in ids["study_id"].to_pylist()]),
        "view_position": pa.array(["PA"] * n),
        "status": pa.array(["ok"] * n),
        "rows_px": pa.array(rng.integers(900, 3_000, n, np.int32)),
        "columns_px": pa.array(rng.integers(900, 3_000, n, np.int32)),
        "sha256": pa.array([rng.bytes(32).hex() for _ in range(n)]),
        "mask_quality": pa.array(rng.random(n, np.float32)),
        "member_probs": _lists(_lists(pa.array(numbers), len(FINDINGS)), MEMBERS),
    }
    views = [view.get(field.name, pa.nulls(n, field.type)) for field in SCORED_VIEW]
    columns["views"] = _lists(pa.StructArray.from_arrays(views, fields=list(SCORED_VIEW)), 1)
    columns["masks"] = _lists(pa.array([rng.bytes(int(size)) for size in rng.normal(MASK_BYTES, 300, n).clip(100)]), 1)
    schema = score_schema(FINDINGS)
    return pa.table([columns.get(field.name, pa.nulls(n, field.type)) for field in schema], schema=schema)


def _lists(values: pa.Array, length: int) -> pa.ListArray:
    return pa.ListArray.from_arrays(np.arange(0, len(values) + 1, length, dtype=np.int32), values)


class Cost(NamedTuple):
    seconds: float
    cpu_s: float
    grown_mb: float
    """Growth of the resident memory, at most."""


def cost_of(work: Callable[[Run], object], out: str) -> Cost:
    """What a piece of work on the only run of a root costs this process."""
    (run,) = ScoreRoot.at(out).runs()
    process, ended = psutil.Process(), threading.Event()
    before = most = process.memory_info().rss

    def watch() -> None:
        nonlocal most
        while not ended.wait(0.02):
            most = max(most, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    started, cpu = time.perf_counter(), time.process_time()
    work(run)
    cost = time.perf_counter() - started, time.process_time() - cpu
    ended.set()
    watcher.join()
    return Cost(*cost, (most - before) / 1e6)


WORK: dict[str, Callable[[Run], object]] = {"done_ids": done_ids, "publish": publish}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", default="10000,100000", help="Sizes, with commas between.")
    parser.add_argument("--out", help="An empty folder or prefix for the score roots. Default: a temporary folder.")
    parser.add_argument("--work", choices=[*WORK], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        print(*cost_of(WORK[given.work], given.out))
        return
    print(f"{'studies':>9} {'work':>9} {'seconds':>8} {'CPU, µs a study':>16} {'grown, MB':>10}")
    for size in map(int, given.studies.split(",")):
        with tempfile.TemporaryDirectory(prefix="cxrpipe-publish-") as folder:
            out = storage.join(given.out or folder, f"root-{size}-{os.getpid()}")
            make(Path(folder), out, size)
            for name in WORK:
                command = [sys.executable, __file__, "--work", name, "--out", out]
                printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                cost = Cost(*map(float, printed.split()))
                cpu_us = 1e6 * cost.cpu_s / size
                print(f"{size:>9,} {name:>9} {cost.seconds:>8.1f} {cpu_us:>16.1f} {cost.grown_mb:>10.0f}", flush=True)


if __name__ == "__main__":
    main()

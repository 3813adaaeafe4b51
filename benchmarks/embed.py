"""What feature vectors cost, and that each view has its own exactly once: python benchmarks/embed.py [--views 100000].

Writes synthetic views of 28 px in MedMNIST's layout and a small network (smallcnn: vectors of 512 numbers). SIGKILL
ends `score --embed` when half of the views have landed, and it is started again. Then every study of the table must
have one published row, with one vector of the right length. Prints bytes for each view on disk, seconds, and CPU for
each view of the second attempt, its start-up included. --plain scores the same views without vectors, too.
"""

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import cpu
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from cxrpipe import storage
from cxrpipe.archives.index import index
from cxrpipe.models import architectures, weights
from cxrpipe.models.card import Card
from cxrpipe.models.folder import save_model
from cxrpipe.records import complete_runs
from cxrpipe.records.study_table import StudyTable

SIDE_PX = 28
FINDINGS = ("Pneumonia",)
NUMBERS = 512
PART_STUDIES = 256


class Attempt(NamedTuple):
    """A call of `score`, ended or killed."""

    seconds: float
    cpu: Counter[str]
    """Part → CPU seconds."""
    output: str


def write_archive(folder: Path, views: int) -> StudyTable:
    """An npz of blurred noise, 80% of it for training, and its study table."""
    random, arrays = np.random.default_rng(0), {}
    for part, share in (("train", 0.8), ("val", 0.1), ("test", 0.1)):
        number = round(views * share)
        coarse = random.integers(0, 256, (number, 7, 7), dtype=np.uint8)
        arrays[f"{part}_images"] = coarse.repeat(4, axis=1).repeat(4, axis=2)
        arrays[f"{part}_labels"] = random.integers(0, 2, (number, 1), dtype=np.uint8)
    np.savez(folder / "pneumoniamnist.npz", **arrays)
    index(str(folder / "pneumoniamnist.npz"), str(folder / "studies.parquet"))
    return StudyTable(str(folder / "studies.parquet"))


def write_model(folder: Path) -> str:
    """A network with random weights. Its BatchNorms know noise, or its vectors would be all alike."""
    torch.manual_seed(0)
    card = Card(task="classify", architecture="smallcnn", side_px=SIDE_PX, mean=0.5, std=0.25, findings=FINDINGS)
    network = architectures.build_from_card(card)
    with torch.no_grad():
        network.train()(torch.randn(256, 1, SIDE_PX, SIDE_PX))
    return save_model(str(folder / "model"), card, weights.weights_bytes(network), facts={}).url


def attempt(command: list[str], log: Path, kill_at: tuple[str, int] | None = None) -> Attempt:
    """Run a command. `kill_at`: a score root, and how many of its parts must have landed before SIGKILL."""
    start = time.perf_counter()
    with cpu.CpuSeconds() as watched, log.open("w") as output:
        before = watched.look()
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        while process.poll() is None:
            if kill_at and parts(kill_at[0]) >= kill_at[1]:
                process.send_signal(signal.SIGKILL)
                process.wait()
            time.sleep(0.2)
        watched.look()
        spent = watched.look() - before
    expected = -signal.SIGKILL if kill_at else 0
    if process.returncode != expected:
        raise SystemExit(f"score ended with {process.returncode}, expected {expected}:\n{log.read_text()[-3_000:]}")
    return Attempt(time.perf_counter() - start, spent, log.read_text())


def parts(root: str) -> int:
    """The parts of the only run that have landed."""
    return sum("/parts/" in part.url for part in storage.listing(storage.join(root, "runs")))


class Published(NamedTuple):
    """The published files of the only run."""

    rows: int
    vectors: int
    """Views with a vector of the right length."""
    bytes: int
    vector_bytes: int


def published(root: str, table: StudyTable) -> Published:
    """Reconcile the published rows with the study table. SystemExit where a study has no row, or two."""
    runs = complete_runs(root)
    (report,) = runs
    ids: list[str] = []
    vectors = vector_bytes = size = 0
    for url in runs.files(report):
        file = pq.ParquetFile(url)
        size += Path(url).stat().st_size
        for group in range(file.metadata.num_row_groups):
            columns = map(file.metadata.row_group(group).column, range(file.metadata.num_columns))
            vector_bytes += sum(
                each.total_compressed_size for each in columns if each.path_in_schema.startswith("feature_vectors.")
            )
            rows = file.read_row_group(group)
            ids += rows["study_id"].to_pylist()
            if "feature_vectors" in rows.column_names:
                lengths = pc.list_value_length(pc.list_flatten(pc.list_flatten(rows["feature_vectors"])))
                vectors += int(pc.sum(pc.equal(lengths, NUMBERS)).as_py())
    wanted = [study_id for batch in table.batches(["study_id"]) for study_id in batch["study_id"].to_pylist()]
    if sorted(ids) != sorted(wanted):
        raise SystemExit(f"{len(ids):,} rows of {len(set(ids)):,} studies; expected one of each of {len(wanted):,}")
    return Published(len(ids), vectors, size, vector_bytes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--views", type=int, default=100_000, help="Synthetic views, one for each study.")
    parser.add_argument("--plain", action="store_true", help="Also score the views without vectors.")
    parser.add_argument("--scratch", help="Folder for all that is written. Default: a temporary one.")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cxrpipe-", dir=given.scratch) as scratch:
        folder = Path(scratch)
        table, root, log = write_archive(folder, given.views), str(folder / "root"), folder / "log"
        command = [sys.executable, "-m", "cxrpipe", "score", "--studies", table.url, "--models", write_model(folder)]
        command += ["--part-studies", str(PART_STUDIES), "--precision", "fp32", "--wait-for-lock-s", "300"]
        embed = [*command, "--out", root, "--embed"]
        killed = attempt(embed, log, kill_at=(root, max(1, given.views // PART_STUDIES // 2)))
        resumed = attempt(embed, log)
        embedded, report = published(root, table), complete_runs(root).newest
        before = report.scored_before_resume
        if not 0 < before < given.views or embedded.vectors != given.views:
            raise SystemExit(f"{before:,} views before the kill, {embedded.vectors:,} vectors of {given.views:,} views")
        print(f"killed after {killed.seconds:.0f} s and {before:,} views; resumed: {resumed.seconds:.0f} s more")
        print(
            f"exactly once: {embedded.rows:,} of {given.views:,} studies, "
            f"{embedded.vectors:,} vectors of {NUMBERS} numbers"
        )
        size, of_vectors = embedded.bytes / given.views, embedded.vector_bytes / given.views
        print(f"on disk: {size:,.0f} bytes a view, of which the vector takes {of_vectors:,.0f}")
        print(f"CPU a view, with vectors:\n{cpu.table(Counter(), resumed.cpu, given.views - before)}")
        if given.plain:
            plain_root = str(folder / "plain")
            plain = attempt([*command, "--out", plain_root], log)
            without = published(plain_root, table)
            print(
                f"without vectors: {plain.seconds:.0f} s, {without.bytes / given.views:,.0f} bytes a view; CPU a view:"
            )
            print(cpu.table(Counter(), plain.cpu, given.views))


if __name__ == "__main__":
    main()

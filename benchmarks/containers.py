"""Memory and time of indexing a tar and a tar.gz, and of reading entries of them at random.

    python benchmarks/containers.py --folder /tmp/containers --tar-gb 3 --tar-gz-gb 1 --reads 500

Each measurement is a process of its own; its memory is the most that was ever resident (ru_maxrss). The entries are
random bytes, so a tar.gz is as large as what it holds. What was made is deleted at the end.
"""

import argparse
import io
import json
import random
import resource
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

ENTRY_BYTES = 400_000  # a PNG of ChestX-ray14
LIMIT_MB = 300


def make(path: Path, size_bytes: int) -> None:
    rng = random.Random(0)
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for number in range(size_bytes // ENTRY_BYTES):
            entry = tarfile.TarInfo(f"images/{number:08}_000.png")
            entry.size = ENTRY_BYTES
            tar.addfile(entry, io.BytesIO(rng.randbytes(ENTRY_BYTES)))


def index_one(archive: str, out: str, reads: int) -> None:
    from cxrpipe.archives.index import index

    index(archive, out, layout="images")


def read_some(archive: str, out: str, reads: int) -> None:
    from cxrpipe.archives.reader import Reader
    from cxrpipe.records.study_table import StudyTable

    table = StudyTable(out)
    views = [study.views[0] for study in table.studies()]
    rng = random.Random(0)
    with Reader(table.seek_points) as reader:
        for _ in range(reads):
            reader.read(rng.choice(views))


WORK = {"index": index_one, "read": read_some}


def measured(what: str, archive: Path, out: Path, reads: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--work", what, "--archive", archive, "--out", out, "--reads", str(reads)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def work(what: str, archive: str, out: str, reads: int) -> None:
    start = time.monotonic()
    WORK[what](archive, out, reads)
    seconds = time.monotonic() - start
    print(json.dumps({"mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "seconds": seconds}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the containers are made; must not exist")
    parser.add_argument("--tar-gb", type=float, default=3)
    parser.add_argument("--tar-gz-gb", type=float, default=1)
    parser.add_argument("--reads", type=int, default=500)
    for internal in ("--work", "--archive", "--out"):
        parser.add_argument(internal, help=argparse.SUPPRESS)
    settings = parser.parse_args()
    if settings.work:
        work(settings.work, settings.archive, settings.out, settings.reads)
        return
    settings.folder.mkdir(parents=True)
    try:
        print("| container | work | seconds | peak memory, MB | of the limit |\n|---|---|---|---|---|")
        for name, size_gb in (("a.tar", settings.tar_gb), ("a.tar.gz", settings.tar_gz_gb)):
            archive = settings.folder / name
            make(archive, int(size_gb * 1e9))
            for what, label in (("index", "index"), ("read", f"read {settings.reads} at random")):
                found = measured(what, archive, settings.folder / f"{name}.table" / "studies.parquet", settings.reads)
                figures = f"{found['seconds']:.1f} | {found['mb']:.0f} | {found['mb'] / LIMIT_MB:.2f}"
                print(f"| {size_gb:g} GB {name[2:]} | {label} | {figures} |", flush=True)
    finally:
        shutil.rmtree(settings.folder)


if __name__ == "__main__":
    main()

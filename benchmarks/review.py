"""What the reading room costs over a large score root: python benchmarks/review.py [--studies 1000000] [--out s3://…]

Makes a root of synthetic rows with masks and its study table (a minute or two), starts `cxrpipe review` on it as a
person does, and asks for its pages over HTTP, one after another. *cold*: from the start of the program to the first
page, after the files have left the page cache. *warm*: 50 requests of each kind, no two alike where there are many.
Printed are seconds of the clock, and of the processor, which tell more on a busy machine; and the largest resident
memory of the server. Not covered: films, whose archive does not exist here.
"""

import argparse
import http.client
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import numpy as np
import psutil
from review_parts import root

from cxrpipe import storage
from cxrpipe.review.filters import SORTS, Filter

REQUESTS = 50
PAGE = 50


class Server:
    """The running program, and a reader's browser."""

    def __init__(self, process: psutil.Process, address: str) -> None:
        self.process = process
        self._place = urlsplit(address).netloc
        answer = self._ask(address[address.index(self._place) + len(self._place) :], {})
        self._cookie = answer.headers["Set-Cookie"].partition(";")[0]

    def get(self, path: str) -> str:
        answer = self._ask(path, {"Cookie": self._cookie})
        if answer.status != 200:
            raise SystemExit(f"{path}: status {answer.status}")
        return answer.text

    def cpu_s(self) -> float:
        return sum(self.process.cpu_times()[:2])

    class _Answer(NamedTuple):
        status: int
        headers: http.client.HTTPMessage
        text: str

    def _ask(self, path: str, headers: dict[str, str]) -> _Answer:
        connection = http.client.HTTPConnection(self._place, timeout=600)
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        read = self._Answer(answer.status, answer.headers, answer.read().decode())
        connection.close()
        return read


@contextmanager
def serving(source: str, table: Path) -> Iterator[Server]:
    command = [sys.executable, "-m", "cxrpipe", "review", source, "--studies", str(table), "--port", "0"]
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as program,
    ):
        try:
            assert program.stdout
            address = next((found[0] for line in program.stdout if (found := re.search(r"http://\S+", line))), None)
            if address is None:
                raise SystemExit("the program ended before it listened")
            yield Server(psutil.Process(program.pid), address)
        except SystemExit:
            log.seek(0)
            print(*log.readlines()[-20:], sep="", file=sys.stderr)
            raise
        finally:
            program.terminate()


def questions(studies: int, rng: random.Random) -> dict[str, Callable[[int], str]]:
    """Kind of page → the path of its n-th request."""
    conditions: list[dict[str, Any]] = [
        {"prob_from": 0.5, "votes": 2},
        {"flag": "lungs_cropped"},
        {"label": "1", "split": "test", "sex": "F", "age_from": 50.0},
        {"status": "partial"},
        {"decision": "positive", "disagreement_from": 0.1},
    ]

    def listed(number: int, **asked: Any) -> str:
        filter_ = Filter(finding=root.FINDINGS[number % len(root.FINDINGS)], **asked)
        return f"/studies?{filter_.query()}"

    def study(_: int) -> str:
        (study_id,) = root.study_ids(np.array([rng.randrange(studies)]))
        return f"/study/{quote(study_id, safe='')}"

    return {
        "first page": lambda number: "/studies",
        "filtered": lambda number: listed(number, **conditions[number % len(conditions)]),
        "part of an id": lambda number: f"/studies?text={rng.randrange(10**5):05d}",
        "sorted": lambda number: listed(number, sort=SORTS[number % len(SORTS)], descending=False),
        "any page": lambda number: listed(number, page=rng.randrange(2, studies // PAGE)),
        "study": study,
        "tonight": lambda number: "/",
        "failures": lambda number: "/failures",
        "disagreement": lambda number: "/disagreement",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where the root is made, and found again by the next measurement")
    parser.add_argument("--out", help="score root, such as s3://bucket/scored; without it: in the folder")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = asked.folder or Path(scratch)
        source, table = asked.out or str(folder / "scored"), folder / "table" / "studies.parquet"
        if not table.exists() or not storage.folders(storage.join(source, "runs")):
            root.make(source, table, asked.studies)
        _measure(source, table, asked.studies)


def _measure(source: str, table: Path, studies: int) -> None:
    _evict([table, *Path(source).rglob("*.parquet")])
    start = time.monotonic()
    with serving(source, table) as server:
        server.get("/studies")
        print(f"{studies:,} studies in {source}, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        print(f"{'page':18}{'p50, s':>9}{'p95, s':>9}{'CPU, s':>9}")
        print(f"{'cold':18}{'':9}{time.monotonic() - start:9.2f}{server.cpu_s():9.2f}")
        for kind, path in questions(studies, random.Random(0)).items():
            seconds, cpu_s = _times(server, [path(number) for number in range(REQUESTS)])
            print(
                f"{kind:18}{np.percentile(seconds, 50):9.3f}{np.percentile(seconds, 95):9.3f}{cpu_s:9.3f}", flush=True
            )
        print(f"largest resident memory {_largest_mb(server.process):,.0f} MB")


def _times(server: Server, paths: list[str]) -> tuple[list[float], float]:
    """Seconds of every request, and seconds of the server's processor for one, on average."""
    seconds, cpu_s = [], server.cpu_s()
    for path in paths:
        start = time.monotonic()
        server.get(path)
        seconds.append(time.monotonic() - start)
    return seconds, (server.cpu_s() - cpu_s) / len(paths)


def _evict(files: list[Path]) -> None:
    """Let the kernel forget the content of files, so that the next program reads them from the disk."""
    for file in files:
        with open(file, "rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _largest_mb(process: psutil.Process) -> float:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1e3


if __name__ == "__main__":
    main()

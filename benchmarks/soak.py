"""Night after night, with faults: python benchmarks/soak.py --minutes 30 [--seed 0] [--out FILE].

The program `nightly`, on Ray, for two archives in turn that grow and change each day. One lies on S3, with its score
root, behind the proxy of the tests, which makes faults; one on disk, its score root on a disk of 48 MB (a tmpfs, which
needs root) that can be full. Actors and whole nights are killed, containers packed again while they are read. After
each round:

- the exit status is one that the fault may have; after a night that nothing disturbs, and one whose actors are killed,
  it is 0, whatever became of the nights before
- what was published before is there, readable, row by row; no study of a run is doubled, none scored twice with one
  digest, and none from an image that it never had
- after status 0 every study of the archive stands in the table, and in the scores once with its digest, `ok`, with the
  sha256 of the images that were put there; no run is left open (where containers were packed again: after the next 0)
- a night that ended by itself has left nothing in its folder for temporary files; of every night all processes are
  gone after 90 s

One line a round; at the end the peak of the driver, which must not have grown by a quarter. Exit status 1 at the first
of these that does not hold. Not covered: several machines, real S3, images that cannot be read.
"""

import argparse
import contextlib
import itertools
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import psutil
from builders import classifier
from faults import FaultyProxy
from processes import finish, start
from s3server import S3Server
from soaking import checks
from soaking.days import Archive
from soaking.troubles import ANYWHERE, FAULTS, Fault, Place

from cxrpipe import storage
from cxrpipe.records.study_table import StudyTable

NIGHT_LIMIT_S = 600
GONE_S = 90
"""Ray's agents outlive a driver that is killed for about a minute."""
DISK_BYTES = 48 << 20
GROWTH = 1.25


class Night(NamedTuple):
    status: int
    seconds: float
    driver_mb: float
    """Resident, at its peak."""
    output: str
    session: int
    """The id of the session of all its processes."""
    scratch: Path
    """Its folder for temporary files."""


def run_night(place: Place, model: str, scratch: Path, fault: Fault) -> Night:
    scratch.mkdir()
    command = ["jobs/nightly.py", f"--archive={place.archive.url}", f"--studies={place.studies}", f"--out={place.out}"]
    command += [f"--models={model}", "--batch-studies=5", "--part-studies=10", "--compile=off"]
    begun, peak = time.monotonic(), 0
    with fault.begin(place) as during, ThreadPoolExecutor(1) as reading:
        process = start(*command, env=place.env | {"TMPDIR": str(scratch)})
        watched = psutil.Process(process.pid)
        ended = reading.submit(finish, process, NIGHT_LIMIT_S)
        try:
            while not ended.done():
                during(process)
                with contextlib.suppress(psutil.Error):
                    peak = max(peak, watched.memory_info().rss)
                time.sleep(0.1)
        except KeyboardInterrupt:
            process.terminate()
            raise
    status, output = ended.result()
    return Night(status, time.monotonic() - begun, peak / 1e6, output, process.pid, scratch)


class Soak:
    """Rounds, and what is known of the earlier ones."""

    def __init__(self, scratch: Path, model: str, say: Callable[[str], None]) -> None:
        self._scratch, self._model, self._say = scratch, model, say
        self._round = 0
        self._ended: dict[int, float] = {}
        """Session of a night, some of whose processes may be there still → when it ended."""
        self.peaks_mb: dict[str, list[float]] = {}
        """By place: of the nights that ended with 0 and published something."""
        self.counts: Counter[tuple[str, int]] = Counter()
        """Fault and exit status → nights."""

    def play(self, place: Place, name: str) -> bool:
        """One round; whether its night ended with 0."""
        self._round += 1
        before = checks.published_rows(place.out)
        night = run_night(place, self._model, self._scratch / str(self._round), FAULTS[name])
        self._ended[night.session] = time.monotonic()
        self.counts[name, night.status] += 1
        table = StudyTable(place.studies).rows if storage.stat(place.studies) else 0
        try:
            after = checks.published_rows(place.out)
            rows = len({(study, digest) for study, digest, _ in itertools.chain(*after.values())})
            self._say(
                f"{self._round:>5}  {place.name:<4}  {name:<16} {night.status:>6} {night.seconds:>8.1f}"
                f" {table:>8,} {rows:>10,} {night.driver_mb:>11.0f}"
            )
            expected = FAULTS[name].statuses
            checks.require(night.status in expected, f"exit status {night.status}; expected one of {expected}")
            checks.kept(before, after)
            checks.its_own(place)
            if night.status == 0:
                checks.closed(place)
            if night.status == 0 and FAULTS[name].settles:
                checks.complete(place, after)
            if night.status == 0 and len(after) > len(before):
                self.peaks_mb.setdefault(place.name, []).append(night.driver_mb)
            left = list(night.scratch.iterdir()) if night.status >= 0 else []
            checks.require(not left, f"a night that ended by itself has left {left}")
            self.check_gone()
        except AssertionError as error:
            raise checks.ViolationError(
                f"{night.output[-4000:]}\nround {self._round}, {place.name}, {name}: {error}"
            ) from error
        return night.status == 0

    def check_gone(self, wait: bool = False) -> None:
        """Nothing of nights that are over for long is left; `wait`: nor of the others, then."""
        for session, ended in list(self._ended.items()):
            while wait and checks.left_behind(session) and time.monotonic() < ended + GONE_S:
                time.sleep(1)
            left = checks.left_behind(session)
            checks.require(not left or time.monotonic() < ended + GONE_S, f"after {GONE_S} s there are still {left}")
            if not left:
                del self._ended[session]

    def account(self) -> None:
        """What has been, and whether the driver has grown."""
        for (fault, status), nights in sorted(self.counts.items()):
            self._say(f"{nights:>5}  {fault:<16} {status:>6}")
        for place, peaks in self.peaks_mb.items():
            some = max(1, len(peaks) // 4)
            first, last = statistics.median(peaks[:some]), statistics.median(peaks[-some:])
            self._say(f"driver, {place}: {first:.0f} MB in the first of {len(peaks)} nights, {last:.0f} MB in the last")
            checks.require(last < GROWTH * first, f"the driver has grown from {first:.0f} MB to {last:.0f} MB")


def soak(scratch: Path, minutes: float, seed: int, say: Callable[[str], None]) -> None:
    end = time.monotonic() + 60 * minutes
    with ExitStack() as opened:
        places = make_places(scratch, random.Random(seed), opened)
        rounds = Soak(scratch, classifier(scratch / "model", architecture="smallcnn", views="all").url, say)
        say("round  place fault            status  seconds  studies  published  driver, MB")
        for place in places:
            place.archive.grow()
            rounds.play(place, "none")
        bags: dict[str, list[str]] = {place.name: [] for place in places}
        for place in itertools.cycle(places):
            if time.monotonic() > end:
                break
            bag = bags[place.name]
            bag[:] = bag or place.chance.sample(place.faults, len(place.faults))
            place.archive.grow()
            ended_well = rounds.play(place, bag.pop())
            if not ended_well and place.chance.random() < 0.5:  # the same command at once, and not next night
                rounds.play(place, "none")
        for place in places:
            rounds.play(place, "none")
        rounds.check_gone(wait=True)
        rounds.account()


def make_places(scratch: Path, chance: random.Random, opened: ExitStack) -> list[Place]:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    server = opened.enter_context(S3Server(scratch / "s3"))
    proxy = opened.enter_context(FaultyProxy(server.endpoint))
    os.environ |= server.env()  # what is put and looked at by us does not pass the proxy
    server.boto().create_bucket(Bucket="soak")
    env = {"RAY_TMPDIR": str(scratch), "AWS_ENDPOINT_URL": proxy.endpoint, "AWS_MAX_ATTEMPTS": "4"}
    disk = scratch / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", disk], check=False)
    may_be_full = mounted.returncode == 0
    if may_be_full:
        opened.callback(lambda: subprocess.run(["umount", "--lazy", disk], check=True))
    else:
        print("no tmpfs can be mounted here: no disk will be full", file=sys.stderr)

    def place(name: str, data: str, made: str, faults: tuple[str, ...]) -> Place:
        own = random.Random(chance.getrandbits(32))
        archive = Archive(f"{data}/archive", own)
        return Place(
            name, archive, f"{made}/studies.parquet", f"{made}/scores", env, (*ANYWHERE, *faults), proxy, disk, own
        )

    return [
        place("s3", "s3://soak", "s3://soak", ("store flaky", "store away")),
        place("disk", str(scratch), str(disk), ("disk full",) * 2 * may_be_full),
    ]


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--minutes", type=float, default=30, help="No round begins after.")
    asked.add_argument("--seed", type=int, default=0, help="Of archives and faults.")
    asked.add_argument("--out", type=Path, help="A file that gets what is printed.")
    given = asked.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a soak that is ended takes its night and its disk along
    with ExitStack() as opened:
        file = opened.enter_context(given.out.open("a")) if given.out else None

        def say(line: str) -> None:
            for where in (sys.stdout, file):
                if where:
                    print(line, file=where, flush=True)

        scratch = Path(tempfile.mkdtemp(prefix="soak-"))
        try:
            soak(scratch, given.minutes, given.seed, say)
        except AssertionError as error:
            say(f"{error}\nviolated; what there is, is in {scratch}")
            sys.exit(1)
        shutil.rmtree(scratch)
        say("all of it held")


if __name__ == "__main__":
    main()

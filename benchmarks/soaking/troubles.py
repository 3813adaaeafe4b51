"""What befalls a night, for `soak.py`: each trouble begins with it, and is over when it has ended."""

import contextlib
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import NamedTuple

import psutil
from faults import CUT_BODY, LOST_ANSWER, RESET, RESET_IN_BODY, FaultyProxy, refusal, slow_body
from processes import actors_at_work
from soaking.days import Archive

LEFT_BYTES = 200 << 10
"""Of a full disk at most: between none and this a night breaks at any of its steps."""


class Place(NamedTuple):
    """An archive and what is made of it."""

    name: str
    archive: Archive
    studies: str
    out: str
    env: dict[str, str]
    faults: tuple[str, ...]
    proxy: FaultyProxy
    disk: Path
    """Where the table and the score root lie, or what is never full."""
    chance: random.Random


During = Callable[[subprocess.Popen[str]], object]
"""Called ten times a second while the night goes on."""
LONG_S = 30
"""A fault that comes in mid night comes before."""
FLAKY = (refusal(503, "SlowDown"), refusal(500, "InternalError"), RESET, LOST_ANSWER, RESET_IN_BODY, CUT_BODY)
AWAY = (refusal(503, "SlowDown"), refusal(400, "ExpiredToken"), RESET)


@contextlib.contextmanager
def undisturbed(place: Place) -> Iterator[During]:
    yield lambda night: None


@contextlib.contextmanager
def flaky_store(place: Place) -> Iterator[During]:
    """One answer in twenty breaks, and some are slow."""
    dice = random.Random(place.chance.random())  # thrown by the threads of the proxy, nobody knows how often
    for fault in (*FLAKY, slow_body(1.0)):
        place.proxy.fail(fault, only=lambda _: dice.random() < 0.05 / len(FLAKY))
    yield lambda night: None
    place.proxy.heal()


@contextlib.contextmanager
def store_away(place: Place) -> Iterator[During]:
    """From some moment on it answers no more."""
    fault = place.chance.choice(AWAY)
    yield _once(place, lambda night: place.proxy.fail(fault))
    place.proxy.heal()


@contextlib.contextmanager
def full_disk(place: Place) -> Iterator[During]:
    filler = place.disk / "filler"
    left = place.chance.randrange(LEFT_BYTES)
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(place.disk).free - left)
    yield lambda night: None
    filler.unlink()


@contextlib.contextmanager
def killed(place: Place) -> Iterator[During]:
    yield _once(place, lambda night: night.send_signal(SIGKILL))


@contextlib.contextmanager
def terminated(place: Place) -> Iterator[During]:
    yield _once(place, lambda night: night.send_signal(SIGTERM))


@contextlib.contextmanager
def packed_again(place: Place) -> Iterator[During]:
    """A container, while the night reads it."""
    yield _once(place, lambda night: place.archive.pack_again())


@contextlib.contextmanager
def preparer_killed(place: Place) -> Iterator[During]:
    yield _kill_actor("_Preparer")


@contextlib.contextmanager
def predictor_killed(place: Place) -> Iterator[During]:
    yield _kill_actor("_Predictor")


def _once(place: Place, act: During) -> During:
    """Do it once, some time after now."""
    acts = iter([act])
    at = time.monotonic() + place.chance.uniform(1, LONG_S)
    return lambda night: time.monotonic() > at and next(acts, lambda _: None)(night)


def _kill_actor(stage: str) -> During:
    """Kill the first that is seen at work."""
    seen: list[psutil.Process] = []

    def during(night: subprocess.Popen[str]) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            if not seen:
                seen.extend(actors_at_work(night, stage)[:1])
                for actor in seen:
                    actor.kill()

    return during


class Fault(NamedTuple):
    begin: Callable[[Place], AbstractContextManager[During]]
    statuses: tuple[int, ...]
    """That a night may end with. Minus a signal: it was killed, by one that it could not or not yet catch."""
    settles: bool = True
    """Whether, after 0, all of the archive is scored as it is; else what a later night finds is left to it."""


FAULTS = {
    "none": Fault(undisturbed, (0,)),
    "store flaky": Fault(flaky_store, (0, 1)),
    "store away": Fault(store_away, (0, 1)),
    "disk full": Fault(full_disk, (0, 1)),
    "driver SIGKILL": Fault(killed, (0, -SIGKILL)),
    "driver SIGTERM": Fault(terminated, (0, 1, -SIGTERM)),
    "packed again": Fault(packed_again, (0, 1, 3), settles=False),
    "preparer killed": Fault(preparer_killed, (0,)),
    "predictor killed": Fault(predictor_killed, (0,)),
}
ANYWHERE = ("none", "driver SIGKILL", "driver SIGTERM", "packed again", "preparer killed", "predictor killed")

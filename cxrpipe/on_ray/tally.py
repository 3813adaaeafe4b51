"""A tally of a running scoring: predictors report the studies that they have seen, and the studies that ended them.

An actor that takes no CPU keeps the tally. A predictor calls the actor once a batch and does not wait. The driver asks
the actor once a second. Receipts are too late for a progress bar: a part of 256 studies lands long after its first
study was predicted, and the last parts land all at once.
"""

import contextlib
import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cxrpipe import console

_EVERY_S = 1.0
_WAIT_S = 30
_REMEMBERED = 100_000
"""Batches that the actor remembers. Ray repeats a task soon after its first time, or never."""


class _Counts:
    """The actor that counts."""

    def __init__(self) -> None:
        self._studies = 0
        self._batches: dict[str, None] = {}
        self._lines: list[str] = []
        self._suspects: Counter[str] = Counter()

    def add(self, batch: str, studies: int) -> None:
        """Count a batch once, however often Ray repeats its task."""
        if batch in self._batches:
            return
        self._batches[batch] = None
        self._studies += studies
        if len(self._batches) > _REMEMBERED:
            del self._batches[next(iter(self._batches))]

    def say(self, line: str) -> None:
        self._lines.append(line)

    def ended_by(self, study_ids: Sequence[str]) -> None:
        self._suspects.update(study_ids)

    def suspects(self) -> Counter[str]:
        return self._suspects

    def news(self) -> tuple[int, list[str]]:
        """The number of studies so far, and the lines since the last call."""
        lines, self._lines = self._lines, []
        return self._studies, lines


class Tally(NamedTuple):
    """The predictors' handle of the actor. Its methods raise nothing when the actor is gone."""

    actor: Any

    def predicted(self, study_ids: Sequence[str]) -> None:
        batch = hashlib.blake2b("\n".join(study_ids).encode(), digest_size=16).hexdigest()
        with contextlib.suppress(ray.exceptions.RayError):
            self.actor.add.options(num_returns=0).remote(batch, len(study_ids))

    def say(self, line: str) -> None:
        with contextlib.suppress(ray.exceptions.RayError):
            self.actor.say.options(num_returns=0).remote(line)

    def ended_by(self, study_ids: Sequence[str]) -> None:
        """Report the studies that a process has in hand when it ends; waits until the actor knows them."""
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(self.actor.ended_by.remote(study_ids), timeout=_WAIT_S)

    def suspects(self) -> Counter[str]:
        """Study id → how many processes have ended with this study in hand."""
        with contextlib.suppress(ray.exceptions.RayError):
            suspects: Counter[str] = ray.get(self.actor.suspects.remote(), timeout=_WAIT_S)
            return suspects
        return Counter()


@contextlib.contextmanager
def counting(predicted: Callable[[int], object]) -> Iterator[Tally]:
    """A tally for predictors. Until the block ends, their lines are shown and their counts handed to `predicted`."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    actor: Any = ray.remote(_Counts).options(num_cpus=0, scheduling_strategy=here).remote()
    ended = threading.Event()
    thread = threading.Thread(target=_listen, args=(actor, predicted, ended), daemon=True)
    thread.start()
    try:
        yield Tally(actor)
    finally:
        ended.set()
        thread.join(_WAIT_S)
        with contextlib.suppress(ray.exceptions.RayError):
            ray.kill(actor)


def _listen(actor: Any, predicted: Callable[[int], object], ended: threading.Event) -> None:
    before = 0
    with contextlib.suppress(ray.exceptions.RayError):  # without the actor or the session, receipts still count
        while not ended.wait(_EVERY_S):
            studies, lines = ray.get(actor.news.remote(), timeout=_WAIT_S)
            for line in lines:
                console.log(line)
            predicted(studies - before)
            before = studies

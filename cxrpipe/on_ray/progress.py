"""Events from actors and workers to the driver while it waits: progress, epochs, images that are left out."""

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

import ray
import torch
from ray.util.queue import Queue

from cxrpipe import console

_PROBLEMS_SHOWN = 5
_REPORT_EVERY_S = 1.0


class Preparing(NamedTuple):
    """The preparation of so many studies begins."""

    studies: int


class Prepared(NamedTuple):
    """So many further studies are prepared."""

    studies: int
    problems: tuple[str, ...]
    """One sentence for every image that is left out."""


class Resumed(NamedTuple):
    """A training continues from a checkpoint."""

    epoch: int
    """The last epoch that is finished."""


class Noted(NamedTuple):
    """A worker has a line for the person who waits."""

    line: str


class Stepped(NamedTuple):
    """The leading worker made a step."""

    epoch: int
    step: int
    steps: int
    loss: float
    """Mean loss of this worker in the epoch so far."""
    rate: float
    """Learning rate."""


class Finished(NamedTuple):
    """An epoch ended."""

    epoch: int
    description: str
    seconds: float


Event = Preparing | Prepared | Resumed | Noted | Stepped | Finished


def tell(queue: Queue, event: Event) -> None:
    """Put an event into the queue of `listening`. If the actor of the queue is gone, training continues unseen."""
    with contextlib.suppress(ray.exceptions.RayError):
        queue.put(event)


class ProgressReporter:
    """Reports the steps of the leading worker, at most once a second, so that the GPU is rarely synchronised."""

    def __init__(self, events: Queue, steps: int) -> None:
        self._events, self._steps, self._reported = events, steps, 0.0

    def begin(self, epoch: int) -> None:
        """Begin an epoch, counted from 0."""
        self._epoch, self._step = epoch, 0

    def __call__(self, total: torch.Tensor, rate: float) -> None:
        self._step += 1
        if time.monotonic() - self._reported > _REPORT_EVERY_S:
            self._reported = time.monotonic()
            cost, cells = total.tolist()
            tell(self._events, Stepped(self._epoch + 1, self._step, self._steps, cost / max(cells, 1), rate))


@contextlib.contextmanager
def listening(epochs: int) -> Iterator[Queue]:
    """Open a queue for workers, and show its events until the block ends."""
    queue = Queue(actor_options={"num_cpus": 0})
    thread = threading.Thread(target=_listen, args=(queue, epochs), daemon=True)
    thread.start()
    try:
        yield queue
    finally:
        with contextlib.suppress(ray.exceptions.RayError):
            queue.put(None)  # behind all events
        thread.join(timeout=10)
        with contextlib.suppress(ray.exceptions.RayError):
            queue.shutdown()


def _listen(queue: Queue, epochs: int) -> None:
    """Show events until None arrives. It waits without a time limit: polling twice a second costs 1% of two cores."""
    show = _Show(epochs)
    with contextlib.suppress(ray.exceptions.RayError):  # the session may end first
        while event := queue.get():
            show.event(event)
    show.close()


class _Show:
    """Shows one progress bar at a time: first that of the studies, then that of every epoch."""

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs
        self._bar = contextlib.ExitStack()
        self._advance: console.Advance = _no_bar
        self._problems = 0
        self._epoch = self._step = 0

    def event(self, event: Event) -> None:
        match event:
            case Preparing(studies):
                self._new_bar("preparing studies", studies)
            case Prepared(studies, problems):
                self._advance(studies)
                for problem in problems[: max(0, _PROBLEMS_SHOWN - self._problems)]:
                    console.log(f"left out: {problem}")
                self._problems += len(problems)
                if problems and self._problems > _PROBLEMS_SHOWN:
                    console.log(f"images left out so far: {self._problems}")
            case Resumed(epoch):
                console.log(f"training continues after epoch {epoch} of {self._epochs}")
            case Noted(line):
                console.log(line)
            case Stepped(epoch, step, steps, loss, rate):
                if epoch != self._epoch:
                    self._epoch, self._step = epoch, 0
                    self._new_bar(f"epoch {epoch} of {self._epochs}, steps", steps)
                self._advance(step - self._step, f"loss {loss:.4f}, rate {rate:.1e}")
                self._step = step
            case Finished(epoch, description, seconds):
                self.close()
                console.log(f"epoch {epoch:3} of {self._epochs}  {description}  {seconds:.0f} s")

    def _new_bar(self, what: str, total: int) -> None:
        self.close()
        self._advance = self._bar.enter_context(console.progress(what, total))

    def close(self) -> None:
        self._bar.close()
        self._advance = _no_bar


def _no_bar(done: int, note: str = "", /) -> None:
    """No bar is open."""

"""Who worked how long: a stage's threads name themselves, and a receipt says what each of them did."""

import os
import socket
import threading
from collections.abc import Mapping
from typing import NamedTuple

_HOST = socket.gethostname()


class Span(NamedTuple):
    """Work of one thread in one stage."""

    seconds: float
    """Seconds of work."""
    start: float
    """`start` and `end`: seconds since 1970."""
    end: float

    def joined(self, other: "Span") -> "Span":
        return Span(self.seconds + other.seconds, min(self.start, other.start), max(self.end, other.end))


def add_span(spans: dict[str, Span], worker: str, span: Span) -> None:
    """Add the work of a worker to what is known of it."""
    spans[worker] = spans[worker].joined(span) if worker in spans else span


def stage_seconds(stages: Mapping[str, Mapping[str, Span]]) -> dict[str, float]:
    """Stage → worker → span becomes stage → seconds of work, summed over all workers."""
    return {stage: sum(span.seconds for span in workers.values()) for stage, workers in stages.items()}


def worker() -> str:
    """The name of this thread among all threads of all machines."""
    return f"{_HOST}:{os.getpid()}:{threading.get_native_id()}"

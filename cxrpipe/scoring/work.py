"""Who worked how long: a stage's threads name themselves, and a receipt says what each of them did."""

import os
import socket
import threading
from typing import NamedTuple


class Span(NamedTuple):
    """Work of one thread in one stage."""

    seconds: float
    """Seconds of work."""
    start: float
    """`start` and `end`: seconds since 1970."""
    end: float

    def joined(self, other: "Span") -> "Span":
        return Span(self.seconds + other.seconds, min(self.start, other.start), max(self.end, other.end))


def worker() -> str:
    """The name of this thread among all threads of all machines."""
    return f"{socket.gethostname()}:{os.getpid()}:{threading.get_native_id()}"

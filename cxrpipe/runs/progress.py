"""The progress of a run: counts predicted studies, which are ahead of the studies in written parts."""

import threading
from collections.abc import Callable


class Bar:
    """Adds up the progress that two threads report, up to the total: a task that Ray repeats reports twice.

    total    studies to score
    advance  called with the number of studies to add to the bar
    """

    def __init__(self, total: int, advance: Callable[[int], object]) -> None:
        self._total, self._advance = total, advance
        self._predicted = self._landed = self._shown = 0
        self._lock = threading.Lock()

    def predicted(self, studies: int) -> None:
        self._add(predicted=studies)

    def landed(self, studies: int) -> None:
        self._add(landed=studies)

    def _add(self, predicted: int = 0, landed: int = 0) -> None:
        with self._lock:
            self._predicted += predicted
            self._landed += landed
            done = min(self._total, max(self._predicted, self._landed))
            if done > self._shown:
                self._advance(done - self._shown)
                self._shown = done

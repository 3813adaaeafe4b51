"""The steady rate of a run: what more studies would take, as two runs and a stopwatch would say."""

import math
from collections.abc import Sequence

_SHORTEST_S = 5.0
"""A shorter time holds a few batches only, and says little."""
_LEAST = 0.25
"""Share of the studies that a measurement rests on."""


class SteadyRate:
    """Studies per second, from the times at which studies were prepared and their batches predicted.

    It is the lesser of two. What the networks do: studies predicted from the end of the first batch to the end of the
    one in hand when the last study had been prepared, for from then on they have the machine to themselves; to the end
    of the last batch where that leaves less than a quarter of the studies. And what preparation can do, since a fast
    network first uses up what was prepared while it loaded: studies prepared in that start-up or after it, over the
    time that this took, whichever is faster; the slower was kept waiting by a full queue.

    When parts land does not matter. The rate is (N2 - N1) / (t2 - t1) of a run of N2 studies and a shorter one of N1.
    Two predictors are one stage: their batches are counted together. Clocks of machines are taken to agree.
    Memory: only the times of studies that were prepared before the first batch ended, or predicted after the last study
    was prepared, are kept.
    """

    def __init__(self) -> None:
        self._studies = self._of_first_batch = 0
        self._first_prepared = self._first_end = math.inf
        self._last_prepared = self._last_end = -math.inf
        self._ahead: list[float] = []  # when studies were prepared, of those before the end of the first batch
        self._behind: list[float] = []  # when studies were predicted, of those after the last was prepared

    def add(self, prepared_at: Sequence[float], predicted_at: Sequence[float]) -> None:
        """Times of as many studies, in any order; both in seconds of one clock."""
        if not prepared_at or not predicted_at:
            return
        self._studies += len(predicted_at)
        if min(predicted_at) < self._first_end:
            self._first_end, self._of_first_batch = min(predicted_at), 0
        self._of_first_batch += sum(time == self._first_end for time in predicted_at)
        self._last_end = max(self._last_end, *predicted_at)
        self._first_prepared = min(self._first_prepared, *prepared_at)
        self._last_prepared = max(self._last_prepared, *prepared_at)
        self._ahead = [time for time in (*self._ahead, *prepared_at) if time <= self._first_end]
        self._behind = [time for time in (*self._behind, *predicted_at) if time > self._last_prepared]

    def per_second(self) -> float | None:
        """None in a run that is over a few seconds after its first batch."""
        if self._last_end - self._first_end < _SHORTEST_S:
            return None
        return min(self._predicted_per_second(), self._prepared_per_second())

    def _predicted_per_second(self) -> float:
        end = min(self._behind, default=self._last_end)
        studies = self._studies - self._of_first_batch - sum(time > end for time in self._behind)
        if studies < _LEAST * self._studies or end - self._first_end < _SHORTEST_S:
            end, studies = self._last_end, self._studies - self._of_first_batch
        return studies / (end - self._first_end)

    def _prepared_per_second(self) -> float:
        before, after = len(self._ahead), self._studies - len(self._ahead)
        spans = (
            (before - 1, max(self._ahead, default=self._first_prepared) - self._first_prepared),
            (after, self._last_prepared - self._first_end),
        )
        return max((studies / seconds for studies, seconds in spans if studies and seconds > 0), default=math.inf)

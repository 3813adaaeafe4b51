"""The steady rate of a run: the studies per second that two runs of different length and a stopwatch would give."""

import math
from collections.abc import Sequence

_SHORTEST_S = 5.0
"""A shorter span holds only a few batches, and says little."""
_LEAST = 0.25
"""Smallest share of the studies that a measurement rests on."""


class SteadyRate:
    """Studies per second, from the times at which studies were prepared and their batches were predicted.

    The rate is the lesser of the rates of two stages.

    Prediction counts from the end of the first batch to the end of the batch that was running when the last study had
    been prepared. From then on the networks have the machine to themselves. Where that span holds less than a quarter
    of the studies, it lasts to the end of the last batch.

    Preparation is measured twice: during the start-up, before the first batch ends, and after it. A fast network first
    uses up the studies that were prepared while it loaded. The faster measurement counts: a full queue kept the slower
    one waiting.

    The time at which parts land does not matter. The rate is (N2 - N1) / (t2 - t1) of a run of N2 studies and a shorter
    run of N1. Two predictors are one stage: their batches are counted together. The clocks of all machines are assumed
    to agree.
    Memory: only the times of studies that were prepared before the first batch ended, or predicted after the last study
    was prepared, are kept.
    """

    def __init__(self) -> None:
        self._studies = self._of_first_batch = 0
        self._first_prepared = self._first_end = math.inf
        self._last_prepared = self._last_end = -math.inf
        self._ahead: list[float] = []  # times of preparation up to the end of the first batch
        self._behind: list[float] = []  # times of prediction after the last study was prepared

    def add(self, prepared_at: Sequence[float], predicted_at: Sequence[float]) -> None:
        """Add the times of the same number of studies, in any order; both in seconds of one clock."""
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
        """The steady rate; None where the run is over a few seconds after its first batch."""
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

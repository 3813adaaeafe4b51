"""Which stage limits a run: how busy the workers of each stage were, and what would help the busiest."""

from collections import defaultdict
from collections.abc import Mapping

from cxrpipe.scoring.work import Span, add_span, stage_seconds

FULL = 0.7
"""A stage whose workers were busy for this share of their time limits the run."""
_MORE = {
    "prepare": "add CPUs",
    "predict": "add CPUs, or a GPU",
    "finish": "add CPUs",
    "land": "the storage of --out limits",
}

_TASKS = ("finish", "land")


class Busy:
    """Adds up the work of all workers of all stages."""

    def __init__(self) -> None:
        self._spans: defaultdict[str, dict[str, Span]] = defaultdict(dict)

    def add(self, spans: Mapping[str, Mapping[str, Span]]) -> None:
        for stage, workers in spans.items():
            for worker, span in workers.items():
                add_span(self._spans[stage], worker, span)

    def seconds(self) -> dict[str, float]:
        """Stage → seconds of work, summed over all workers."""
        return stage_seconds(self._spans)

    def shares(self) -> dict[str, float]:
        """Stage → 0..1, the seconds of work over the seconds for which its workers were there.

        An actor is there from the start of its first work on. Finish and land are tasks, whose workers are there from
        the time at which something was predicted. All are there to the end of the last work of any stage.
        """
        spans = {stage: [*workers.values()] for stage, workers in self._spans.items() if workers}
        end = max((span.end for workers in spans.values() for span in workers), default=0.0)
        predicted = min((span.start for span in spans.get("predict", ())), default=end)
        shares = {}
        for stage, workers in spans.items():
            there = sum(end - (predicted if stage in _TASKS else span.start) for span in workers)
            if there > 0:
                shares[stage] = min(1.0, sum(span.seconds for span in workers) / there)
        return shares


def what_limits(shares: Mapping[str, float], device: str | None) -> str | None:
    """One line for a person: `prepare 98% busy, predict 31%: add CPUs`. None: no stage did anything."""
    if not shares:
        return None
    first, *others = sorted(shares, key=lambda stage: -shares[stage])
    told = [f"{first} {shares[first]:.0%} busy", *(f"{stage} {shares[stage]:.0%}" for stage in others)]
    more = "add GPUs" if first == "predict" and device not in (None, "cpu") else _MORE[first]
    advice = more if shares[first] >= FULL else "no stage was full; the start and the end of the run took the time"
    return f"{', '.join(told)}: {advice}"

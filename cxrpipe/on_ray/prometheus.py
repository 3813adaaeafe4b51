"""What a scoring job tells Prometheus through the metrics endpoint of Ray's nodes. Ray Data adds its own queues there.

Names begin with `ray_cxrpipe_` when they are scraped. No label holds an id: neither of a patient, nor of a study.
"""

import functools
from typing import NamedTuple

from ray.util.metrics import Counter, Gauge

from cxrpipe.scoring.rows import Receipt


class Counters(NamedTuple):
    studies: Counter
    stage_seconds: Counter
    bytes: Counter
    left: Gauge


@functools.cache
def counters() -> Counters:
    """Those of this process, made once: a second counter of the same name would begin at nothing."""
    return Counters(
        Counter("cxrpipe_studies", "Studies that have landed, by status and reason.", ("status", "reason")),
        Counter("cxrpipe_stage_seconds", "Seconds of work on landed studies, one worker's time.", ("stage",)),
        Counter("cxrpipe_read_bytes", "Bytes of images, as they lie in the archive, that were read."),
        Gauge("cxrpipe_studies_left", "Studies of this run that have not landed yet."),
    )


class RunMetrics:
    """The driver's: fed by receipts."""

    def __init__(self, studies: int) -> None:
        self._left = studies
        counters().left.set(studies)

    def landed(self, receipt: Receipt) -> None:
        told = counters()
        for name, studies in receipt.counts.items():
            status, _, reason = name.partition("/")
            told.studies.inc(studies, {"status": status, "reason": reason or "none"})
        for stage, seconds in receipt.seconds.items():
            if seconds > 0:  # Ray refuses to count nothing
                told.stage_seconds.inc(seconds, {"stage": stage})
        self._left -= receipt.studies
        told.left.set(self._left)

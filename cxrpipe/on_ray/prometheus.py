"""What a scoring job tells Prometheus through the metrics endpoint of Ray's nodes. Ray Data adds its own queues there.

Names begin with `ray_cxrpipe_` when they are scraped. No label holds an id: neither of a patient, nor of a study.
"""

import functools
import math
from collections.abc import Mapping
from types import MappingProxyType
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


def count(counter: Counter, value: float, labels: Mapping[str, str] = MappingProxyType({})) -> None:
    """Add to a counter. Ray's raise where nothing is to be added: an empty object had ended a run."""
    if value > 0 and math.isfinite(value):
        counter.inc(float(value), dict(labels))


class RunMetrics:
    """The driver's: fed by receipts."""

    def __init__(self, studies: int) -> None:
        self._left = studies
        counters().left.set(studies)

    def landed(self, receipt: Receipt) -> None:
        told = counters()
        for name, studies in receipt.counts.items():
            status, _, reason = name.partition("/")
            count(told.studies, studies, {"status": status, "reason": reason or "none"})
        for stage, seconds in receipt.seconds.items():
            count(told.stage_seconds, seconds, {"stage": stage})
        self._left -= receipt.studies
        told.left.set(self._left)

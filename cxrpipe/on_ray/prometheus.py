"""The metrics of a scoring job, which Prometheus scrapes from Ray's nodes. Ray Data adds metrics of its queues.

Scraped names begin with `ray_cxrpipe_`. No label holds the id of a patient or of a study.
"""

import functools
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from ray.util.metrics import Counter, Gauge

from cxrpipe.scoring.parts import Receipt


class Counters(NamedTuple):
    studies: Counter
    stage_seconds: Counter
    bytes: Counter
    left: Gauge


@functools.cache
def counters() -> Counters:
    """The counters of this process, made once: a second counter of the same name would begin at 0."""
    return Counters(
        Counter("cxrpipe_studies", "Studies that have landed, by status and reason.", ("status", "reason")),
        Counter("cxrpipe_stage_seconds", "Seconds of work on landed studies, one worker's time.", ("stage",)),
        Counter("cxrpipe_read_bytes", "Bytes of images, as they lie in the archive, that were read."),
        Gauge("cxrpipe_studies_left", "Studies of this run that have not landed yet."),
    )


def count(counter: Counter, value: float, labels: Mapping[str, str] = MappingProxyType({})) -> None:
    """Add to a counter. Ray's counters raise when 0 is added: an object of 0 bytes once ended a run."""
    if value > 0 and math.isfinite(value):
        counter.inc(float(value), dict(labels))


class RunMetrics:
    """The metrics that the driver updates with every receipt."""

    def __init__(self, studies: int) -> None:
        self._left = studies
        counters().left.set(studies)

    def landed(self, receipt: Receipt) -> None:
        metrics = counters()
        for name, studies in receipt.counts.items():
            status, _, reason = name.partition("/")
            count(metrics.studies, studies, {"status": status, "reason": reason or "none"})
        for stage, seconds in receipt.seconds.items():
            count(metrics.stage_seconds, seconds, {"stage": stage})
        self._left -= receipt.studies
        metrics.left.set(self._left)

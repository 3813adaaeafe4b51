"""A batch of studies goes through the networks: arrays in, arrays out, and nothing for each study but its slice."""

import itertools
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
import pyarrow as pa

from cxrpipe.images.letterbox import Preparation
from cxrpipe.models.ensemble import Ensemble
from cxrpipe.scoring.faults import Fault, guarded
from cxrpipe.scoring.predictions import Predictions
from cxrpipe.scoring.prepare import Prepared
from cxrpipe.scoring.work import worker

if TYPE_CHECKING:  # torch takes 700 MB and seconds, and whoever only prepares studies or writes rows needs none of it
    from cxrpipe.scoring.predict import Predictor


class Batch(NamedTuple):
    """The views of N studies, ready for the networks. The views of a study stand together, in their order."""

    views: np.ndarray
    """(N,) int64: the number of views of each study, 0 or more."""
    pixels: dict[Preparation, np.ndarray]
    """Per distinct preparation (ΣV, S, S) uint8."""

    @classmethod
    def of(cls, prepared: Sequence[Prepared], ensemble: Ensemble) -> Self:
        """The views of all studies whose status is ok; at least one study."""
        pixels = {each: np.concatenate([study.pixels[each] for study in prepared]) for each in ensemble.preparations}
        return cls(np.array([study.row["n_views_ok"] for study in prepared], np.int64), pixels)

    def part(self, start: int, stop: int) -> Self:
        """The studies from `start` to `stop`."""
        before, end = self.views[:start].sum(), self.views[:stop].sum()
        return type(self)(self.views[start:stop], {key: views[before:end] for key, views in self.pixels.items()})


class Predicted(NamedTuple):
    """The outputs of the networks for N studies."""

    predictions: Predictions
    """Of the ΣV views of the studies without a fault, in the order of the studies."""
    views: np.ndarray
    """(N,) int64: the number of views of each study in `predictions`; 0 for a study with a fault."""
    faults: tuple[Fault | None, ...]
    """(N,): what the networks raised over the study."""
    marks: pa.Table
    """N rows: the columns `predict_s`, `predicted_at`, `predicted_by` and `computed_on` (see `parts`)."""

    @classmethod
    def joined(cls, batches: "Sequence[Predicted]") -> "Predicted":
        """The outputs for the studies of all batches, in their order; there is one batch at least."""
        if len(batches) == 1:
            return batches[0]
        return cls(
            Predictions.joined([each.predictions for each in batches]),
            np.concatenate([each.views for each in batches]),
            tuple(itertools.chain(*(each.faults for each in batches))),
            pa.concat_tables([each.marks for each in batches]),
        )

    def of(self, number: int) -> "Predicted":
        """The outputs for one of the studies."""
        end = self.views[: number + 1].sum()
        return Predicted(
            self.predictions.of(slice(end - self.views[number], end)),
            self.views[number : number + 1],
            self.faults[number : number + 1],
            self.marks.slice(number, 1),
        )


def predict(batch: Batch, predictor: "Predictor", clock: Callable[[], float] = time.time) -> Predicted:
    """Send all views of a batch through the networks. A study over which they raise has a fault and no predictions."""
    started = clock()
    predictions, faults = _predict(batch, predictor)
    views = np.where([fault is None for fault in faults], batch.views, 0)
    return Predicted(predictions, views, tuple(faults), _marks(len(views), predictor, started, clock()))


def refused(batch: Batch, fault: Fault, predictor: "Predictor", clock: Callable[[], float] = time.time) -> Predicted:
    """What stands for the outputs where no study of a batch is sent through the networks."""
    studies, now = len(batch.views), clock()
    nothing = predictor.predict(batch.part(0, 0).pixels)
    return Predicted(nothing, np.zeros_like(batch.views), (fault,) * studies, _marks(studies, predictor, now, now))


def _marks(studies: int, predictor: "Predictor", started: float, ended: float) -> pa.Table:
    return pa.table(
        {
            "predict_s": pa.repeat(pa.scalar((ended - started) / studies, pa.float32()), studies),
            "predicted_at": pa.repeat(pa.scalar(ended, pa.float64()), studies),
            "predicted_by": pa.repeat(worker(), studies),
            "computed_on": pa.repeat(predictor.computed_on, studies),
        }
    )


def _predict(batch: Batch, predictor: "Predictor") -> tuple[Predictions, list[Fault | None]]:
    """The predictions, and the fault of each study. A batch that raises is halved until the study is alone."""
    studies = len(batch.views)

    def halved(fault: Fault) -> tuple[Predictions, list[Fault | None]]:
        if studies == 1:
            return predictor.predict(batch.part(0, 0).pixels), [fault]
        halves = batch.part(0, studies // 2), batch.part(studies // 2, studies)
        (first, faults), (second, further) = (_predict(half, predictor) for half in halves)
        return Predictions.joined([first, second]), faults + further

    def together() -> tuple[Predictions, list[Fault | None]]:
        return predictor.predict(batch.pixels), [None] * studies

    return guarded(together, halved)

"""Scoring as a plain loop: the specification. `cxrpipe.on_ray.score` hands the same steps to Ray Data.

A study takes four steps. A `Preparer` makes uint8 squares of its files, on CPUs. `predict` sends a batch of studies
through the networks. `finish` makes score rows of what they gave, on CPUs. `write_part` writes rows to Parquet.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import pyarrow as pa

from cxrpipe.records import Study
from cxrpipe.scoring.batch import Batch, predict
from cxrpipe.scoring.finish import finish
from cxrpipe.scoring.prepare import Preparer

if TYPE_CHECKING:
    from cxrpipe.scoring.predict import Predictor

BATCH_STUDIES = 16


def score(
    studies: Iterable[Study],
    prepare: Preparer,
    predictor: "Predictor",
    *,
    batch_studies: int = BATCH_STUDIES,
    predicted: Callable[[int], object] = lambda studies: None,
) -> Iterator[pa.Table]:
    """Score studies one batch after another, in this process; the rows of each batch (see `parts.score_table`).

    predicted  called with the number of studies of a batch when the networks have seen them
    """
    studies, ensemble, clock = iter(studies), prepare.ensemble, prepare.clock
    while batch := list(itertools.islice(studies, batch_studies)):
        prepared = [prepare(study) for study in batch]
        outputs = predict(Batch.of(prepared, ensemble), predictor, clock)
        predicted(len(batch))
        yield finish([study.row for study in prepared], outputs, ensemble, clock)

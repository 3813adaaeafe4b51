"""Scoring as a plain loop: the specification. `cxrpipe.on_ray.score` hands the same steps to Ray Data.

A study takes three steps: a `Preparer` makes uint8 squares of its files, on CPUs; `score_prepared` sends a batch of
studies through the networks; `write_part` writes rows to Parquet.
"""

import itertools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from cxrpipe.records import Study
from cxrpipe.scoring.prepare import Preparer, Row
from cxrpipe.scoring.rows import score_prepared

if TYPE_CHECKING:
    from cxrpipe.scoring.predict import Predictor


def score(
    studies: Iterable[Study], prepare: Preparer, predictor: "Predictor", *, batch_studies: int = 16
) -> Iterator[Row]:
    """Score studies one batch after another, in this process."""
    studies = iter(studies)
    while batch := list(itertools.islice(studies, batch_studies)):
        prepared = [prepare(study) for study in batch]
        yield from score_prepared(prepared, predictor, prepare.ensemble, prepare.clock)

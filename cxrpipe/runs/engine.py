"""An engine scores the open studies of a run, part by part. The plain one is here; `on_ray.score` has the other."""

import itertools
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass

from cxrpipe.archives.reader import Reader
from cxrpipe.config import ScoreConfig
from cxrpipe.images.isolation import Isolated
from cxrpipe.images.squares import Decode, decode_view
from cxrpipe.models.ensemble import Ensemble
from cxrpipe.records.id_set import IdSet
from cxrpipe.records.study_table import StudyTable
from cxrpipe.runs.root import Run
from cxrpipe.scoring.prepare import Row
from cxrpipe.scoring.rows import Receipt, score, score_table, write_part


@dataclass(frozen=True)
class Job:
    """What an engine is given: the frozen list, what of it is done, the models, and where parts go."""

    run: Run
    done: IdSet
    """Study ids that are scored already."""
    ensemble: Ensemble
    config: ScoreConfig
    predicted: Callable[[int], object] = lambda studies: None
    """Called in this process with the number of studies that the networks have seen since the last call."""


Engine = Callable[[Job], Generator[Receipt, None, None]]


def loop(job: Job, decode: Decode = decode_view) -> Generator[Receipt, None, None]:
    """The plain engine: one batch after another in this process, but for what may crash."""
    from cxrpipe.models import execution  # torch: not for those who only plan
    from cxrpipe.scoring.predict import Predictor

    table = StudyTable(job.run.studies)
    studies = (study for study in table.studies() if not job.done.contains([study.study_id])[0])
    with Reader(table.seek_points) as reader, Isolated(decode, job.config.decode_timeout_s) as isolated:
        plan = execution.plan(None, job.config.precision, job.config.compile, table.rows - len(job.done))
        predictor = Predictor(job.ensemble, plan=plan)
        rows = score(
            studies,
            reader,
            job.ensemble,
            predictor,
            batch_studies=job.config.batch_studies,
            decode=isolated,
            private=table.is_pseudonymised,
        )
        rows = _counted(rows, job.predicted)
        while part := list(itertools.islice(rows, job.config.part_studies)):
            yield write_part(score_table(part, job.ensemble.findings), job.run.parts)


def _counted(rows: Iterable[Row], predicted: Callable[[int], object]) -> Iterator[Row]:
    for row in rows:
        predicted(1)
        yield row

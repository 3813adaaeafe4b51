"""An engine scores the open studies of a run, part by part. The plain one is here; `on_ray.score` has the other."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cxrpipe.cards import Ensemble
from cxrpipe.config import ScoreConfig
from cxrpipe.decoding import Decode, decode_view
from cxrpipe.id_set import IdSet
from cxrpipe.isolation import Isolated
from cxrpipe.reader import Reader
from cxrpipe.runs.run import Run
from cxrpipe.score import Receipt, score, score_table, write_part
from cxrpipe.study_table import StudyTable


@dataclass(frozen=True)
class Job:
    """What an engine is given: the frozen list, what of it is done, the models, and where parts go."""

    run: Run
    done: IdSet
    """Study ids that readable parts hold already."""
    ensemble: Ensemble
    config: ScoreConfig


Engine = Callable[[Job], Iterator[Receipt]]


def loop(job: Job, decode: Decode = decode_view) -> Iterator[Receipt]:
    """The plain engine: one batch after another in this process, but for what may crash."""
    from cxrpipe import fastpath  # torch: not for those who only plan
    from cxrpipe.predict import Predictor

    table = StudyTable(job.run.studies)
    studies = (study for study in table.studies() if not job.done.contains([study.study_id])[0])
    with Reader(table.seek_points) as reader, Isolated(decode, job.config.decode_timeout_s) as isolated:
        plan = fastpath.plan(None, job.config.precision, job.config.compile, table.rows - len(job.done))
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
        while part := list(itertools.islice(rows, job.config.part_studies)):
            yield write_part(score_table(part, job.ensemble.findings), job.run.parts)

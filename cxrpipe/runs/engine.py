"""An engine scores the open studies of a run, part by part. This module has the plain engine, `on_ray.score` Ray's."""

from collections.abc import Callable, Generator
from dataclasses import dataclass

from cxrpipe import console
from cxrpipe.config import ScoreConfig
from cxrpipe.config.score import TRIAL_FROM_VIEWS
from cxrpipe.images.squares import Decode, decode_view
from cxrpipe.models.ensemble import Ensemble
from cxrpipe.records.id_set import IdSet
from cxrpipe.records.study_table import StudyTable
from cxrpipe.runs.root import Run
from cxrpipe.scoring.loop import BATCH_STUDIES, score
from cxrpipe.scoring.parts import Receipt, in_parts, write_part
from cxrpipe.scoring.prepare import Preparer


@dataclass(frozen=True)
class Job:
    """The work of an engine: a run with its frozen list of studies, the studies that are done, and the models."""

    run: Run
    done: IdSet
    """Ids of the studies that are scored already."""
    ensemble: Ensemble
    config: ScoreConfig
    predicted: Callable[[int], object] = lambda studies: None
    """The engine calls this in the driver with the number of studies that were predicted since the last call."""


Engine = Callable[[Job], Generator[Receipt, None, None]]


def loop(job: Job, decode: Decode = decode_view) -> Generator[Receipt, None, None]:
    """The plain engine: one batch after another in this process; only the decoders, which may crash, run in another."""
    from cxrpipe.models import execution  # imports torch, which a run that only plans does not need
    from cxrpipe.scoring.predict import Predictor

    table = StudyTable(job.run.studies)
    studies = (study for study in table.studies() if not job.done.contains([study.study_id])[0])
    with Preparer(table, job.ensemble, job.config.decode_timeout_s, decode=decode) as prepare:
        cards = [model.card for model in job.ensemble.models]
        views = table.rows - len(job.done)
        plan = execution.decide(cards, views, None, job.config.precision, job.config.compile)
        if views >= TRIAL_FROM_VIEWS and plan.why:
            console.log(plan.why)
        predictor = Predictor(job.ensemble, plan=plan)
        batch = job.config.batch_studies or BATCH_STUDIES
        scored = score(studies, prepare, predictor, batch_studies=batch, predicted=job.predicted)
        for part in in_parts(scored, job.config.part_studies):
            yield write_part(part, job.run.parts)

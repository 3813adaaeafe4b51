"""Engines for tests of the program `score`: without networks, killed half way, or not to be called at all."""

import copy
import itertools
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from cxrpipe.images.letterbox import Preparation
from cxrpipe.images.squares import Decode, Decoded, decode_view
from cxrpipe.records.study_table import StudyTable
from cxrpipe.runs.engine import Engine, Job
from cxrpipe.scoring.parts import Receipt, score_table, write_part
from cxrpipe.scoring.prepare import Preparer


class Killed(BaseException):
    """What a SIGKILL is to the code: nothing runs after it."""


def without_models(job: Job, decode: Decode = decode_view) -> Iterator[Receipt]:
    """Rows as the loop writes them, but for their numbers: where it matters which studies, and not what they get."""
    table = StudyTable(job.run.studies)
    studies = (study for study in table.studies() if not job.done.contains([study.study_id])[0])
    with Preparer(table, job.ensemble, None, decode=decode) as prepare:
        while part := [*itertools.islice(studies, job.config.part_studies)]:
            rows = [prepare(study).row | NO_NETWORK for study in part]
            yield write_part(score_table(rows, job.ensemble.findings), job.run.parts)


NO_NETWORK = {"predict_s": 0.0, "computed_on": "none none none"}


def raising(studies: Collection[str], error: Exception) -> Decode:
    """A decoder that has a bug, which shows in the files of these studies (`<study>_<number>.png`)."""

    def decode(data: bytes, name: str, preparations: Sequence[Preparation]) -> Decoded:
        if Path(name).stem.rpartition("_")[0] in studies:
            raise copy.copy(error)  # a traceback of its own
        return decode_view(data, name, preparations)

    return decode


def killed_after(parts: int, engine: Engine = without_models) -> Engine:
    """An engine that is killed once so many parts have landed."""

    def killed(job: Job) -> Iterator[Receipt]:
        yield from itertools.islice(engine(job), parts)
        raise Killed

    return killed


def must_not_run(job: Job) -> Iterator[Receipt]:
    raise AssertionError("there was nothing to score")

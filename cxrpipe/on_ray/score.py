"""Scoring with Ray Data: the steps of the plain loop in preparation actors, prediction actors and writing tasks."""

import functools
import math
import os
import sys
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import pyarrow as pa
import ray.data

from cxrpipe.archives.reader import Reader
from cxrpipe.errors import DeviceLostError
from cxrpipe.images.squares import Decode, decode_view
from cxrpipe.models.ensemble import Ensemble
from cxrpipe.on_ray import prometheus, session, wire
from cxrpipe.on_ray.sizing import SMALL_CPU, Sizing, size
from cxrpipe.on_ray.tally import Tally, counting
from cxrpipe.records import Study, View
from cxrpipe.records.id_set import IdSet
from cxrpipe.records.study_table import StudyTable
from cxrpipe.runs.engine import Job
from cxrpipe.scoring.batch import Batch, Predicted, predict, refused
from cxrpipe.scoring.faults import Fault
from cxrpipe.scoring.finish import finish
from cxrpipe.scoring.parts import Receipt, write_part
from cxrpipe.scoring.prepare import Preparer

_THREADS_PER_PREPARER = 4  # a thread that fetches mostly waits
_READ_TASKS = 200  # at most; a task reads its share of the list's row groups
_ENDED_TOO_MANY = 2  # processes: one ended with the study in a batch, one with the study alone
_DEVICE_LOST = Fault("DeviceLostError", "", "the device failed for good with this study in hand, twice")
_NEEDED = ["study_id", "patient_id", "study_digest", "views"]


def engine(job: Job, decode: Decode = decode_view) -> Generator[Receipt, None, None]:
    """Score the job's open studies on Ray, and yield a receipt for every part that has landed."""
    with session.session():
        sizing = size(job.config.resources)
        table = StudyTable(job.run.studies)
        metrics = prometheus.RunMetrics(table.rows - len(job.done))
        with counting(job.predicted) as tally:
            for row in _pipeline(job, table, sizing, decode, tally).iter_rows():
                receipt = Receipt.from_json(row["receipt"])
                metrics.landed(receipt)
                yield receipt


def _pipeline(job: Job, table: StudyTable, sizing: Sizing, decode: Decode, tally: Tally) -> ray.data.Dataset:
    # read_parquet starts eight actors to read the footer of one file, which takes two cores half a minute.
    numbers = ray.data.range(table.row_groups, override_num_blocks=min(table.row_groups, _READ_TASKS))
    studies = numbers.map_batches(
        functools.partial(_open_studies, studies=job.run.studies, done=job.done),
        batch_size=1,
        batch_format="numpy",
        num_cpus=SMALL_CPU,
    )
    batch = job.config.batch_studies
    # Ray makes one block of a list of one file, whatever number is requested. One actor would get all studies.
    studies = studies.repartition(target_num_rows_per_block=batch)
    make = functools.partial(Preparer, table, job.ensemble, job.config.decode_timeout_s, decode=decode)
    prepared = studies.map_batches(
        _Preparer,
        fn_constructor_args=[make],
        batch_size=batch,
        batch_format="pyarrow",
        **sizing.preparers.options(),
    )
    rows = prepared.map_batches(
        _Predictor,
        fn_constructor_kwargs={
            "ensemble": job.ensemble,
            "tally": tally,
            "threads": sizing.threads,
            "device": "cuda" if sizing.predictors.gpus else "cpu",
            "precision": job.config.precision,
            "compile": job.config.compile,
            "studies": table.rows - len(job.done),
        },
        batch_size=batch,
        batch_format="pyarrow",
        **sizing.predictors.options(),
    )
    return rows.map_batches(
        functools.partial(_land, ensemble=job.ensemble, parts=job.run.parts),
        batch_size=job.config.part_studies,
        batch_format="pyarrow",
        num_cpus=SMALL_CPU,
    )


def _open_studies(batch: Any, studies: str, done: IdSet) -> Any:
    """The number of a row group of the frozen list → the studies of the group that no part holds yet."""
    rows = StudyTable(studies).read_group(int(batch["id"][0]), _NEEDED)
    return rows.filter(pa.array(~done.contains(rows["study_id"].to_pylist())))


class _CountingReader(Reader):
    """A reader that counts the bytes read in Ray's metrics."""

    def read(self, view: View) -> bytes:
        data = super().read(view)
        prometheus.count(prometheus.counters().bytes, len(data))
        return data


class _Preparer:
    """Study rows → prepared studies, as `wire.prepared_table` has them.

    make  makes the preparer of this actor
    """

    def __init__(self, make: Callable[..., Preparer]) -> None:
        prometheus.counters()  # made once, before several threads would make them
        self._threads = ThreadPoolExecutor(_THREADS_PER_PREPARER)
        children = min(_THREADS_PER_PREPARER, os.cpu_count() or 1)
        self._prepare = make(children=children, reader=_CountingReader)  # its decoders end with this process

    def __call__(self, block: pa.Table) -> pa.Table:
        studies = [Study.from_row(row) for row in block.to_pylist()]
        return wire.prepared_table(list(self._threads.map(self._prepare, studies)), self._prepare.ensemble)


class _Predictor:
    """Prepared studies → the outputs of the networks, as `wire.predicted_table` has them."""

    def __init__(self, ensemble: Ensemble, tally: Tally, threads: int, **plan: Any) -> None:
        import torch

        from cxrpipe.models import execution
        from cxrpipe.scoring.predict import Predictor

        torch.set_num_threads(threads or os.cpu_count() or 1)  # Ray sets OMP_NUM_THREADS to 1 in its actors
        self._ensemble, self._tally = ensemble, tally
        self._predictor = Predictor(ensemble, plan=execution.plan(**plan), say=tally.say)
        self._suspects = tally.suspects()

    def __call__(self, block: pa.Table) -> pa.Table:
        study_ids, batch = block["study_id"].to_pylist(), wire.batch_of(block, self._ensemble)
        done = []
        for start, stop in self._batches(study_ids, batch.views.tolist()):
            done.append(self._predict(batch.part(start, stop), study_ids[start:stop]))
            self._tally.predicted(study_ids[start:stop])
        return wire.predicted_table(block, Predicted.joined(done))

    def _batches(self, study_ids: list[str], views: list[int]) -> Iterator[tuple[int, int]]:
        """Cut a block into batches (start, stop) of as many views as go through at once.

        A study in hand when another process ended is alone.
        """
        start, most, held = 0, self._predictor.views_at_once or math.inf, 0
        for number, study_id in enumerate(study_ids):
            apart = study_id in self._suspects or study_ids[number - 1] in self._suspects
            if number > start and (apart or held + views[number] > most):
                yield start, number
                start, held = number, 0
            held += views[number]
        yield start, len(study_ids)

    def _predict(self, batch: Batch, study_ids: list[str]) -> Predicted:
        if self._suspects[study_ids[0]] >= _ENDED_TOO_MANY:
            return refused(batch, _DEVICE_LOST, self._predictor)
        try:
            return predict(batch, self._predictor)
        except DeviceLostError as error:
            self._end(error, study_ids)

    def _end(self, error: DeviceLostError, study_ids: list[str]) -> NoReturn:
        """End this process, because only a new process can use the device again. Ray starts one and repeats the batch.

        After `ray.actor.exit_actor` Ray would start none.
        """
        self._tally.say(f"{error}; another process takes over")
        self._tally.ended_by(study_ids)
        print(error, file=sys.stderr, flush=True)
        os._exit(1)


def _land(block: pa.Table, ensemble: Ensemble, parts: str) -> pa.Table:
    """The outputs of the networks → score rows → a part on storage, and its receipt."""
    rows = finish(wire.rows_of(block), wire.predicted_of(block, ensemble), ensemble)
    return pa.table({"receipt": [write_part(rows, parts).to_json()]})

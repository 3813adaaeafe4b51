"""Scoring with Ray Data: the steps of the plain loop in preparation actors, prediction actors and writing tasks."""

import functools
import itertools
import math
import os
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import pyarrow as pa
import ray
import ray.data

from cxrpipe import console
from cxrpipe.archives.reader import Reader
from cxrpipe.config.score import TRIAL_FROM_VIEWS
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
from cxrpipe.scoring.prepare import Prepared, Preparer

_THREADS_PER_PREPARER = 4  # a thread that fetches mostly waits
_STUDIES_PER_CALL = 4  # a thread takes so many at once; to hand over one study takes 0.1 ms
_READ_TASKS = 200  # at most; a task reads its share of the list's row groups
_ENDED_TOO_MANY = 2  # processes: one ended with the study in a batch, one with the study alone
_DEVICE_LOST = Fault("DeviceLostError", "", "the device failed for good with this study in hand, twice")
_NEEDED = ["study_id", "patient_id", "study_digest", "views"]


def engine(job: Job, decode: Decode = decode_view) -> Generator[Receipt, None, None]:
    """Score the job's open studies on Ray, and yield a receipt for every part that has landed."""
    with session.session():
        table = StudyTable(job.run.studies)
        studies = table.rows - len(job.done)
        sizing = size(job.config.resources, studies, job.config.batch_studies)
        metrics = prometheus.RunMetrics(studies)
        with session.waiting(sizing.missing, sizing.wait_s), counting(job.predicted) as tally:
            how = _decided(job, sizing, studies)
            prepared = _prepared(job, table, sizing, decode)
            for row in landed(prepared, job, sizing, tally, how).iter_rows():
                receipt = Receipt.from_json(row["receipt"])
                metrics.landed(receipt)
                yield receipt


def _decided(job: Job, sizing: Sizing, studies: int) -> dict[str, str]:
    """Arguments of `models.execution.plan` for all predictors. A trial may decide, on a machine that predicts.

    Where no such machine comes in time, nothing is compiled.
    """
    pool, config = sizing.predictors, job.config
    how = {"device": "cuda" if pool.gpus else "cpu", "precision": config.precision, "compile": config.compile}
    views = studies // pool.actors
    if config.compile != "auto" or views < TRIAL_FROM_VIEWS:
        return how
    options: dict[str, Any] = {"num_cpus": pool.cpus, "num_gpus": pool.gpus}
    if pool.roles:
        options["label_selector"] = {"role": pool.roles[0]}
    trial = ray.remote(_decide).options(**options)
    answer = trial.remote(job.ensemble, views, sizing.threads, sizing.sharing, how)
    try:
        precision, compiled, why = ray.get(answer, timeout=sizing.wait_s)
    except ray.exceptions.GetTimeoutError:
        ray.cancel(answer)
        console.log(f"not compiled: no machine has tried it within {sizing.wait_s:g} s")
        return how | {"compile": "off"}
    console.log(why)
    return how | {"precision": precision, "compile": "on" if compiled else "off"}


def _decide(ensemble: Ensemble, views: int, threads: int, sharing: int, how: dict[str, str]) -> tuple[str, bool, str]:
    """Precision, whether networks are compiled, and why."""
    import torch

    from cxrpipe.models import execution

    torch.set_num_threads(session.threads(threads, sharing))
    decided = execution.decide([model.card for model in ensemble.models], views, **how)
    return decided.precision, decided.compiled, decided.why


def _prepared(job: Job, table: StudyTable, sizing: Sizing, decode: Decode) -> ray.data.Dataset:
    """The open studies in blocks, prepared (see `wire`)."""
    # read_parquet starts eight actors to read the footer of one file, which takes two cores half a minute.
    numbers = ray.data.range(table.row_groups, override_num_blocks=min(table.row_groups, _READ_TASKS))
    studies = numbers.map_batches(
        functools.partial(_open_studies, studies=job.run.studies, done=job.done),
        batch_size=1,
        batch_format="numpy",
    )  # without num_cpus, so that Ray joins it to the repartition: one operator less
    block = sizing.block_studies
    # Ray makes one block of a list of one file, whatever number is requested. One actor would get all studies.
    studies = studies.repartition(target_num_rows_per_block=block)
    make = functools.partial(
        Preparer, table, job.ensemble, job.config.decode_timeout_s, decode=decode, children=sizing.decoders
    )
    return studies.map_batches(
        _Preparer,
        fn_constructor_args=[make],
        batch_size=block,
        batch_format="pyarrow",
        **sizing.preparers.options(),
    )


def landed(prepared: ray.data.Dataset, job: Job, sizing: Sizing, tally: Tally, how: dict[str, str]) -> ray.data.Dataset:
    """The receipts of the parts that prepared studies become: predict, finish and land.

    how  arguments of `models.execution.plan`, the same for all predictors
    """
    predicted = prepared.map_batches(
        _Predictor,
        fn_constructor_kwargs={
            "ensemble": job.ensemble,
            "tally": tally,
            "threads": sizing.threads,
            "sharing": sizing.sharing,
            **how,
        },
        batch_size=sizing.block_studies,
        batch_format="pyarrow",
        **sizing.predictors.options(),
    )
    return predicted.map_batches(
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
    """A reader that tells how many bytes it reads."""

    def __init__(self, seek_points: str, told: Callable[[int], object]) -> None:
        super().__init__(seek_points)
        self._told = told

    def read(self, view: View) -> bytes:
        data = super().read(view)
        self._told(len(data))
        return data


class _Preparer:
    """Study rows → prepared studies, as `wire.prepared_table` has them.

    make  makes the preparer of this actor
    """

    def __init__(self, make: Callable[..., Preparer]) -> None:
        prometheus.counters()  # made once, before several threads would make them
        self._threads = ThreadPoolExecutor(_THREADS_PER_PREPARER)
        self._read_bytes: deque[int] = deque()  # of every view since the last block; threads may append to it
        reader = functools.partial(_CountingReader, told=self._read_bytes.append)
        self._prepare = make(reader=reader)  # its decoders end with this process

    def __call__(self, block: pa.Table) -> pa.Table:
        studies = [Study.from_row(row) for row in block.to_pylist()]
        few = [studies[start : start + _STUDIES_PER_CALL] for start in range(0, len(studies), _STUDIES_PER_CALL)]
        prepared = itertools.chain.from_iterable(self._threads.map(self._prepare_each, few))
        table = wire.prepared_table(list(prepared), self._prepare.ensemble)
        read_bytes = sum(self._read_bytes.popleft() for _ in range(len(self._read_bytes)))
        prometheus.count(prometheus.counters().bytes, read_bytes)
        return table

    def _prepare_each(self, studies: list[Study]) -> list[Prepared]:
        return [self._prepare(study) for study in studies]


class _Predictor:
    """Prepared studies → the outputs of the networks, as `wire.predicted_table` has them."""

    def __init__(self, ensemble: Ensemble, tally: Tally, threads: int, sharing: int, **plan: Any) -> None:
        import torch

        from cxrpipe.models import execution
        from cxrpipe.scoring.predict import Predictor

        torch.set_num_threads(session.threads(threads, sharing))  # Ray sets OMP_NUM_THREADS to 1 in its actors
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

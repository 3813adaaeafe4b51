"""Scoring with Ray Data: the steps of the plain loop in preparation actors, prediction actors and writing tasks."""

import functools
import os
import sys
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import ray.data

from cxrpipe.archives.reader import Reader
from cxrpipe.errors import DeviceLostError
from cxrpipe.images.letterbox import Preparation
from cxrpipe.images.squares import Decode, decode_view
from cxrpipe.models.ensemble import Ensemble
from cxrpipe.on_ray import prometheus, session
from cxrpipe.on_ray.sizing import SMALL_CPU, Sizing, size
from cxrpipe.on_ray.tally import Tally, counting
from cxrpipe.records import Study, View
from cxrpipe.records.id_set import IdSet
from cxrpipe.records.study_table import StudyTable
from cxrpipe.runs.engine import Job
from cxrpipe.scoring.faults import Fault
from cxrpipe.scoring.parts import Receipt, score_table, write_part
from cxrpipe.scoring.prepare import Prepared, Preparer, Row, failed_by
from cxrpipe.scoring.rows import score_prepared

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
        functools.partial(_land, parts=job.run.parts),
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
    """Study rows → score rows without the networks' columns, and pixels as bytes: uint8 on the wire.

    make  makes the preparer of this actor
    """

    def __init__(self, make: Callable[..., Preparer]) -> None:
        prometheus.counters()  # made once, before several threads would make them
        self._threads = ThreadPoolExecutor(_THREADS_PER_PREPARER)
        children = min(_THREADS_PER_PREPARER, os.cpu_count() or 1)
        self._prepare = make(children=children, reader=_CountingReader)  # its decoders end with this process

    def __call__(self, batch: pa.Table) -> pa.Table:
        studies = [Study.from_row(row) for row in batch.to_pylist()]
        return to_wire(list(self._threads.map(self._prepare, studies)), self._prepare.ensemble)


class _Predictor:
    """Score rows without the networks' columns → score rows."""

    def __init__(self, ensemble: Ensemble, tally: Tally, threads: int, **plan: Any) -> None:
        import torch

        from cxrpipe.models import execution
        from cxrpipe.scoring.predict import Predictor

        torch.set_num_threads(threads or os.cpu_count() or 1)  # Ray sets OMP_NUM_THREADS to 1 in its actors
        self._ensemble, self._tally = ensemble, tally
        self._predictor = Predictor(ensemble, plan=execution.plan(**plan), say=tally.say)
        self._suspects = tally.suspects()

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows: list[Row] = []
        for studies in self._apart(from_wire(batch, self._ensemble)):
            rows += self._score(studies)
        self._tally.predicted(batch["study_id"].to_pylist())
        return score_table(rows, self._ensemble.findings)

    def _apart(self, batch: list[Prepared]) -> Iterator[list[Prepared]]:
        """The batch in pieces. A study in hand when another process ended is alone; the others stay together."""
        together = [study for study in batch if study.row["study_id"] not in self._suspects]
        if together:
            yield together
        yield from ([study] for study in batch if study.row["study_id"] in self._suspects)

    def _score(self, studies: list[Prepared]) -> list[Row]:
        row = studies[0].row
        if self._suspects[row["study_id"]] >= _ENDED_TOO_MANY:
            return [failed_by(row | {"computed_on": self._predictor.computed_on}, _DEVICE_LOST)]
        try:
            return score_prepared(studies, self._predictor, self._ensemble)
        except DeviceLostError as error:
            self._end(error, [study.row["study_id"] for study in studies])

    def _end(self, error: DeviceLostError, study_ids: list[str]) -> NoReturn:
        """End this process, because only a new process can use the device again. Ray starts one and repeats the batch.

        After `ray.actor.exit_actor` Ray would start none.
        """
        self._tally.say(f"{error}; another process takes over")
        self._tally.ended_by(study_ids)
        print(error, file=sys.stderr, flush=True)
        os._exit(1)


def to_wire(prepared: list[Prepared], ensemble: Ensemble) -> pa.Table:
    """Prepared studies as a table: the columns of their rows, and a column of (V, S, S) bytes per preparation."""
    table = score_table([study.row for study in prepared], findings=())
    for number, preparation in enumerate(ensemble.preparations):
        pairs = zip(prepared, table["n_views_ok"].to_pylist(), strict=True)
        cells = pa.array([study.pixels[preparation].tobytes() if ok else b"" for study, ok in pairs], pa.large_binary())
        table = table.append_column(f"pixels_{number}", cells)
    return table


def from_wire(batch: pa.Table, ensemble: Ensemble) -> list[Prepared]:
    """The prepared studies of a table made by `to_wire`; their pixels share the table's memory."""
    columns = [f"pixels_{number}" for number in range(len(ensemble.preparations))]
    rows = batch.drop_columns(columns).to_pylist()
    pixels: list[dict[Preparation, np.ndarray]] = [{} for _ in rows]
    for column, preparation in zip(columns, ensemble.preparations, strict=True):
        shape = (-1, preparation.side_px, preparation.side_px)
        for study_pixels, cell in zip(pixels, batch[column], strict=True):
            study_pixels[preparation] = np.frombuffer(cell.as_buffer(), np.uint8).reshape(shape)
    return [Prepared(row, study_pixels) for row, study_pixels in zip(rows, pixels, strict=True)]


def _land(batch: Any, parts: str) -> Any:
    """Score rows → a part on storage, and its receipt."""
    return pa.table({"receipt": [write_part(batch, parts).to_json()]})

"""Training examples by Ray Data: every image is read, decoded and prepared once, and kept as uint8."""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import ray.data
from ray.data import ActorPoolStrategy
from ray.data.expressions import col
from ray.util.queue import Queue

from cxrpipe.archives.reader import Reader
from cxrpipe.config import DECODE_TIMEOUT_S
from cxrpipe.errors import RunError
from cxrpipe.images.isolation import Isolated
from cxrpipe.images.squares import decode_view
from cxrpipe.on_ray import session
from cxrpipe.on_ray.progress import Prepared, Preparing, tell
from cxrpipe.records import Study, study_schema
from cxrpipe.records.study_table import StudyTable
from cxrpipe.training.examples import Example, examples, key_of
from cxrpipe.training.oversampling import copies
from cxrpipe.training.plan import TrainingPlan

_STUDIES_PER_BLOCK = 64


def prepare_examples(
    plan: TrainingPlan, table: StudyTable, studies: Sequence[Study], events: Queue, preparers: int
) -> tuple[ray.data.Dataset, ray.data.Dataset | None]:
    """Prepare the train and the valid examples in the object store, which spills to disk; no valid ones of a refit.

    preparers  greatest number of actors

    Columns: `key` int64, the same for views of the same study; `pixels` (S, S) uint8; `target`, see `Example`.
    """
    prepared = _prepared(plan, table, studies, events, preparers)
    train = _of_split(prepared, "train")
    valid = None if plan.stop_at else _of_split(prepared, "valid")
    # Many archives are sorted by class or patient, and the shuffle buffer of a worker mixes only neighbours.
    train = train.randomize_block_order(seed=plan.config.seed).materialize()
    if plan.copies:
        train = train.map_batches(_Copier(np.array(plan.copies)), batch_size=_STUDIES_PER_BLOCK).materialize()
    return train, valid


def prepare_held_out(
    plan: TrainingPlan, table: StudyTable, studies: Sequence[Study], events: Queue, preparers: int
) -> ray.data.Dataset:
    """Prepare the examples of the fold that is held out, as `prepare_examples` prepares others."""
    return _of_split(_prepared(plan, table, studies, events, preparers), "test")


def _of_split(prepared: ray.data.Dataset, split: str) -> ray.data.Dataset:
    of_split: ray.data.Dataset = prepared.filter(expr=col("split") == split).drop_columns(["split"]).materialize()
    if not of_split.count():
        raise RunError(f"no image of the {split} split can be used; the lines above give the reasons")
    return of_split


def _prepared(
    plan: TrainingPlan, table: StudyTable, studies: Sequence[Study], events: Queue, preparers: int
) -> ray.data.Dataset:
    rows = pa.Table.from_pylist([study.row() for study in studies], schema=study_schema(table.findings))
    tell(events, Preparing(rows.num_rows))
    prepared = ray.data.from_arrow(rows).repartition(target_num_rows_per_block=_STUDIES_PER_BLOCK)
    examples: ray.data.Dataset = prepared.map_batches(
        _Preparer,
        fn_constructor_kwargs={"plan": plan, "seek_points": table.seek_points, "events": events},
        batch_size=_STUDIES_PER_BLOCK,
        batch_format="pyarrow",
        num_cpus=0.5,
        compute=ActorPoolStrategy(min_size=1, max_size=preparers),
        **session.TRY_AGAIN,
    ).materialize()
    return examples


def shares(examples: ray.data.Dataset, workers: int) -> list[ray.data.Dataset]:
    """Cut examples into a share for every worker. Sizes differ by one at most; no example is lost, none counts twice.

    A worker reads and forwards its share alone. (Ray's split for training drops what does not divide.)
    """
    if workers == 1:
        return [examples]
    count = examples.count()
    return list(examples.split_at_indices([count * number // workers for number in range(1, workers)]))


class _Copier:
    """Repeats examples of a rare class, for `--loss.balance sampling`."""

    def __init__(self, ratios: np.ndarray) -> None:
        self._ratios = ratios

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        often = copies(batch["target"], batch["key"] / 2**63, self._ratios)
        return {name: np.repeat(values, often, axis=0) for name, values in batch.items()}


class _Preparer:
    """Study rows → examples. Images that cannot be used are left out, and the driver is told about them."""

    def __init__(self, plan: TrainingPlan, seek_points: str, events: Queue) -> None:
        self._spec, self._cropper, self._events = plan.spec, plan.cropper(), events
        self._reader = Reader(seek_points)
        self._decode = Isolated(decode_view, DECODE_TIMEOUT_S)  # its child ends with this process

    def __call__(self, batch: pa.Table) -> dict[str, np.ndarray]:
        studies = [Study.from_row(row) for row in batch.to_pylist()]
        pairs = [(study, example) for study in studies for example in self._examples(study)]
        tell(self._events, Prepared(len(studies), tuple(example.problem for _, example in pairs if example.problem)))
        usable = [(study, example) for study, example in pairs if not example.problem]
        no_pixels, no_targets = self._spec.empty
        pixels = np.concatenate([no_pixels, *(example.pixels[None] for _, example in usable)])
        if self._cropper:
            pixels = self._cropper(pixels, np.array([example.for_segmenter for _, example in usable]))
        return {
            "key": np.array([key_of(study.study_id) for study, _ in usable], np.int64),
            "split": np.array([study.split for study, _ in usable], object),
            "pixels": pixels,
            "target": np.concatenate([no_targets, *(example.target[None] for _, example in usable)]),
        }

    def _examples(self, study: Study) -> Iterator[Example]:
        return examples(study, self._reader, self._spec, self._decode)

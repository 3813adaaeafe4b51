"""Training with Ray: Ray Data prepares the images once, Ray Train runs `cxrpipe.training.fit.fit` on 1 to N workers."""

import hashlib
import io
import itertools
import json
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

import ray.data
import ray.train
import ray.train.torch
import torch
from ray.util.queue import Queue

from cxrpipe import console, storage
from cxrpipe.config import TrainConfig
from cxrpipe.errors import ConfigError, RunError
from cxrpipe.models.execution import keep_memory
from cxrpipe.models.folder import save_model
from cxrpipe.on_ray import session
from cxrpipe.on_ray.examples import prepare_examples
from cxrpipe.on_ray.predictions import judge
from cxrpipe.on_ray.progress import Finished, Resumed, Stepped, listening
from cxrpipe.programs.index import keep_source, open_source
from cxrpipe.records import Study
from cxrpipe.records.study_table import StudyTable, scratch_folder
from cxrpipe.report.learning_curves import epoch_table
from cxrpipe.training import distributed
from cxrpipe.training.epochs import History, best_epoch, describe, rank
from cxrpipe.training.fit import Batch, unwatched
from cxrpipe.training.folds import hold_out
from cxrpipe.training.model_folder import FITTED, Judgement, draw, fitted
from cxrpipe.training.plan import Plan, already_trained, facts, make_plan, settings_of
from cxrpipe.training.trainer import Course

_STATE = "state.pt"
_SHUFFLED = 4_096
"""Images in a worker's shuffle buffer."""
_FEWEST_IMAGES = 2
"""Of a worker: BatchNorm knows no variance of one."""
_TELL_EVERY_S = 1.0


def run(config: TrainConfig) -> int:
    out = storage.normalise(config.out)
    if already_trained(config):
        console.out().print(f"Nothing to do: {out} was trained with these settings.")
        return 0
    working = storage.join(out, "training")
    with scratch_folder() as scratch:
        table = open_source(config, scratch)
        home = storage.join(working, "index")
        if config.folds:
            table, home = hold_out(config, table, scratch), storage.join(out, "fold")  # kept, to score what is held out
        plan, studies = make_plan(config, table)
        plan.network(), plan.teacher()  # weights that cannot be had are a refusal, not a broken run
        table = keep_source(table, scratch, home)
    console.log(f"train: {plan.said(studies)}")
    with session.session(at_least_cpus=config.workers + 1):
        weights, history, judgement = _train(plan, table, studies, working)
    card = fitted(plan.card, judgement)
    for name, content in draw(card, history, config.best, judgement, studies).items():
        storage.write(storage.join(out, name), content)
    save_model(out, card, weights, facts(plan, table, studies, history) | ({"fitted": FITTED} if card.findings else {}))
    storage.delete_below(working)
    best = best_epoch(history, config.best)
    console.out().print(epoch_table(history, card, config.best))
    console.out().print(f"Best epoch: {best['epoch']} of {len(history)}, {describe(card, best)}\nModel: {out}")
    if config.folds:
        console.out().print(f"Held out as its test split: {table.url}")
    return 0


def _train(plan: Plan, table: StudyTable, studies: Sequence[Study], working: str) -> tuple[bytes, History, Judgement]:
    """The weights of the best epoch as a file to score with; what every epoch said, and what the model says."""
    config = plan.config
    session.require_cpus(config.workers + 1, f"training with {config.workers} workers")
    if 0 < session.cluster_gpus() < config.workers:
        raise ConfigError(f"{config.workers} workers, and Ray has {session.cluster_gpus()} GPUs; ask for one a GPU")
    with listening(config.epochs) as events:
        train, valid = prepare_examples(plan, table, studies, events)
        console.log(f"train: starting {config.workers} workers" if config.workers > 1 else "train: starting one worker")
        weights, history = _best(_trainer(plan, train, valid, working, events), config.best)
        weights = plan.for_scoring(weights)
        console.log("train: asking the model of the best epoch about the valid split")
        return weights, history, judge(plan.card, weights, train, valid)


def _trainer(
    plan: Plan, train: ray.data.Dataset, valid: ray.data.Dataset, working: str, events: Queue
) -> ray.train.torch.TorchTrainer:
    config = plan.config
    store, path = storage.filesystem(working)
    images = train.count() // config.workers  # of each worker; the split is equal
    if images < _FEWEST_IMAGES:
        raise ConfigError(f"{train.count()} training images for {config.workers} workers; ask for fewer workers")
    batch_size = min(config.batch_size, images)
    return ray.train.torch.TorchTrainer(
        _worker,
        train_loop_config={
            "plan": plan,
            "batch_size": batch_size,
            "steps": images // batch_size,
            "events": events,
            "place": storage.join(working, run_name(config)),
        },
        scaling_config=ray.train.ScalingConfig(num_workers=config.workers, use_gpu=session.cluster_gpus() > 0),
        run_config=ray.train.RunConfig(
            name=run_name(config),
            storage_path=path,
            storage_filesystem=store,
            failure_config=ray.train.FailureConfig(max_failures=config.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1, checkpoint_score_attribute="rank"),
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),  # type: ignore[call-arg]
        ),
        datasets={"train": train, "valid": valid},
        dataset_config=ray.train.DataConfig(datasets_to_split=["train"]),
    )


def _best(trainer: ray.train.torch.TorchTrainer, best_in: str) -> tuple[bytes, History]:
    """Run the workers: the weights of the best epoch, and all epochs."""
    try:
        result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise RunError(f"training broke: {error}; the same command resumes it from its last checkpoint") from error
    if result.checkpoint is None or not result.best_checkpoints:
        raise RunError("training left no checkpoint; run the same command again")
    latest = _load_state(result.checkpoint)
    history = json.loads(latest["history"])
    if best_epoch(history, best_in)["valid_loss"] is None:
        raise RunError("training diverged: the loss of every epoch is infinite; lower --learning-rate")
    best = max(result.best_checkpoints, key=lambda pair: pair[1]["rank"])[0]
    return _load_state(best)["weights"], history


def run_name(config: TrainConfig) -> str:
    """Follows from the settings: the same command finds its own checkpoints again."""
    return hashlib.sha256(json.dumps(settings_of(config), sort_keys=True).encode()).hexdigest()[:12]


# ---- workers --------------------------------------------------------------------------------------------------


def _worker(settings: dict[str, Any]) -> None:
    """One training process: resume where a checkpoint is, fit, and report every epoch."""
    plan, batch_size, steps, events, place = (
        settings[name] for name in ("plan", "batch_size", "steps", "events", "place")
    )
    config, context = plan.config, ray.train.get_context()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // context.get_local_world_size()))
    others, device, teacher = distributed.connected(), ray.train.torch.get_device(), plan.teacher()
    if device.type == "cpu":
        keep_memory()  # a ninth of a U-Net's time went into clearing pages
    teller = _Teller(events, -(-steps // config.optim.accumulate)) if others.rank == 0 else None
    course = Course(
        config,
        plan.card,
        plan.network(),
        plan.loss(),
        steps,
        peers=others,
        device=device,
        wrap=ray.train.torch.prepare_model,
        teacher=teacher and teacher.to(device),
        watch=teller or unwatched,
    )
    if checkpoint := ray.train.get_checkpoint():
        course.restore(_load_state(checkpoint))
        if teller:
            events.put(Resumed(len(course.history)))

    def train(epoch: int) -> Iterator[Batch]:
        rows = ray.train.get_dataset_shard("train").iter_torch_batches(
            batch_size=batch_size,
            drop_last=True,
            local_shuffle_buffer_size=_SHUFFLED,
            local_shuffle_seed=config.seed * 100_003 + epoch,
        )
        if teller:
            teller.begin(epoch)
        yield from (_batch(batch) for batch in itertools.islice(rows, steps))

    def valid() -> Iterator[Batch]:
        """Every worker reads all of it and takes its own share by key: nothing is dropped, nothing judged twice."""
        distributed.share_buffers(course.judged)
        for batch in ray.train.get_dataset_shard("valid").iter_torch_batches(batch_size=batch_size):
            own = batch["key"] % others.size == others.rank
            if own.any():
                yield _batch({name: values[own] for name, values in batch.items()})

    for result in course.epochs(train, valid):
        latest = course.history[-1]
        metrics = {"epoch": result.epoch, "rank": rank(latest, config.best)}
        checkpoint = None
        if teller:
            events.put(Finished(result.epoch, describe(plan.card, latest), result.seconds))
            checkpoint = _save_state(course.state(), place, f"epoch={result.epoch:04d}")
        ray.train.report(metrics, checkpoint, checkpoint_upload_mode=ray.train.CheckpointUploadMode.NO_UPLOAD)


class _Teller:
    """Tells the driver of the leading worker's steps, once a second: its loss waits for the GPU no oftener."""

    def __init__(self, events: Queue, steps: int) -> None:
        self._events, self._steps, self._told = events, steps, 0.0

    def begin(self, epoch: int) -> None:
        self._epoch, self._step = epoch, 0

    def __call__(self, total: torch.Tensor, rate: float) -> None:
        self._step += 1
        if time.monotonic() - self._told > _TELL_EVERY_S:
            self._told = time.monotonic()
            cost, cells = total.tolist()
            self._events.put(Stepped(self._epoch + 1, self._step, self._steps, cost / max(cells, 1), rate))


def _batch(batch: dict[str, torch.Tensor]) -> Batch:
    """(N, S, S) uint8 → (N, 1, S, S); a mask target likewise, as float."""
    target = batch["target"]
    return batch["pixels"][:, None], target[:, None].float() if target.ndim == 3 else target


def _save_state(state: dict[str, Any], place: str, name: str) -> ray.train.Checkpoint:
    """Not by Ray's own upload: `pyarrow.fs.copy_files` ends well, and leaves no file, where S3 refused a part.

    pyarrow 26.0: the error meets a destructor, which prints it ("Error ignored when destroying file").
    """
    # torch.save pickles bytes as text: ResNet-50 took 0.75 s and 314 MB so, and takes 0.1 s and 269 MB as tensors.
    tensors = {name: torch.frombuffer(bytearray(state[name]), dtype=torch.uint8) for name in _files_in(state)}
    with storage.filling(storage.join(place, name, _STATE)) as path:
        torch.save(state | tensors, path)
    managed = ray.train.get_context().get_storage()
    return ray.train.Checkpoint(managed.build_checkpoint_path_from_name(name), managed.storage_filesystem)


def _load_state(checkpoint: ray.train.Checkpoint) -> dict[str, Any]:
    assert checkpoint.filesystem
    with checkpoint.filesystem.open_input_file(f"{checkpoint.path}/{_STATE}") as state:  # a stream asks for 16 KiB
        loaded = torch.load(io.BytesIO(state.readall()), weights_only=True, map_location="cpu")
    return loaded | {name: loaded[name].numpy().tobytes() for name in _files_in(loaded)}


def _files_in(state: dict[str, Any]) -> set[str]:
    """What of a course's state is a weights file."""
    return {"weights", "learning"} & state.keys()

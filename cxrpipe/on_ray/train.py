"""Training with Ray: Ray Data prepares the images once, Ray Train runs a `Trainer` on 1 to N workers."""

import functools
import hashlib
import itertools
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray.data
import ray.train
import ray.train.torch
import torch
from ray.util.queue import Queue

from cxrpipe import console, storage
from cxrpipe.config import TrainConfig
from cxrpipe.errors import ConfigError, RunError
from cxrpipe.models.devices import is_out_of_memory
from cxrpipe.models.execution import keep_memory
from cxrpipe.models.precision import resolve
from cxrpipe.on_ray import checkpoints, session
from cxrpipe.on_ray.examples import prepare_examples, prepare_held_out, shares
from cxrpipe.on_ray.placement import Placement, place
from cxrpipe.on_ray.predictions import predict, predict_examples, predict_refit
from cxrpipe.on_ray.progress import Finished, Noted, ProgressReporter, Resumed, listening, tell
from cxrpipe.records import Study
from cxrpipe.records.study_table import StudyTable
from cxrpipe.training import distributed
from cxrpipe.training.epochs import History, describe, rank_once
from cxrpipe.training.fit import Batch, ignore_steps
from cxrpipe.training.plan import TrainingPlan
from cxrpipe.training.predictions import Predictions
from cxrpipe.training.settings import settings_of
from cxrpipe.training.trainer import Trainer

_SHUFFLED = 4_096
"""Images in the shuffle buffer of a worker."""
_ASKED_EVERY_S = 60.0
"""Ray's RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S: after so long without machines it counts one failure of its own."""
_LOOK_AT_GPU = (
    "look with nvidia-smi for the driver, and with python -c 'import torch; print(torch.version.cuda)' "
    "for a torch that was built without CUDA"
)
_FEWEST_IMAGES = 2
"""Images of a worker: BatchNorm cannot take the variance of a single image."""


def train(
    plan: TrainingPlan, table: StudyTable, studies: Sequence[Study], working: str, held_out: Sequence[Study] = ()
) -> tuple[bytes, History, Predictions]:
    """Train on Ray. Gives the weights of the best epoch as a file for scoring, all epochs, and the predictions.

    held_out  studies of the fold that is held out: the finished model predicts them, too
    """
    config, where = plan.config, place(plan.config)
    if not where.on_gpu:
        resolve(config.precision, torch.device("cpu"))  # refuses what GPUs alone can do
    console.log(str(where))
    with listening(plan.stop_at or config.epochs) as events:
        with session.waiting(where.missing_to_prepare, where.wait_s):
            train, valid = prepare_examples(plan, table, studies, events, where.preparers)
            trainer = _trainer(plan, where, train, valid, working, events)
        with session.waiting(where.missing_to_train, where.wait_s):
            result = _fitted(trainer, where, config.max_failures)
            weights, history = checkpoints.last(result) if plan.stop_at else checkpoints.best(result, config.best)
            weights = plan.for_scoring(weights)
            if valid is None:
                return weights, history, predict_refit(plan.card, weights, train, where.on_gpu)
            console.log("predicting the valid split with the model of the best epoch")
            predictions = predict_examples(plan.card, weights, train, valid, where.on_gpu)
        if held_out:
            console.log("predicting the fold that is held out")
            with session.waiting(where.missing_to_prepare, where.wait_s):
                examples = prepare_held_out(plan, table, held_out, events, where.preparers)
                of_fold = predict(plan.card, weights, examples, where.on_gpu)
                predictions = predictions._replace(held_out=of_fold)
        return weights, history, predictions


def _trainer(
    plan: TrainingPlan,
    where: Placement,
    train: ray.data.Dataset,
    valid: ray.data.Dataset | None,
    working: str,
    events: Queue,
) -> Callable[[], ray.train.torch.TorchTrainer]:
    """Give what makes a trainer; every one that is made goes on from the last checkpoint."""
    config = plan.config
    store, path = storage.filesystem(working)
    images = train.count() // config.workers  # per worker; Ray splits the images equally
    if images < _FEWEST_IMAGES:
        raise ConfigError(f"{train.count()} training images for {config.workers} workers; ask for fewer workers")
    batch_size = min(config.batch_size, images)
    of_workers = [] if valid is None else shares(valid, config.workers)
    shares_of_valid = {f"valid{rank}": share for rank, share in enumerate(of_workers)}
    return lambda: ray.train.torch.TorchTrainer(
        _worker,
        train_loop_config={
            "plan": plan,
            "batch_size": batch_size,
            "steps": images // batch_size,
            "events": events,
            "folder": storage.join(working, run_name(config)),
            "on_gpu": where.on_gpu,
        },
        scaling_config=where.scaling(),
        run_config=ray.train.RunConfig(
            name=run_name(config),
            storage_path=path,
            storage_filesystem=store,
            # `_fitted` tells failures apart. Ray asks for the machines of the workers anew every minute.
            failure_config=ray.train.FailureConfig(  # type: ignore[call-arg]
                max_failures=0,
                controller_failure_limit=math.ceil(where.wait_s / _ASKED_EVERY_S),
            ),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1, checkpoint_score_attribute="rank"),
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
        datasets={"train": train, **shares_of_valid},
        dataset_config=ray.train.DataConfig(datasets_to_split=["train"]),
    )


def _fitted(
    make_trainer: Callable[[], ray.train.torch.TorchTrainer], where: Placement, max_failures: int
) -> ray.train.Result:
    """Run the workers, and start them again from the last checkpoint where they fail for no reason of ours."""
    failures = 0
    while True:
        try:
            return make_trainer().fit()
        except ray.train.TrainingFailedError as error:
            failures += 1
            ours = session.our_error(error)
            if isinstance(ours, RunError | ConfigError):  # the same settings would fail again
                raise ours from error
            if isinstance(error, ray.train.ControllerError) and (missing := where.missing_to_train()):
                lack = f"machines did not come in time: {'; '.join(missing)} (waited for {where.wait_s:g} s at most)"
                raise RunError(f"{lack}; run the same command again when they are there") from error
            reason = str(error).strip().splitlines()[-1]
            if isinstance(error, ray.train.ControllerError) and "nccl" in str(error).lower():
                raise RunError(f"the workers cannot use their GPUs ({reason}); {_LOOK_AT_GPU}") from error
            if failures > max_failures or not isinstance(error, ray.train.WorkerGroupError):
                raise RunError(
                    f"training failed: {error}; run the same command again to resume from the last checkpoint"
                ) from error
            console.log(f"a worker failed ({reason}); restart {failures} of {max_failures}, from the last checkpoint")


def run_name(config: TrainConfig) -> str:
    """Name a run by its settings, so that the same command finds its checkpoints again."""
    return hashlib.sha256(json.dumps(settings_of(config), sort_keys=True).encode()).hexdigest()[:12]


# ---- workers --------------------------------------------------------------------------------------------------


def _worker(settings: dict[str, Any]) -> None:
    """One training process. Lack of memory is an error with the setting that mends it."""
    try:
        _train(**settings)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        config: TrainConfig = settings["plan"].config
        raise RunError(
            f"a batch of {settings['batch_size']} images of {config.side_px} px does not fit into the memory of the "
            f"{'GPU' if settings['on_gpu'] else 'machine'} ({str(error).strip().splitlines()[0]:.200}); lower "
            "--batch-size, and raise --optim.accumulate by the same factor to keep the images of a step"
        ) from error


def _train(plan: TrainingPlan, batch_size: int, steps: int, events: Queue, folder: str, on_gpu: bool) -> None:
    """Resume from a checkpoint if there is one, train, and report every epoch."""
    config, context = plan.config, ray.train.get_context()
    torch.set_num_threads(session.threads(0, sharing=context.get_local_world_size()))
    group, device, teacher = distributed.connected(), _device(on_gpu), plan.teacher()
    if device.type == "cpu":
        keep_memory()  # without it, a ninth of the time of a U-Net goes into clearing pages
    reporter = ProgressReporter(events, -(-steps // config.optim.accumulate)) if group.rank == 0 else None
    trainer = Trainer(
        config,
        plan.card,
        plan.network(),
        plan.loss(device),
        steps,
        workers=group,
        device=device,
        wrap=functools.partial(ray.train.torch.prepare_model, move_to_device=device),
        teacher=teacher and teacher.to(device),
        on_step=reporter or ignore_steps,
        notify=lambda line: tell(events, Noted(line)) if reporter else None,
        stop_at=plan.stop_at,
    )
    if checkpoint := ray.train.get_checkpoint():
        trainer.restore(checkpoints.load(checkpoint))
        if reporter:
            tell(events, Resumed(len(trainer.history)))

    def train_batches(epoch: int) -> Iterator[Batch]:
        rows = ray.train.get_dataset_shard("train").iter_torch_batches(
            batch_size=batch_size,
            drop_last=True,
            local_shuffle_buffer_size=_SHUFFLED,
            local_shuffle_seed=config.seed * 100_003 + epoch,
            device=device,
        )
        if reporter:
            reporter.begin(epoch)
        yield from (_batch(batch) for batch in itertools.islice(rows, steps))

    def valid_batches() -> Iterator[Batch]:
        if plan.stop_at:
            return
        distributed.share_buffers(trainer.validated)
        mine = ray.train.get_dataset_shard(f"valid{group.rank}")
        yield from (_batch(batch) for batch in mine.iter_torch_batches(batch_size=batch_size, device=device))

    saved = checkpoints.Checkpoints(folder)
    for result in trainer.epochs(train_batches, valid_batches):
        kept = float(result.epoch) if plan.stop_at else rank_once(result, config.best)  # of a refit the last one
        metrics = {"epoch": result.epoch, "rank": kept}
        if reporter:
            tell(events, Finished(result.epoch, describe(plan.card, result), result.seconds))
            saved.report(metrics, trainer.state(), f"epoch={result.epoch:04d}")
        else:
            saved.report_none(metrics)


def _device(on_gpu: bool) -> torch.device:
    """Give the device of this worker; RunError where Ray has a GPU for it and torch does not."""
    if not on_gpu:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise RunError(f"{os.uname().nodename}: Ray gave this worker a GPU, and torch finds none; {_LOOK_AT_GPU}")
    device: torch.device = ray.train.torch.get_device()
    return device


def _batch(batch: dict[str, torch.Tensor]) -> Batch:
    """Add the channel: pixels (N, S, S) uint8 → (N, 1, S, S); targets that are masks likewise, as float."""
    target = batch["target"]
    return batch["pixels"][:, None], target[:, None].float() if target.ndim == 3 else target

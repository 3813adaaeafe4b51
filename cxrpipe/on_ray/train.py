"""Training with Ray: Ray Data prepares the images once, Ray Train runs a `Trainer` on 1 to N workers."""

import hashlib
import itertools
import json
import os
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
from cxrpipe.on_ray import checkpoints, session
from cxrpipe.on_ray.examples import prepare_examples
from cxrpipe.on_ray.predictions import predict_examples
from cxrpipe.on_ray.progress import Finished, ProgressReporter, Resumed, listening, tell
from cxrpipe.records import Study
from cxrpipe.records.study_table import StudyTable
from cxrpipe.training import distributed
from cxrpipe.training.epochs import History, best_epoch, describe, from_json, rank
from cxrpipe.training.fit import Batch, ignore_steps
from cxrpipe.training.plan import TrainingPlan, settings_of
from cxrpipe.training.predictions import Predictions
from cxrpipe.training.trainer import Trainer

_SHUFFLED = 4_096
"""Images in the shuffle buffer of a worker."""
_FEWEST_IMAGES = 2
"""Images of a worker: BatchNorm cannot take the variance of a single image."""


def train(
    plan: TrainingPlan, table: StudyTable, studies: Sequence[Study], working: str
) -> tuple[bytes, History, Predictions]:
    """Train on Ray. Gives the weights of the best epoch as a file for scoring, all epochs, and the predictions."""
    config = plan.config
    session.require_cpus(config.workers + 1, f"training with {config.workers} workers")
    if 0 < session.cluster_gpus() < config.workers:
        raise ConfigError(
            f"{config.workers} workers for {session.cluster_gpus()} GPUs; ask for at most one worker per GPU"
        )
    with listening(config.epochs) as events:
        train, valid = prepare_examples(plan, table, studies, events)
        console.log(f"starting {config.workers} workers" if config.workers > 1 else "starting one worker")
        weights, history = _best(_trainer(plan, train, valid, working, events), config.best)
        weights = plan.for_scoring(weights)
        console.log("predicting the valid split with the model of the best epoch")
        return weights, history, predict_examples(plan.card, weights, train, valid)


def _trainer(
    plan: TrainingPlan, train: ray.data.Dataset, valid: ray.data.Dataset, working: str, events: Queue
) -> ray.train.torch.TorchTrainer:
    config = plan.config
    store, path = storage.filesystem(working)
    images = train.count() // config.workers  # per worker; Ray splits the images equally
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
    """Run the workers. Gives the weights of the best epoch, and all epochs."""
    try:
        result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise RunError(
            f"training failed: {error}; run the same command again to resume from the last checkpoint"
        ) from error
    if result.checkpoint is None or not result.best_checkpoints:
        raise RunError("training ended without a checkpoint; run the same command again")
    latest = checkpoints.load(result.checkpoint)
    history = from_json(latest["history"])
    if best_epoch(history, best_in).valid_loss is None:
        raise RunError("training diverged: no epoch has a finite loss; lower --learning-rate")
    best = max(result.best_checkpoints, key=lambda pair: pair[1]["rank"])[0]
    return checkpoints.load(best)["weights"], history


def run_name(config: TrainConfig) -> str:
    """Name a run by its settings, so that the same command finds its checkpoints again."""
    return hashlib.sha256(json.dumps(settings_of(config), sort_keys=True).encode()).hexdigest()[:12]


# ---- workers --------------------------------------------------------------------------------------------------


def _worker(settings: dict[str, Any]) -> None:
    """One training process: resume from a checkpoint if there is one, train, and report every epoch."""
    plan, batch_size, steps, events, place = (
        settings[name] for name in ("plan", "batch_size", "steps", "events", "place")
    )
    config, context = plan.config, ray.train.get_context()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // context.get_local_world_size()))
    group, device, teacher = distributed.connected(), ray.train.torch.get_device(), plan.teacher()
    if device.type == "cpu":
        keep_memory()  # without it, a ninth of the time of a U-Net goes into clearing pages
    reporter = ProgressReporter(events, -(-steps // config.optim.accumulate)) if group.rank == 0 else None
    trainer = Trainer(
        config,
        plan.card,
        plan.network(),
        plan.loss(),
        steps,
        workers=group,
        device=device,
        wrap=ray.train.torch.prepare_model,
        teacher=teacher and teacher.to(device),
        on_step=reporter or ignore_steps,
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
        )
        if reporter:
            reporter.begin(epoch)
        yield from (_batch(batch) for batch in itertools.islice(rows, steps))

    def valid_batches() -> Iterator[Batch]:
        """Read all examples and take those whose key belongs to this worker: none is left out, none counts twice."""
        distributed.share_buffers(trainer.validated)
        for batch in ray.train.get_dataset_shard("valid").iter_torch_batches(batch_size=batch_size):
            is_mine = batch["key"] % group.size == group.rank
            if is_mine.any():
                yield _batch({name: values[is_mine] for name, values in batch.items()})

    for result in trainer.epochs(train_batches, valid_batches):
        metrics = {"epoch": result.epoch, "rank": rank(result, config.best)}
        checkpoint = None
        if reporter:
            tell(events, Finished(result.epoch, describe(plan.card, result), result.seconds))
            checkpoint = checkpoints.save(trainer.state(), place, f"epoch={result.epoch:04d}")
        ray.train.report(metrics, checkpoint, checkpoint_upload_mode=ray.train.CheckpointUploadMode.NO_UPLOAD)


def _batch(batch: dict[str, torch.Tensor]) -> Batch:
    """Add the channel: pixels (N, S, S) uint8 → (N, 1, S, S); targets that are masks likewise, as float."""
    target = batch["target"]
    return batch["pixels"][:, None], target[:, None].float() if target.ndim == 3 else target

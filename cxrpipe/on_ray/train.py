"""Training with Ray: Ray Data prepares the images once, Ray Train runs `cxrpipe.training.fit` on 1 to N workers."""

import hashlib
import itertools
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray.data
import ray.train
import ray.train.torch
import torch

from cxrpipe import console, models, storage
from cxrpipe.cards import save_model
from cxrpipe.config import TrainConfig
from cxrpipe.errors import ConfigError, RunError
from cxrpipe.index import keep_source, open_source
from cxrpipe.on_ray import session
from cxrpipe.on_ray.events import Finished, Stepped, listening
from cxrpipe.on_ray.ingest import prepare_examples
from cxrpipe.records import Study
from cxrpipe.study_table import StudyTable, scratch_folder
from cxrpipe.train import (
    History,
    Plan,
    already_trained,
    best_epoch,
    describe,
    facts,
    make_plan,
    plain,
    rank,
    settings_of,
)
from cxrpipe.training import Batch, fit

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
        plan, studies = make_plan(config, table)
        plan.network()  # weights that cannot be had are a refusal, not a broken run
        table = keep_source(table, scratch, storage.join(working, "index"))
    with session.session(at_least_cpus=config.workers + 1):
        weights, history = _train(plan, table, studies, working)
    save_model(out, plan.card, weights, facts(plan, table, studies, history))
    storage.delete_below(working)
    best = best_epoch(history)
    console.out().print(f"Best epoch: {best['epoch']} of {config.epochs}, {describe(plan.card, best)}\nModel: {out}")
    return 0


def _train(plan: Plan, table: StudyTable, studies: Sequence[Study], working: str) -> tuple[bytes, History]:
    """Run the workers; the weights of the best epoch as a file, and what every epoch said."""
    config = plan.config
    session.require_cpus(config.workers + 1, f"training with {config.workers} workers")
    if 0 < session.cluster_gpus() < config.workers:
        raise ConfigError(f"{config.workers} workers, and Ray has {session.cluster_gpus()} GPUs; ask for one a GPU")
    with listening(config.epochs) as events:
        train, valid = prepare_examples(plan.recipe, table, studies, events)
        store, path = storage.filesystem(working)
        images = train.count() // config.workers  # of each worker; the split is equal
        if images < _FEWEST_IMAGES:
            raise ConfigError(f"{train.count()} training images for {config.workers} workers; ask for fewer workers")
        batch_size = min(config.batch_size, images)
        trainer = ray.train.torch.TorchTrainer(
            _worker,
            train_loop_config={
                "plan": plan,
                "batch_size": batch_size,
                "steps": images // batch_size,
                "events": events,
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
        try:
            result = trainer.fit()
        except ray.train.TrainingFailedError as error:
            raise RunError(f"training broke: {error}; the same command resumes it from its last checkpoint") from error
    if result.checkpoint is None or not result.best_checkpoints:
        raise RunError("training left no checkpoint; run the same command again")
    latest = _load_state(result.checkpoint)
    history = json.loads(latest["history"])
    if best_epoch(history)["valid_loss"] is None:
        raise RunError("training diverged: the loss of every epoch is infinite; lower --learning-rate")
    best = max(result.best_checkpoints, key=lambda pair: pair[1]["rank"])[0]
    return _load_state(best)["weights"], history


def run_name(config: TrainConfig) -> str:
    """Follows from the settings: the same command finds its own checkpoints again."""
    return hashlib.sha256(json.dumps(settings_of(config), sort_keys=True).encode()).hexdigest()[:12]


# ---- workers --------------------------------------------------------------------------------------------------


def _worker(settings: dict[str, Any]) -> None:
    """One training process: resume where a checkpoint is, fit, and report every epoch."""
    plan, batch_size, steps, events = (settings[name] for name in ("plan", "batch_size", "steps", "events"))
    config, context = plan.config, ray.train.get_context()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // context.get_local_world_size()))
    network = ray.train.torch.prepare_model(plan.network())
    optimizer = torch.optim.AdamW(network.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=config.epochs * steps)
    history: History = []
    if checkpoint := ray.train.get_checkpoint():
        state = _load_state(checkpoint)
        models.restore(_bare(network), state["weights"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        history = json.loads(state["history"])
    leads = context.get_world_rank() == 0

    def train(epoch: int) -> Iterator[Batch]:
        rows = ray.train.get_dataset_shard("train").iter_torch_batches(
            batch_size=batch_size,
            drop_last=True,
            local_shuffle_buffer_size=_SHUFFLED,
            local_shuffle_seed=config.seed * 100_003 + epoch,
        )
        told = 0.0
        for step, batch in enumerate(itertools.islice(rows, steps), start=1):
            yield _batch(batch)
            if leads and time.monotonic() - told > _TELL_EVERY_S:
                events.put(Stepped(epoch + 1, step, steps))
                told = time.monotonic()

    def valid() -> Iterator[Batch]:
        """Every worker reads all of it and takes its own share by key: nothing is dropped, nothing judged twice."""
        _share_buffers(network)
        for batch in ray.train.get_dataset_shard("valid").iter_torch_batches(batch_size=batch_size):
            own = batch["key"] % context.get_world_size() == context.get_world_rank()
            if own.any():
                yield _batch({name: values[own] for name, values in batch.items()})

    epochs = range(len(history), config.epochs)
    for result in fit(network, plan.card, plan.loss(), optimizer, schedule, train, valid, epochs, config.seed, _gather):
        history.append(plain(asdict(result)))
        metrics = {"epoch": result.epoch, "rank": rank(history[-1])}
        with tempfile.TemporaryDirectory() as folder:
            if leads:
                events.put(Finished(result.epoch, describe(plan.card, history[-1]), result.seconds))
                state = {
                    "weights": models.weights_bytes(_bare(network)),
                    "optimizer": optimizer.state_dict(),
                    "schedule": schedule.state_dict(),
                    "history": json.dumps(history),
                }
                torch.save(state, Path(folder, _STATE))
            checkpoint = ray.train.Checkpoint.from_directory(folder) if leads else None
            ray.train.report(metrics, checkpoint, checkpoint_dir_name=f"epoch={result.epoch:04d}")


def _share_buffers(network: torch.nn.Module) -> None:
    """Give all workers the BatchNorm statistics of the first: those that are saved are those that are judged."""
    if torch.distributed.is_initialized():
        for buffer in network.buffers():
            torch.distributed.broadcast(buffer, src=0)


def _bare(network: torch.nn.Module) -> torch.nn.Module:
    """Without the wrapping of DDP."""
    return getattr(network, "module", network)


def _batch(batch: dict[str, torch.Tensor]) -> Batch:
    """(N, S, S) uint8 → (N, 1, S, S); a mask target likewise, as float."""
    target = batch["target"]
    return batch["pixels"][:, None], target[:, None].float() if target.ndim == 3 else target


def _gather(own: list[Any]) -> list[Any]:
    if not torch.distributed.is_initialized():
        return own
    joined: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(joined, own)
    return list(itertools.chain.from_iterable(joined))


def _load_state(checkpoint: ray.train.Checkpoint) -> dict[str, Any]:
    with checkpoint.as_directory() as folder:
        return torch.load(Path(folder, _STATE), weights_only=True, map_location="cpu")

"""Training with Ray: Ray Data prepares the images once, Ray Train runs `cxrpipe.training.fit` on 1 to N workers."""

import hashlib
import itertools
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray.data
import ray.train
import ray.train.torch
import safetensors.torch
import torch

from cxrpipe import console, models, storage
from cxrpipe.cards import save_model
from cxrpipe.config import TrainConfig
from cxrpipe.errors import RunError
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
    with listening(config.epochs) as events:
        train, valid = prepare_examples(plan.recipe, table, studies, events)
        store, path = storage.filesystem(working)
        steps = max(1, train.count() // (config.workers * config.batch_size))
        trainer = ray.train.torch.TorchTrainer(
            _worker,
            train_loop_config={"plan": plan, "steps": steps, "events": events},
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
    best = max(result.best_checkpoints, key=lambda pair: pair[1]["rank"])[0]
    return _load_state(best)["weights"], json.loads(latest["history"])


def run_name(config: TrainConfig) -> str:
    """Follows from the settings: the same command finds its own checkpoints again."""
    return hashlib.sha256(json.dumps(settings_of(config), sort_keys=True).encode()).hexdigest()[:12]


# ---- workers --------------------------------------------------------------------------------------------------


def _worker(settings: dict[str, Any]) -> None:
    """One training process: resume where a checkpoint is, fit, and report every epoch."""
    plan, steps, events = settings["plan"], settings["steps"], settings["events"]
    config, context = plan.config, ray.train.get_context()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // context.get_local_world_size()))
    network = ray.train.torch.prepare_model(plan.network())
    optimizer = torch.optim.AdamW(network.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=config.epochs * steps)
    history: History = []
    if checkpoint := ray.train.get_checkpoint():
        state = _load_state(checkpoint)
        _bare(network).load_state_dict(safetensors.torch.load(state["weights"]))
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        history = json.loads(state["history"])
    leads = context.get_world_rank() == 0

    def train(epoch: int) -> Iterator[Batch]:
        rows = ray.train.get_dataset_shard("train").iter_torch_batches(
            batch_size=config.batch_size,
            drop_last=True,
            local_shuffle_buffer_size=_SHUFFLED,
            local_shuffle_seed=config.seed * 100_003 + epoch,
        )
        for step, batch in enumerate(itertools.islice(rows, steps), start=1):
            yield _batch(batch)
            if leads:
                events.put(Stepped(epoch + 1, step, steps))

    def valid() -> Iterator[Batch]:
        """Every worker reads all of it and takes its own share by key: nothing is dropped, nothing judged twice."""
        for batch in ray.train.get_dataset_shard("valid").iter_torch_batches(batch_size=config.batch_size):
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

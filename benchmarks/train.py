"""Training three ways on the same images, in turn: python benchmarks/train.py --archive FILE [--rounds 3 --epochs 3].

1  plain   a DataLoader over decoded images in memory, network and optimiser as torch makes them, nothing saved
2  loop    this project's trainer, in this process, without Ray: one worker's work
3  job     the program: Ray Data's stream, Ray Train's worker, a checkpoint after every epoch

Model, batch, precision, augmentation, loss, optimiser and validation are the same. Figures are seconds per epoch, the
first of each training left out (start-up, warm caches): `job / plain` is what the program costs, `job / loop` what Ray
does. The ways alternate, since a shared machine is faster in one quarter of an hour than in the next.
"""

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from cxrpipe.archives.index import index
from cxrpipe.archives.reader import Reader
from cxrpipe.config import TrainConfig
from cxrpipe.config.augment import AugmentConfig
from cxrpipe.models.card import Card
from cxrpipe.models.execution import keep_memory
from cxrpipe.models.folder import CARD
from cxrpipe.models.normalise import normalise
from cxrpipe.models.precision import autocast
from cxrpipe.programs.train import run
from cxrpipe.records.study_table import StudyTable
from cxrpipe.training.augment import augment
from cxrpipe.training.examples import examples
from cxrpipe.training.fit import Batch, validate
from cxrpipe.training.optim import Schedule
from cxrpipe.training.plan import TrainingPlan, plan_training
from cxrpipe.training.trainer import Trainer

Split = tuple[Tensor, Tensor]
"""(N, 1, S, S) uint8 pixels, (N, F) float targets."""


def decoded(plan: TrainingPlan, table: StudyTable, split: str) -> Split:
    _, studies = plan_training(plan.config, table)
    with Reader(table.seek_points) as reader:
        made = [example for study in studies if study.split == split for example in examples(study, reader, plan.spec)]
    usable = [example for example in made if not example.problem]
    pixels = torch.stack([torch.tensor(example.pixels) for example in usable])[:, None]
    return pixels, torch.stack([torch.tensor(example.target) for example in usable])


def batches(split: Split, size: int, *, shuffle: bool, drop_last: bool) -> Iterator[Batch]:
    yield from DataLoader(TensorDataset(*split), size, shuffle=shuffle, drop_last=drop_last)


def plain(plan: TrainingPlan, train: Split, valid: Split) -> list[float]:
    """The loop that everyone writes."""
    config, network, loss = plan.config, plan.network(), plan.loss()
    optimizer = torch.optim.AdamW(network.parameters(), config.learning_rate, weight_decay=config.optim.weight_decay)
    schedule = Schedule(config.optim, optimizer, config.epochs, len(train[0]) // config.batch_size)
    device, seconds = torch.device("cpu"), []
    for _ in range(config.epochs):
        started = time.monotonic()
        network.train()
        for pixels, targets in batches(train, config.batch_size, shuffle=True, drop_last=True):
            varied, _ = augment(pixels, None, config.augment)
            with autocast(device, config.precision):
                logits = network(normalise(varied, plan.card).contiguous())
            optimizer.zero_grad(set_to_none=True)
            loss(logits.float(), targets).backward()
            optimizer.step()
            schedule.step()
        judged = batches(valid, config.batch_size, shuffle=False, drop_last=False)
        validate(network, plan.card, loss, judged)
        seconds.append(time.monotonic() - started)
    return seconds


def loop(plan: TrainingPlan, train: Split, valid: Split) -> list[float]:
    keep_memory()  # as a worker does
    size = plan.config.batch_size
    trainer = Trainer(plan.config, plan.card, plan.network(), plan.loss(), len(train[0]) // size)
    epochs = trainer.epochs(
        lambda _: batches(train, size, shuffle=True, drop_last=True),
        lambda: batches(valid, size, shuffle=False, drop_last=False),
    )
    return [result.seconds for result in epochs]


def in_own_process(way: Callable[..., list[float]], plan: TrainingPlan, splits: list[Split]) -> list[float]:
    """So that none inherits the memory of another."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(way, plan, *splits).result()


def job(config: TrainConfig) -> list[float]:
    assert run(config) == 0
    card = Card.from_json(Path(config.out, CARD).read_bytes(), config.out)
    return [epoch["seconds"] for epoch in card.facts["history"]]


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--archive", required=True, help="An archive with findings, such as pneumoniamnist.npz.")
    asked.add_argument("--arch", default="resnet50")
    asked.add_argument("--side-px", type=int, default=64)
    asked.add_argument("--batch-size", type=int, default=64)
    asked.add_argument("--rounds", type=int, default=3)
    asked.add_argument("--epochs", type=int, default=3)
    asked.add_argument("--precision", default="auto")
    args = asked.parse_args()
    with tempfile.TemporaryDirectory(prefix="cxrpipe-") as scratch:
        index(args.archive, f"{scratch}/table/studies.parquet")
        table = StudyTable(f"{scratch}/table/studies.parquet")
        config = TrainConfig(
            task="classify",
            studies=table.url,
            out=f"{scratch}/model",
            augment=AugmentConfig(rotation_deg=10, shift_fraction=0.06, zoom_fraction=0.1, contrast=0.2),
            **{name: value for name, value in vars(args).items() if name not in ("archive", "rounds")},
        )
        plan, _ = plan_training(config, table)
        splits = [decoded(plan, table, split) for split in ("train", "valid")]
        found: dict[str, list[float]] = {"plain": [], "loop": [], "job": []}
        for number in range(args.rounds):
            found["plain"] += in_own_process(plain, plan, splits)[1:]
            found["loop"] += in_own_process(loop, plan, splits)[1:]
            found["job"] += job(replace(config, out=f"{scratch}/model{number}"))[1:]
    print(f"{os.cpu_count()} CPUs, {len(splits[0][0])} + {len(splits[1][0])} images, {args}")
    print(f"{'':8}{'s/epoch':>10}{'images/s':>10}{'/ plain':>9}{'/ loop':>9}  seconds of each epoch")
    typical = {name: statistics.median(seconds) for name, seconds in found.items()}
    for name, seconds in typical.items():
        ratios = "".join(f"{seconds / typical[base]:9.3f}" for base in ("plain", "loop"))
        each = ", ".join(f"{epoch:.1f}" for epoch in found[name])
        print(f"{name:8}{seconds:10.2f}{len(splits[0][0]) / seconds:10.1f}{ratios}  {each}")


if __name__ == "__main__":
    main()

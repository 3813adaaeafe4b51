"""Scoring four ways on the same images, side by side: python benchmarks/score.py --archive DIR [--studies 200].

1  naive    a plain DataLoader loop, eager float32 networks in torch's default memory order
2  guide    the recipe of Ray Data's batch-inference guide: map_batches with one actor that holds the models
3  loop     this project's plain loop
4  job      this project's Ray job

The models are two ResNet-50 at 224 px and a U-Net (resnet34) at 256 px with random weights: what is measured is time.
All but the guide's actor have every core; Ray gives it one thread. Steady state leaves out the first batch or part; of
3 and 4 it is `studies_per_second` of their `run.json`.

--by-stopwatch shows whether that figure is true: the job scores a quarter of the studies and then all of them, in parts
as users have them, and (N2 - N1) / (t2 - t1) stands beside it.
"""

import argparse
import io
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import cv2
import numpy as np
import torch

from cxrpipe.archives.index import index
from cxrpipe.archives.reader import Reader
from cxrpipe.config import ScoreConfig
from cxrpipe.models import architectures, execution
from cxrpipe.models.card import Card
from cxrpipe.models.ensemble import open_ensemble
from cxrpipe.models.folder import ModelFolder, save_model
from cxrpipe.models.weights import IMAGENET_MEAN, IMAGENET_STD, load, weights_bytes
from cxrpipe.programs.score import score_archive
from cxrpipe.records import runs_of
from cxrpipe.records.study_table import StudyTable
from cxrpipe.runs.engine import loop
from cxrpipe.scoring.predict import Predictor

FINDINGS = tuple(f"Finding_{number}" for number in range(14))
BATCH = 16
MEMBERS = (("a", "resnet50", 224), ("b", "resnet50", 224), ("lungs", "unet-resnet34", 256))


class Timed(NamedTuple):
    images: int
    start_s: float
    """Until the first batch or part is done."""
    per_second: float
    """After it."""
    stages: dict[str, float]


def make_models(folder: Path) -> list[ModelFolder]:
    made = []
    for number, (name, architecture, side_px) in enumerate(MEMBERS):
        torch.manual_seed(number)
        classifies = not architecture.startswith("unet")
        card = Card(
            task="classify" if classifies else "segment",
            architecture=architecture,
            side_px=side_px,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            findings=FINDINGS if classifies else (),
        )
        weights = weights_bytes(architectures.build_from_card(card))
        made.append(save_model(str(folder / name), card, weights, {}))
    return made


def timed(batches: Iterator[int], stages: Callable[[], dict[str, float]] = dict) -> Timed:
    """Run what yields the number of images of each batch."""
    started = time.monotonic()
    first = next(batches)
    begun = time.monotonic()
    rest = sum(batches)
    return Timed(first + rest, begun - started, rest / (time.monotonic() - begun), stages())


# ---- 1: the loop that everyone writes ---------------------------------------------------------------------------


class Films(torch.utils.data.Dataset):
    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.iterdir())

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> dict[int, torch.Tensor]:
        return squares(self.paths[number].read_bytes())


def squares(data: bytes) -> dict[int, torch.Tensor]:
    """Side → (1, S, S) float, normalised."""
    film = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    found = {}
    for side_px in sorted({side_px for *_, side_px in MEMBERS}):
        small = cv2.resize(film, (side_px, side_px), interpolation=cv2.INTER_AREA)
        found[side_px] = (torch.from_numpy(small)[None].float() / 255 - IMAGENET_MEAN) / IMAGENET_STD
    return found


def plain_networks(made: list[ModelFolder]) -> list[tuple[int, torch.nn.Module]]:
    return [(model.card.side_px, load(model)) for model in made]


def naive(films: Path, made: list[ModelFolder]) -> Iterator[int]:
    networks = plain_networks(made)
    with torch.inference_mode():
        for batch in torch.utils.data.DataLoader(Films(films), batch_size=BATCH):
            for side_px, network in networks:
                network(batch[side_px]).sigmoid().numpy()
            yield len(next(iter(batch.values())))


# ---- 2: Ray Data's guide ------------------------------------------------------------------------------------------


class GuidesActor:
    def __init__(self, made: list[ModelFolder]) -> None:
        self.networks = plain_networks(made)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        given = [squares(data) for data in batch["bytes"]]
        out = {}
        with torch.inference_mode():
            for number, (side_px, network) in enumerate(self.networks):
                probs = network(torch.stack([squares[side_px] for squares in given])).sigmoid()
                out[f"said_{number}"] = probs.mean(dim=tuple(range(1, probs.ndim))).numpy()
        return out


def guide(films: Path, made: list[ModelFolder]) -> Iterator[int]:
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = ray.data.read_binary_files(str(films)).map_batches(
        GuidesActor,
        fn_constructor_args=(made,),
        batch_size=BATCH,
        compute=ray.data.ActorPoolStrategy(size=1),
    )
    for batch in rows.iter_batches(batch_size=BATCH):
        yield len(batch["said_0"])


# ---- 3 and 4: this project --------------------------------------------------------------------------------------


def ours(engine: Any, config: ScoreConfig) -> Timed:
    arrived: list[float] = []

    def watched(job: Any) -> Iterator[Any]:
        for receipt in engine(job):
            arrived.append(time.monotonic())
            yield receipt

    started = time.monotonic()
    assert score_archive(config, watched) == 0
    (account,) = runs_of(config.out)
    return Timed(account.studies, arrived[0] - started, account.studies_per_second, account.stage_seconds)


def by_stopwatch(engine: Any, config: ScoreConfig) -> str:
    """The rate that a run says of itself, and the one that two runs and a stopwatch show."""
    seconds, accounts = [], []
    for limit in (config.limit // 4, config.limit):
        limited = replace(config, limit=limit, out=f"{config.out}-{limit}", part_studies=ScoreConfig.part_studies)
        started = time.monotonic()
        assert score_archive(limited, engine) == 0
        seconds.append(time.monotonic() - started)
        accounts += runs_of(limited.out)
    shorter, longer = accounts
    shown = (longer.studies - shorter.studies) / (seconds[1] - seconds[0])
    reported = longer.studies_per_second
    runs = f"{shorter.studies} studies in {seconds[0]:.1f} s, {longer.studies} in {seconds[1]:.1f} s"
    return f"{runs}: {shown:.2f} studies/s; run.json says {reported:.2f} ({reported / shown - 1:+.0%})"


def ceiling(config: ScoreConfig, made: list[ModelFolder]) -> float:
    """Images per second of the networks alone, as the job runs them."""
    ensemble = open_ensemble(config.models, config.segmenter)
    predictor = Predictor(ensemble, plan=execution.plan(None, config.precision, config.compile))
    pixels = {each: np.zeros((BATCH, each.side_px, each.side_px), np.uint8) for each in ensemble.preparations}
    predictor.predict(pixels)
    started, done = time.monotonic(), 0
    while time.monotonic() - started < 8:
        predictor.predict(pixels)
        done += BATCH
    return done / (time.monotonic() - started)


# ---- all of them ------------------------------------------------------------------------------------------------


def write_films(table: StudyTable, folder: Path, limit: int) -> Path:
    """The archive's images as single files, for those who cannot read it as it lies."""
    folder.mkdir()
    with Reader(table.seek_points) as reader:
        for study in islice(table.studies(), limit):
            for number, view in enumerate(study.views):
                (folder / f"{study.study_id}_{number}.png").write_bytes(reader.read(view))
    return folder


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--archive", required=True, help="An archive of radiographs, such as NIH ChestX-ray14.")
    asked.add_argument("--studies", type=int, default=200, help="How many of its studies.")
    asked.add_argument("--precision", default="auto")
    asked.add_argument("--compile", default="auto")
    asked.add_argument("--explain", action="store_true", help="Our two with heat maps.")
    asked.add_argument("--ways", default="naive,guide,loop,job", help="Which of the four.")
    asked.add_argument("--by-stopwatch", action="store_true", help="Only whether the job's rate is true.")
    args = asked.parse_args()
    ways = args.ways.split(",")
    with tempfile.TemporaryDirectory(prefix="cxrpipe-") as scratch:
        folder = Path(scratch)
        made = make_models(folder / "models")
        index(args.archive, str(folder / "table/studies.parquet"))
        table = StudyTable(str(folder / "table/studies.parquet"))
        config = {
            "studies": table.url,
            "models": tuple(model.url for model in made if model.card.task == "classify"),
            "segmenter": (made[-1].url,),
            "limit": min(args.studies, table.rows),
            "precision": args.precision,
            "compile": args.compile,
            "explain": args.explain,
            "batch_studies": BATCH,
            "part_studies": BATCH,
        }
        if args.by_stopwatch:
            from cxrpipe.on_ray import session
            from cxrpipe.on_ray.score import engine

            with session.session():
                print(by_stopwatch(engine, ScoreConfig(out=str(folder / "by-job"), **config)))
            return
        films = write_films(table, folder / "films", args.studies)
        found: dict[str, Timed] = {}
        if "naive" in ways:
            found["naive"] = timed(naive(films, made))
        if "loop" in ways:
            found["loop"] = ours(loop, ScoreConfig(out=str(folder / "by-loop"), **config))
        if {"guide", "job"}.intersection(ways):
            from cxrpipe.on_ray import session
            from cxrpipe.on_ray.score import engine

            with session.session():
                if "guide" in ways:
                    found["guide"] = timed(guide(films, made))
                if "job" in ways:
                    found["job"] = ours(engine, ScoreConfig(out=str(folder / "by-job"), **config))
        alone = ceiling(ScoreConfig(out="unused", **config), made)
    print(report(found, alone))


def report(found: dict[str, Timed], alone: float) -> str:
    lines = io.StringIO()
    print(f"{os.cpu_count()} CPUs, {torch.get_num_threads()} threads, torch {torch.__version__}", file=lines)
    print(f"{'':8}{'images':>8}{'start s':>9}{'images/s':>10}{'x naive':>9}{'x guide':>9}  stage seconds", file=lines)
    for name, each in found.items():
        ratios = [f"{each.per_second / found[base].per_second:9.2f}" if base in found else " " * 9 for base in BASES]
        figures = f"{each.images:8}{each.start_s:9.1f}{each.per_second:10.2f}"
        print(f"{name:8}{figures}{''.join(ratios)}  {json.dumps(each.stages)}", file=lines)
    print(f"networks alone: {alone:.2f} images/s", file=lines)
    return lines.getvalue()


BASES = ("naive", "guide")

if __name__ == "__main__":
    main()

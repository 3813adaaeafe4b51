"""The program `demo`: the whole road on a small archive that it makes itself."""

import json
import time
from pathlib import Path

from cxrpipe import console, evaluate, index, storage, synthetic
from cxrpipe.config import DemoConfig, EvaluateConfig, IndexConfig, ScoreConfig, TrainConfig
from cxrpipe.on_ray import score, session, train
from cxrpipe.records import read_scores

FINDINGS = ("Pneumonia", "Cardiomegaly")
NIH_STUDIES, LUNG_STUDIES = 480, 64
CLASSIFIERS = {"resnet18": 12, "resnet50": 12}
"""Architecture → epochs; small enough for two cores and a few minutes."""


def run(config: DemoConfig) -> int:
    started = time.monotonic()
    out = Path(config.out).resolve()
    with session.session(at_least_cpus=config.workers + 1):
        _road(out, config.workers)
        if config.archive:
            _own_archive(config.archive, out)
    _print_figures(out, time.monotonic() - started)
    return 0


def _road(out: Path, workers: int) -> None:
    """Make, index, train, score, evaluate."""
    _headline("Two synthetic archives, in the layouts of NIH ChestX-ray14 and of the Montgomery County set")
    if not (out / "archives").exists():
        synthetic.write_nih(out / "archives" / "nih", studies=NIH_STUDIES)
        synthetic.write_montgomery(out / "archives" / "montgomery", studies=LUNG_STUDIES)
    tables = {}
    for name in ("nih", "montgomery"):
        tables[name] = str(out / "tables" / name / "studies.parquet")
        index.run(IndexConfig(archive=str(out / "archives" / name), out=tables[name]))
    models = [str(out / "models" / architecture) for architecture in CLASSIFIERS]
    segmenter = str(out / "models" / "lungs")
    for seed, (url, (architecture, epochs)) in enumerate(zip(models, CLASSIFIERS.items(), strict=True)):
        _headline(f"Training {architecture} to classify, with {workers} workers")
        train.run(
            TrainConfig(
                task="classify",
                studies=tables["nih"],
                out=url,
                arch=architecture,
                findings=FINDINGS,
                side_px=64,
                epochs=epochs,
                workers=workers,
                seed=seed,
            )
        )
    _headline(f"Training a U-Net to segment lungs, with {workers} workers")
    train.run(
        TrainConfig(
            task="segment",
            studies=tables["montgomery"],
            out=segmenter,
            arch="unet-resnet18",
            side_px=96,
            epochs=15,
            batch_size=8,
            workers=workers,
        )
    )
    for name in ("nih", "montgomery"):
        _headline(f"Scoring and evaluating the test part of {name}")
        scores = str(out / "scores" / name)
        score.run(
            ScoreConfig(studies=tables[name], out=scores, models=tuple(models), segmenter=segmenter, split="test")
        )
        evaluate.run(EvaluateConfig(scores=scores, studies=tables[name], out=str(out / "figures" / name)))


def _own_archive(archive: str, out: Path) -> None:
    _headline("Your archive. The models below learned from drawings: their probabilities mean NOTHING")
    models = tuple(str(out / "models" / architecture) for architecture in CLASSIFIERS)
    root = str(out / "scores" / "own")
    score.run(ScoreConfig(archive=archive, out=root, models=models, segmenter=str(out / "models" / "lungs")))
    rows = read_scores(root)
    console.out().print(f"{rows.num_rows:,} rows in {storage.join(root, 'scores')}; probabilities without meaning")


def _print_figures(out: Path, seconds: float) -> None:
    nih = json.loads((out / "figures" / "nih" / "metrics.json").read_text())
    lungs = json.loads((out / "figures" / "montgomery" / "metrics.json").read_text())
    _headline(f"Done in {seconds / 60:.1f} minutes")
    lines = console.out()
    lines.print(f"Mean AUROC  {nih['macro']['auroc']['value']:.3f}  on {nih['studies_scored']} synthetic test studies")
    lines.print(f"Lung Dice   {lungs['masks']['dice']['value']:.3f}  on {lungs['masks']['studies']} synthetic test studies")
    for what, where in (
        ("Models", "models/"),
        ("Scores", "scores/nih/scores/"),
        ("Figures", "figures/nih/"),
        ("Account", "scores/nih/runs/*/run.json"),
    ):
        lines.print(f"{what:11} {out / where}")


def _headline(text: str) -> None:
    console.out().print(f"\n[bold]── {text}[/bold]")

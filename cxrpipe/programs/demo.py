"""The program `demo`: make two small archives, then index, train, score and evaluate them."""

import json
import time
from pathlib import Path

from cxrpipe import console, storage
from cxrpipe.archives import synthetic
from cxrpipe.config import DemoConfig, EvaluateConfig, IndexConfig, ScoreConfig, TrainConfig
from cxrpipe.errors import ExitStatus
from cxrpipe.on_ray import session
from cxrpipe.programs import evaluate, index, score, train
from cxrpipe.records import read_scores

FINDINGS = ("Pneumonia", "Cardiomegaly")
NIH_STUDIES, LUNG_STUDIES = 560, 80
MEMBERS = ("first", "second")
"""Two ResNet-18 at 64 px, which differ only in their seed. Two cores train both in a few minutes."""


def run(config: DemoConfig) -> ExitStatus:
    started = time.monotonic()
    out = Path(config.out).resolve()
    with session.session(at_least_cpus=config.workers + 1):
        _run_all(out, config.workers)
        if config.archive:
            _own_archive(config.archive, out)
    _print_figures(out, time.monotonic() - started)
    return ExitStatus.DONE


def _run_all(out: Path, workers: int) -> None:
    """Make the archives; index, train, score and evaluate them."""
    _headline("Two synthetic archives, in the layouts of NIH ChestX-ray14 and of the Montgomery County set")
    if not (out / "archives").exists():
        synthetic.write_nih(out / "archives" / "nih", studies=NIH_STUDIES)
        synthetic.write_montgomery(out / "archives" / "montgomery", studies=LUNG_STUDIES)
    tables = {}
    for name in ("nih", "montgomery"):
        tables[name] = str(out / "tables" / name / "studies.parquet")
        index.run(IndexConfig(archive=str(out / "archives" / name), out=tables[name]))
    models, segmenter = _models(out)
    for seed, (member, url) in enumerate(zip(MEMBERS, models, strict=True)):
        _headline(f"Training the {member} classifier, with {workers} workers")
        train.run(
            TrainConfig(
                task="classify",
                studies=tables["nih"],
                out=url,
                arch="resnet18",
                findings=FINDINGS,
                side_px=64,
                epochs=6,
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
            side_px=64,
            epochs=12,
            batch_size=8,
            workers=workers,
        )
    )
    for name in ("nih", "montgomery"):
        _headline(f"Scoring and evaluating the test split of {name}")
        scores = str(out / "scores" / name)
        score.run(ScoreConfig(studies=tables[name], out=scores, models=models, segmenter=segmenter, split="test"))
        evaluate.run(EvaluateConfig(scores=scores, studies=tables[name], out=str(out / "figures" / name)))


def _own_archive(archive: str, out: Path) -> None:
    _headline("Your archive. The models below learned from drawings: their probabilities mean NOTHING")
    models, segmenter = _models(out)
    root = str(out / "scores" / "own")
    score.run(ScoreConfig(archive=archive, out=root, models=models, segmenter=segmenter))
    rows = read_scores(root)
    console.out().print(f"{rows.num_rows:,} rows in {storage.join(root, 'scores')}; probabilities without meaning")


def _models(out: Path) -> tuple[tuple[str, ...], str]:
    """The model folders of the ensemble's members, and of the segmenter."""
    return tuple(str(out / "models" / member) for member in MEMBERS), str(out / "models" / "lungs")


def _print_figures(out: Path, seconds: float) -> None:
    nih = json.loads((out / "figures" / "nih" / "metrics.json").read_text())
    lungs = json.loads((out / "figures" / "montgomery" / "metrics.json").read_text())
    _headline(f"Done in {seconds / 60:.1f} minutes")
    lines = console.out()
    lines.print(f"Mean AUROC  {nih['macro']['auroc']['value']:.3f}  on {nih['studies_scored']} synthetic test studies")
    lines.print(
        f"Lung Dice   {lungs['masks']['dice']['value']:.3f}  on {lungs['masks']['studies']} synthetic test studies"
    )
    for name, place in (
        ("Models", "models/"),
        ("Scores", "scores/nih/scores/"),
        ("Figures", "figures/nih/"),
        ("Report", "scores/nih/runs/*/run.json"),
    ):
        lines.print(f"{name:11} {out / place}")


def _headline(text: str) -> None:
    console.out().print(f"\n── {text}", style="bold")

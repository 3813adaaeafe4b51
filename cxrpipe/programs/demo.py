"""The program `demo`: make two small archives, then index, train, score and evaluate them."""

import importlib.util
import json
import time
from pathlib import Path

from cxrpipe import console, storage
from cxrpipe.archives import synthetic
from cxrpipe.config import AdoptConfig, DemoConfig, EvaluateConfig, IndexConfig, ScoreConfig, TrainConfig
from cxrpipe.errors import ExitStatus
from cxrpipe.models.folder import CARD, open_model
from cxrpipe.on_ray import session
from cxrpipe.programs import adopt, evaluate, index, score, train
from cxrpipe.records import read_scores

FINDINGS = ("Pneumonia", "Cardiomegaly")
NIH_STUDIES, LUNG_STUDIES = 560, 80
MEMBERS = ("first", "second")
"""Two ResNet-18 at 64 px, which differ only in their seed. Two cores train both in a few minutes."""
ADOPTED = "adopted"
"""The second of them, exported to ONNX and adopted. It votes in the place of the second."""


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
    segmenter = voting(out)[1]
    for seed, (member, url) in enumerate(zip(MEMBERS, _trained(out), strict=True)):
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
    adopt_second(out)
    models, segmenter = voting(out)
    for name in ("nih", "montgomery"):
        _headline(f"Scoring and evaluating the test split of {name}")
        scores = str(out / "scores" / name)
        score.run(ScoreConfig(studies=tables[name], out=scores, models=models, segmenter=(segmenter,), split="test"))
        evaluate.run(EvaluateConfig(scores=scores, studies=tables[name], out=str(out / "figures" / name)))


def adopt_second(out: Path) -> None:
    """Export the second classifier to an ONNX file, and adopt it as a model of others. A line says what is missing."""
    _headline("Adopting the second classifier from an ONNX file, as a model of others")
    folder = out / "models" / ADOPTED
    if missing := [name for name in ("onnx", "onnxruntime") if not importlib.util.find_spec(name)]:
        console.log(f"left out: {' and '.join(missing)} not installed; pip install 'cxrpipe[onnx]' brings both")
        return
    if (folder / CARD).exists():
        return
    from cxrpipe.models.onnx_export import write_onnx  # torch takes two seconds to import

    model = open_model(_trained(out)[-1], "classify")
    card, file = model.card, out / "second.onnx"
    write_onnx(model, file)
    adopt.run(
        AdoptConfig(
            source=f"onnx:{file}",
            out=str(folder),
            findings=card.findings,
            mean=_each(card.mean),
            std=_each(card.std),
            fit="letterbox",
            resize=card.resize,
            intensity=card.intensity,
            output="sigmoid",
        )
    )


def _each(values: float | tuple[float, ...]) -> tuple[float, ...]:
    return values if isinstance(values, tuple) else (values,)


def _own_archive(archive: str, out: Path) -> None:
    _headline("Your archive. The models below learned from drawings: their probabilities mean NOTHING")
    models, segmenter = voting(out)
    root = str(out / "scores" / "own")
    score.run(ScoreConfig(archive=archive, out=root, models=models, segmenter=(segmenter,)))
    rows = read_scores(root)
    console.out().print(f"{rows.num_rows:,} rows in {storage.join(root, 'scores')}; probabilities without meaning")


def _trained(out: Path) -> tuple[str, ...]:
    """The model folders of the two classifiers that the demo trains."""
    return tuple(str(out / "models" / member) for member in MEMBERS)


def voting(out: Path) -> tuple[tuple[str, ...], str]:
    """The model folders of the ensemble's members, and of the segmenter."""
    first, second = _trained(out)
    adopted = out / "models" / ADOPTED
    return (first, str(adopted) if (adopted / CARD).exists() else second), str(out / "models" / "lungs")


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

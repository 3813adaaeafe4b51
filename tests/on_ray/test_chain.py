"""From a folder of recipes to thresholds for another hospital, by the words that a person types, on a real Ray."""

import json
from pathlib import Path

import numpy as np
import pytest

from cxrpipe.archives.synthetic import write_montgomery
from cxrpipe.cli import main
from cxrpipe.models.folder import open_model
from cxrpipe.records import read_scores, runs_of

pytestmark = [pytest.mark.ray, pytest.mark.slow]
PARTS = {"train": 60, "val": 16, "test": 24}
RECIPE = """
task = "classify"
arch = "shufflenet_v2_x0_5"
side_px = 32
epochs = 1
batch_size = 16
workers = 1
"""


def write_medmnist(path: Path) -> None:
    """An archive in the layout of PneumoniaMNIST. A film with the finding is brighter in its lower half."""
    rng, arrays = np.random.default_rng(0), {}
    for part, number in PARTS.items():
        labels = np.arange(number) % 2
        films = rng.integers(0, 160, (number, 28, 28), dtype=np.uint8)
        films[labels == 1, 14:] += 60
        arrays |= {f"{part}_images": films, f"{part}_labels": labels[:, None].astype(np.uint8)}
    np.savez(path, **arrays)


def ran(*words: object) -> int:
    """The exit status of `cxrpipe WORDS`."""
    with pytest.raises(SystemExit) as ended:
        main(None, [str(word) for word in words])
    return ended.value.code


def test_folds_a_refit_its_scores_and_figures_and_another_prevalence(ray_local, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_medmnist(Path("pneumoniamnist.npz"))
    Path("recipes").mkdir()
    Path("recipes/a.toml").write_text(RECIPE)
    studies = sum(PARTS.values())
    assert ran("index", "--archive", "pneumoniamnist.npz", "--out", "table/studies.parquet") == 0
    train = ["train", "--config", "recipes", "--studies", "table/studies.parquet"]
    for fold in (0, 1):
        assert ran(*train, "--folds", 2, "--fold", fold, "--out", f"f{fold}") == 0
    assert ran(*train, "--refit", "f0,f1", "--out", "last") == 0
    facts = open_model("last/a", "classify").card.facts
    assert (facts["refit"], "valid" in facts) == (True, False)
    score = ["score", "--studies", "table/studies.parquet", "--out", "root"]
    assert ran(*score, "--models", "last") == 0
    assert read_scores("root").num_rows == studies

    evaluate = ["evaluate", "--studies", "table/studies.parquet", "--resamples", 50]
    for split in ("train", "valid"):
        capsys.readouterr()
        assert ran(*evaluate, "--scores", "root", "--out", "none", "--split", split) == 2
        assert "a refit, which learned from the train and valid split" in capsys.readouterr().err
    assert ran(*evaluate, "--scores", "root", "--out", "figures") == 0
    assert json.loads(Path("figures/metrics.json").read_text())["studies_scored"] == PARTS["test"]
    shifts = [*evaluate, "--shifts", "--models", "last", "--most-studies", 6]
    assert ran(*shifts, "--out", "none", "--split", "valid") == 2
    assert ran(*shifts, "--out", "shifts") == 0
    assert Path("shifts/shifts.html").exists()
    assert not Path("none").exists()

    assert ran("calibrate", "--models", "last", "--out", "moved", "--prevalence", "0.3") == 0
    Path("pneumoniamnist.npz").unlink()
    assert ran(*score, "--models", "moved") == 0
    first, second = runs_of("root")
    assert (first.derived, second.derived, second.counts) == (0, studies, {"ok": studies})
    before, after = (read_scores("root", run.fingerprint).sort_by("study_id") for run in (first, second))
    assert np.mean(after["prob_Pneumonia"].to_numpy()) < np.mean(before["prob_Pneumonia"].to_numpy())
    assert after["consensus_Pneumonia"] == before["consensus_Pneumonia"]  # thresholds move with probabilities
    assert ran(*evaluate, "--scores", "root", "--fingerprint", second.fingerprint, "--out", "figures") == 0


def test_a_folder_of_recipes_for_lungs_becomes_a_vote_with_a_dice(ray_local, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_montgomery(Path("archive"), studies=24, side_px=64)
    Path("recipes").mkdir()
    recipe = RECIPE.replace("classify", "segment").replace("shufflenet_v2_x0_5", "unet-classic")
    for name, side_px in (("a", 64), ("b", 32)):
        Path("recipes", f"{name}.toml").write_text(recipe.replace("side_px = 32", f"side_px = {side_px}"))
    assert ran("index", "--archive", "archive", "--out", "table/studies.parquet") == 0
    assert ran("train", "--config", "recipes", "--studies", "table/studies.parquet", "--out", "lungs") == 0
    assert f"To score with them: --segmenter {tmp_path}/lungs" in capsys.readouterr().out
    score = ["score", "--studies", "table/studies.parquet", "--segmenter", "lungs", "--out", "root"]
    assert ran(*score, "--split", "test") == 0
    (run,) = runs_of("root")
    assert [model.url for model in run.segmenters] == [f"{tmp_path}/lungs/{name}" for name in ("a", "b")]
    words = ["--scores", "root", "--studies", "table/studies.parquet", "--resamples", 50, "--out", "figures"]
    assert ran("evaluate", *words) == 0
    assert 0 <= json.loads(Path("figures/metrics.json").read_text())["masks"]["dice"]["value"] <= 1

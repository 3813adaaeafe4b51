"""The last model: what the folds decide for it, what it learns from, and when it is refused."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from builders import small_classifier, table_of

from cxrpipe.archives.index import Source
from cxrpipe.config import TrainConfig
from cxrpipe.errors import ConfigError
from cxrpipe.models.card import Embedding
from cxrpipe.models.folder import ModelFolder, save_model
from cxrpipe.records import Study, View
from cxrpipe.records.splits import is_refit, keeps_apart
from cxrpipe.records.study_table import StudyTable
from cxrpipe.training.examples import key_of
from cxrpipe.training.held_out import FILE, describe, figures_of, held_out_table, mean_score
from cxrpipe.training.predictions import Predictions, ViewPredictions
from cxrpipe.training.refit import open_refit
from cxrpipe.training.settings import settings_of

FINDINGS = ("A", "B")
STUDIES = 60


def study(number: int) -> Study:
    """Two studies of each patient; every tenth patient is in the test split, every eleventh in valid."""
    patient = number // 2
    split = "test" if patient % 10 == 0 else "valid" if patient % 11 == 0 else "train"
    labels = {"A": float(number % 2), "B": float(number % 3 == 0)}
    return Study(
        study_id=f"s{number}", patient_id=f"p{patient}", views=(View(url=f"/{number}.png"),), split=split, labels=labels
    )


def views_of(studies: Sequence[Study], seed: int = 0) -> ViewPredictions:
    """One view of each study: the higher, the likelier."""
    rng = np.random.default_rng(seed)
    target = np.array([[study.labels[finding] for finding in FINDINGS] for study in studies], np.float32)
    prob = (0.15 + 0.4 * target + rng.uniform(0, 0.4, target.shape)).astype(np.float32)
    nothing = np.zeros((len(studies), 0), np.float32)
    keys = np.array([key_of(study.study_id) for study in studies])
    return ViewPredictions(keys, prob, target, nothing, np.full(len(studies), np.nan, np.float32))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> StudyTable:
    return table_of(tmp_path_factory.mktemp("refit"), [study(number) for number in range(STUDIES)])


def settings(table: StudyTable, **further: Any) -> TrainConfig:
    wanted = {"task": "classify", "studies": table.url, "out": "o", "arch": "shufflenet_v2_x0_5", "epochs": 10}
    return TrainConfig(**wanted | {"folds": 2} | further)


def fold(folder: Path, table: StudyTable, number: int, best: int, **further: Any) -> ModelFolder:
    """A model of a fold that was best after `best` epochs; it holds out every second study."""
    url = folder / f"fold{number}"
    made = small_classifier(url, seed=number, findings=FINDINGS)
    card = replace(made.card, embedding=Embedding((0.0,), (1.0,), 2.0 + number))
    own = settings_of(settings(table, fold=number, out=str(url), **further))
    facts = {"settings": own, "best_epoch": best, "archive": table.metadata["archive"]}
    facts |= {"split_seed": f"{table.metadata['split_seed']}; fold {number} of 2 over development, seed 0"}
    model = save_model(str(url), card, made.read_weights(), facts)
    held_out = [study(n) for n in range(STUDIES) if study(n).split != "test" and n // 2 % 2 == number]
    pq.write_table(held_out_table(card, views_of(held_out, number), held_out), url / FILE)
    return model


@pytest.fixture
def folds(table: StudyTable, tmp_path: Path) -> tuple[str, str]:
    return fold(tmp_path, table, 0, best=4).url, fold(tmp_path, table, 1, best=7).url


def refused(config: TrainConfig, table: StudyTable) -> str:
    with pytest.raises(ConfigError) as refusal:
        open_refit(config, table)
    return str(refusal.value)


def test_training_stops_after_the_median_of_the_best_epochs(table, folds, tmp_path):
    assert open_refit(settings(table, refit=folds), table).stop_at == 6  # 5.5, up
    assert open_refit(settings(table, refit=folds[:1]), table).stop_at == 4
    assert open_refit(settings(table, refit=(str(tmp_path),)), table).stop_at == 6  # the folder that holds both


def test_a_refit_learns_from_every_study_but_those_of_the_test_split(table, folds, tmp_path):
    source = open_refit(settings(table, refit=folds), table).source(Source(table, tmp_path), seed=0)
    expected = {f"s{number}" for number in range(STUDIES) if study(number).split != "test"}
    assert {study.study_id for study in source.table.studies("train")} == expected
    assert source.table.rows == len(expected)
    seed = source.table.metadata["split_seed"]
    assert seed == "7; refit over development, seed 0"
    assert is_refit(seed)
    assert keeps_apart(seed, "7")
    assert not keeps_apart(seed, "7; fold 0 of 2 over development, seed 0")


def test_a_refit_of_folds_over_all_leaves_nothing_to_judge_it_on(table, tmp_path):
    only = fold(tmp_path, table, 0, best=3, fold_over="all")
    refit = open_refit(settings(table, refit=(only.url,), fold_over="all"), table)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    made = refit.source(Source(table, scratch), seed=0).table
    assert made.rows == STUDIES
    assert not keeps_apart(made.metadata["split_seed"], "7")


def planned(**card: Any) -> Any:
    """A card as it is before training."""
    from cxrpipe.models.card import Card

    wanted = {"task": "classify", "architecture": "shufflenet_v2_x0_5", "side_px": 32, "mean": 0.5, "std": 0.25}
    return Card(**wanted | {"findings": FINDINGS, "thresholds": dict.fromkeys(FINDINGS, 0.5)} | card)


def test_calibration_and_thresholds_are_those_of_the_held_out_predictions(table, folds):
    refit = open_refit(settings(table, refit=folds), table)
    assert refit.predictions.num_rows == sum(study(number).split != "test" for number in range(STUDIES))
    rng = np.random.default_rng(0)
    seen = views_of([study(2)])._replace(embedding=rng.normal(5, 1, (40, 3)).astype(np.float32))
    card = refit.fitted(planned(), Predictions(None, seen, []))
    share = np.mean([study(number).labels["B"] for number in range(STUDIES) if study(number).split != "test"])
    assert card.thresholds["B"] == pytest.approx(share)
    assert card.calibration["A"][0] > 0
    assert card.embedding is not None
    assert card.embedding.limit == 2.5  # of the folds: 2 and 3
    assert np.allclose(card.embedding.mean, 5, atol=0.6)


def test_the_card_says_refit_and_has_no_figure_of_its_own(table, folds):
    facts = open_refit(settings(table, refit=folds), table).facts(
        {"valid": {"score": 0.9}, "best_epoch": 3, "layout": "nih"}
    )
    assert (facts["refit"], facts["refit_of"], facts["epochs"]) == (True, list(folds), 6)
    assert facts["fitted"] == {"calibration": "platt", "threshold": "prevalence", "split": "held-out folds"}
    assert facts["layout"] == "nih"
    assert not {"valid", "best_epoch", "held_out"} & set(facts)


def test_other_findings_are_refused_before_training(table, folds):
    refit = open_refit(settings(table, refit=folds), table)
    refit.refuse_other_findings(planned())
    other = planned(findings=("A",), thresholds={"A": 0.5})
    with pytest.raises(ConfigError, match=r"learns A, and .*fold0 A, B"):
        refit.refuse_other_findings(other)


def test_folds_of_another_training_are_refused_and_the_setting_is_named(table, folds):
    assert "learning_rate 0.001 against 0.01" in refused(settings(table, refit=folds, learning_rate=0.01), table)
    assert "folds" in refused(settings(table, refit=folds, folds=3), table)
    assert open_refit(settings(table, refit=folds, folds=0, workers=2), table).stop_at == 6


def test_a_fold_named_twice_is_refused(table, folds):
    assert "name each fold of one cut once" in refused(settings(table, refit=(folds[0], folds[0])), table)


def test_a_model_that_is_no_fold_is_refused(table, tmp_path):
    model = small_classifier(tmp_path / "model", findings=FINDINGS)
    assert "not a model of a fold" in refused(settings(table, refit=(model.url,)), table)
    over_train = fold(tmp_path, table, 0, best=3, fold_over="train")
    assert "holds no fold out" in refused(settings(table, refit=(over_train.url,), fold_over="train"), table)


def test_a_fold_of_another_archive_or_without_predictions_is_refused(table, folds):
    (Path(folds[1]) / FILE).unlink()
    assert f"has no {FILE}" in refused(settings(table, refit=folds), table)
    other = table_of(Path(folds[0]), [study(0), study(2)])
    assert "trained on archive" in refused(settings(table, refit=folds[:1]), other)


def test_what_needs_a_valid_split_cannot_be_refitted(table, folds):
    from cxrpipe.config.train_sections import FreezeConfig, OptimConfig

    with pytest.raises(ConfigError, match=r"--refit with --optim\.schedule plateau"):
        settings(table, refit=folds, optim=OptimConfig(schedule="plateau"))
    with pytest.raises(ConfigError, match=r"--refit with --freeze\.policy adaptive"):
        settings(table, refit=folds, freeze=FreezeConfig(policy="adaptive"))


# ---- held_out.parquet -----------------------------------------------------------------------------------------


def test_held_out_predictions_are_of_studies_with_their_labels():
    studies = [study(2), study(3)]
    views = ViewPredictions.joined([views_of(studies), views_of(studies[:1], seed=1)])  # two views of the first
    rows = held_out_table(planned(), views, studies).sort_by("study_id").to_pylist()
    assert [(row["study_id"], row["patient_id"], row["label_A"]) for row in rows] == [("s2", "p1", 0), ("s3", "p1", 1)]
    assert rows[0]["prob_B"] == pytest.approx(max(views.prob[0, 1], views.prob[2, 1]))


def test_figures_on_what_is_held_out():
    studies = [study(number) for number in range(STUDIES)]
    card = planned(thresholds={"A": 0.6, "B": 0.5})
    table = held_out_table(card, views_of(studies), studies)
    figures = figures_of(card, table)
    decided = table["prob_A"].to_numpy() >= 0.6
    positive = table["label_A"].to_numpy() == 1
    assert figures["studies"] == STUDIES
    assert figures["per_finding"]["A"]["sensitivity"] == pytest.approx(decided[positive].mean(), abs=1e-6)
    assert figures["per_finding"]["A"]["specificity"] == pytest.approx((~decided[~positive]).mean(), abs=1e-6)
    mean = np.mean([figures["per_finding"][finding]["auroc"] for finding in FINDINGS])
    assert mean_score(figures) == pytest.approx(mean)
    assert describe(figures).startswith(f"60 studies, means of the findings: AUROC {mean:.4f}, sensitivity ")


def test_a_segmenter_has_a_dice_on_what_is_held_out():
    card = planned(task="segment", architecture="unet-resnet18", findings=(), thresholds={})
    views = views_of([study(2), study(3)])._replace(dice=np.array([0.9, 0.8], np.float32))
    figures = figures_of(card, held_out_table(card, views, [study(2), study(3)]))
    assert describe(figures) == "2 studies, Dice 0.8500"
    assert mean_score(figures) == pytest.approx(0.85)
    assert mean_score(None) is None

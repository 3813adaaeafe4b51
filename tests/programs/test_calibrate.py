"""The program `calibrate`, from scores to new model folders to rows that are derived from the old ones."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import readings
from builders import png, radiograph, small_classifier

from cxrpipe.archives.index import index
from cxrpipe.config import CalibrateConfig, ScoreConfig
from cxrpipe.errors import ConfigError
from cxrpipe.models.consensus import aggregate_views
from cxrpipe.models.consensus import calibrate as calibrate_probs
from cxrpipe.models.folder import ModelFolder, open_model
from cxrpipe.programs import calibrate
from cxrpipe.programs.score import score_archive
from cxrpipe.records import complete_runs, read_scores, runs_of
from cxrpipe.records.study_table import StudyTable
from cxrpipe.records.verdicts import Verdict
from cxrpipe.runs.engine import loop
from cxrpipe.runs.reading_lists import draw_list
from cxrpipe.runs.reviews import Reviews
from cxrpipe.runs.root import ScoreRoot

pytestmark = pytest.mark.usefixtures("scored_here")
STUDIES = 60


@pytest.fixture(scope="module")
def scored(tmp_path_factory) -> tuple[str, str, tuple[ModelFolder, ModelFolder], Path]:
    """Sixty studies of one or two views, two members; the labels are what the first member thinks, with some noise."""
    folder = tmp_path_factory.mktemp("calibrated")
    rng = np.random.default_rng(0)
    films = [(f"s{number:02d}", view) for number in range(STUDIES) for view in range(1 + number % 2)]
    for number, (study, view) in enumerate(films):
        pixels = (radiograph(number) * rng.uniform(0.3, 1)).astype(np.uint8)
        (folder / f"{study}_{view}.png").write_bytes(png(pixels))
    members = tuple(
        small_classifier(folder / name, seed=seed, aggregation={"Pneumonia": "mean"}) for seed, name in enumerate("ab")
    )

    def write_table(name: str, labels: dict[str, int]) -> str:
        rows = [f"{study},{study}_{view}.png,p{study[:2]}{study},valid,{labels[study]}" for study, view in films]
        (folder / f"{name}.csv").write_text("\n".join(["study_id,path,patient_id,split,label_Pneumonia", *rows]))
        table = str(folder / name / "studies.parquet")
        index(str(folder / f"{name}.csv"), table)
        return table

    draft = write_table("draft", {study: 0 for study, _ in films})
    root = str(folder / "draft_root")
    models = tuple(member.url for member in members)
    assert score_archive(ScoreConfig(studies=draft, models=models, out=root, precision="fp32"), loop) == 0
    said = {row["study_id"]: row["member_probs_Pneumonia"][0] for row in read_scores(root).to_pylist()}
    noisy = {study: prob + rng.normal(0, np.std([*said.values()])) for study, prob in said.items()}
    middle = np.median([*noisy.values()])
    table = write_table("own", {study: int(value > middle) for study, value in noisy.items()})
    root = str(folder / "root")
    assert score_archive(ScoreConfig(studies=table, models=models, out=root, precision="fp32"), loop) == 0
    return table, root, members, folder


def calibrated(scored, out: Path, **settings) -> list[ModelFolder]:
    table, root, members, _ = scored
    given = {"scores": root, "studies": table, "models": tuple(member.url for member in members), "out": str(out)}
    assert calibrate.run(CalibrateConfig(**(given | settings))) == 0
    return [open_model(str(out / Path(member.url).name), "classify") for member in members]


@pytest.fixture(scope="module")
def made(scored, tmp_path_factory) -> list[ModelFolder]:
    return calibrated(scored, tmp_path_factory.mktemp("new"))


def test_new_folders_have_the_same_weights_and_other_calibration_and_thresholds(scored, made):
    for old, new in zip(scored[2], made, strict=True):
        assert new.read_weights() == old.read_weights()
        assert open_model(old.url, "classify").card == old.card
    first = made[0].card
    assert first.calibration["Pneumonia"][0] > 0
    assert set(first.thresholds) == {"Pneumonia"}  # Cardiomegaly has no labels


def test_the_card_says_what_it_was_fitted_on(scored, made):
    table, root, members, _ = scored
    told = made[0].card.facts["calibrated"]
    assert (told["target_sensitivity"], told["target_specificity"]) == (0.9, 0.9)  # the names in cards stay
    assert (told["scores"], told["studies"], told["split"]) == (root, table, "valid")
    assert (told["model"], told["method"], told["rule"]) == (members[0].url, "platt", "prevalence")
    finding = told["findings"]["Pneumonia"]
    assert (finding["studies"], finding["positives"]) == (STUDIES, STUDIES // 2)
    assert 0 <= finding["error_after"] <= 1
    json.dumps(told, allow_nan=False)


def test_reliability_is_drawn_before_and_after(made):
    assert (Path(made[0].url) / "reliability.png").stat().st_size > 5_000


def test_labels_of_readers_are_fitted_and_the_card_says_that_they_had_seen_the_answer(scored, tmp_path, capsys):
    """Ada reads forty of the sixty studies."""
    table, root, _, _ = scored
    own = str(tmp_path / "root")
    shutil.copytree(root, own)
    truth = {study.study_id: study.labels["Pneumonia"] for study in StudyTable(table).studies()}
    read = read_scores(own).slice(0, 40).to_pylist()
    named = {"verdict_id": "submission-1", "reader": "Ada", "time": readings.MORNING}
    Reviews(ScoreRoot.at(own)).write(
        [
            Verdict.on(
                row,
                "Pneumonia",
                "agree" if truth[row["study_id"]] == row["consensus_Pneumonia"] else "wrong",
                **named,
            )
            for row in read
        ]
    )
    lists = [draw_list(ScoreRoot.at(own), complete_runs(own), 20, by) for by in ("uncertainty", "random")]
    new = calibrated(scored, tmp_path / "new", scores=own, labels="reviews")[0].card
    facts = new.facts["calibrated"]
    assert facts["labels"].startswith("40 verdicts of 1 reader on 40 studies, on answers of the models ")
    assert "; the readers had seen the model's answer" in facts["labels"]
    assert facts["findings"]["Pneumonia"]["studies"] == 40
    assert facts["findings"]["Pneumonia"]["positives"] == sum(truth[row["study_id"]] for row in read)
    logged = " ".join(capsys.readouterr().err.split())
    assert "the readers had seen the model's answer" in logged
    assert f"{lists[0].name}: this reading list drew some studies more often" in logged
    assert lists[1].name not in logged
    by_table = calibrated(scored, tmp_path / "by_table", scores=own)[0].card
    assert by_table.facts["calibrated"]["findings"]["Pneumonia"]["studies"] == 60
    assert "labels" not in by_table.facts["calibrated"]


def no_engine(job):
    raise AssertionError("networks were asked")


def test_scoring_with_them_derives_every_row_and_runs_no_network(scored, tmp_path):
    """What is derived is the card's own rule and calibration applied."""
    table = scored[0]
    root = shutil.copytree(scored[1], tmp_path / "root").as_posix()
    new = calibrated(scored, tmp_path / "new")
    models = tuple(model.url for model in new)
    assert score_archive(ScoreConfig(studies=table, models=models, out=root, incremental=True), no_engine) == 0
    account = runs_of(root)[-1]
    assert (account.derived, account.studies_per_second) == (STUDIES, None)
    rows = read_scores(root, account.fingerprint).to_pylist()
    assert len(rows) == STUDIES
    for row in rows[:10]:
        raw = np.array([view["member_probs"][0] for view in row["views"]], np.float32)
        expected = calibrate_probs(aggregate_views(raw, new[0].card.rules), *new[0].card.platt)
        assert row["member_probs_Pneumonia"][0] == pytest.approx(expected[0], abs=1e-6)


def test_the_threshold_works_as_it_was_chosen(scored, tmp_path):
    """At the chosen threshold the member's own votes reach the sensitivity that was aimed at."""
    table, *_ = scored
    (first, _) = calibrated(scored, tmp_path / "new", rule="sensitivity", aim_sensitivity=0.95)
    alone = str(tmp_path / "alone")
    assert score_archive(ScoreConfig(studies=table, models=(first.url,), out=alone, precision="fp32"), loop) == 0
    labels = {study.study_id: study.labels["Pneumonia"] for study in StudyTable(table).studies()}
    votes = [row["votes_Pneumonia"] for row in read_scores(alone).to_pylist() if labels[row["study_id"]] == 1]
    assert np.mean(votes) >= 0.95


def refused(scored, out: Path, **settings) -> str:
    with pytest.raises(ConfigError) as refusal:
        calibrated(scored, out, **settings)
    return str(refusal.value)


def test_nothing_is_calibrated_in_place(scored):
    folder = scored[3]
    assert "nothing is calibrated in place" in refused(scored, folder)


def test_a_model_that_did_not_score_is_refused(scored, tmp_path):
    stranger = small_classifier(tmp_path / "stranger", seed=9)
    assert "not one of the models that scored" in refused(scored, tmp_path / "new", models=(stranger.url,))
    assert not (tmp_path / "new").exists()


def test_a_split_without_scored_studies_is_refused(scored, tmp_path):
    assert "none of its studies of split train" in refused(scored, tmp_path / "new", split="train")


# ---- another prevalence ---------------------------------------------------------------------------------------


def test_probabilities_and_thresholds_move_to_an_assumed_prevalence(scored, made, tmp_path):
    (moved, _) = calibrated(scored, tmp_path / "new", prevalence=("0.1",))
    assert made[0].card.facts["prevalence"] == {"Pneumonia": 0.5}
    assert moved.card.facts["prevalence"] == {"Pneumonia": 0.1}
    assert moved.card.thresholds["Pneumonia"] == 0.1
    (slope, before), (slope_now, after) = (each.card.calibration["Pneumonia"] for each in (made[0], moved))
    assert slope_now == slope
    assert after - before == pytest.approx(np.log(0.1 / 0.9))
    json.dumps(moved.card.facts, allow_nan=False)


def moved_from(models: list[ModelFolder], out: Path, *prevalence: str) -> list[ModelFolder]:
    urls = tuple(model.url for model in models)
    assert calibrate.run(CalibrateConfig(models=urls, out=str(out), prevalence=prevalence)) == 0
    return [open_model(str(out / Path(url).name), "classify") for url in urls]


def test_a_card_moves_without_scores_as_it_does_with_them(scored, made, tmp_path):
    with_scores = calibrated(scored, tmp_path / "fitted", prevalence=("Pneumonia=0.1",))
    for name, prevalence in (("one", "Pneumonia=0.1"), ("all", "0.1")):  # of Cardiomegaly the card names none
        (moved,) = moved_from(made[:1], tmp_path / name, prevalence)
        assert moved.card.thresholds == with_scores[0].card.thresholds
        assert moved.card.calibration["Pneumonia"] == pytest.approx(with_scores[0].card.calibration["Pneumonia"])
        assert moved.card.facts["prevalence"] == {"Pneumonia": 0.1}
        assert moved.read_weights() == with_scores[0].read_weights()
    with pytest.raises(ConfigError, match="names no prevalence of Cardiomegaly"):
        moved_from(made[:1], tmp_path / "none", "Cardiomegaly=0.2")


def test_a_card_that_names_no_prevalence_is_not_moved(scored, tmp_path):
    with pytest.raises(ConfigError, match="names no prevalence of Pneumonia, Cardiomegaly"):
        moved_from(list(scored[2]), tmp_path / "moved", "0.1")
    assert not (tmp_path / "moved").exists()


@pytest.mark.parametrize("prevalence", [("1.0",), ("0",), ("rare",), ("0.1", "0.2"), ("Pneumonia=",), ("Pneumonia=2",)])
def test_a_prevalence_is_a_fraction_for_all_findings_or_by_finding(prevalence):
    with pytest.raises(ConfigError, match="--prevalence"):
        CalibrateConfig(models=("m",), out="o", prevalence=prevalence)


def test_a_prevalence_of_a_finding_that_no_model_knows_is_refused(made, tmp_path):
    with pytest.raises(ConfigError, match="--prevalence of Edema; the models know Cardiomegaly, Pneumonia"):
        moved_from(made, tmp_path / "moved", "Edema=0.1")


def test_without_a_prevalence_scores_and_labels_are_needed():
    with pytest.raises(ConfigError, match=r"missing: --scores URL, --studies URL\. Example"):
        CalibrateConfig(models=("m",), out="o")

"""Labels of readers: what `evaluate` and `calibrate` make of the verdicts in a score root."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from answered import FINGERPRINT, answered_root
from builders import table_of
from readings import verdict

from cxrpipe.config import CalibrateConfig, EvaluateConfig
from cxrpipe.errors import ConfigError
from cxrpipe.programs import evaluate
from cxrpipe.records import Study, read_scores
from cxrpipe.runs.reading_lists import draw_list
from cxrpipe.runs.reviews import Reviews
from cxrpipe.runs.root import ScoreRoot

STUDIES = 600
TRUE = np.random.default_rng(1).random(STUDIES) < 0.15
"""Whether a study has a mass. The labels of the table say the opposite."""
PROBS = 1 / (1 + np.exp(-(np.random.default_rng(2).normal(0, 1, (2, STUDIES)) - 2 + 2.5 * TRUE)))


class Reviewed(NamedTuple):
    root: ScoreRoot
    table: str
    read: list[str]
    """The ids of the studies on the reading list."""
    reading_list: str


@pytest.fixture(scope="module")
def reviewed(tmp_path_factory: pytest.TempPathFactory) -> Reviewed:
    """A reading list of 120 of 600 studies. Bo errs on every tenth, where Ada and one more reader outvote him."""
    folder = tmp_path_factory.mktemp("reviewed")
    root = ScoreRoot.at(answered_root(folder / "root", {"Mass": PROBS}, threshold=0.3))
    studies = [
        Study(
            study_id=f"s{number:05d}",
            patient_id=f"p{number:05d}",
            split="test" if number % 2 else "train",
            labels={"Mass": float(not TRUE[number])},
        )
        for number in range(STUDIES)
    ]
    table = table_of(folder, studies).url
    drawn = draw_list(root, root.complete_runs().of(None), 120, "stratified")
    read = drawn.studies["study_id"].to_pylist()
    rows = {row["study_id"]: row for row in read_scores(root.url, without=["views"]).to_pylist()}

    def says(reader: str, place: int) -> bool:
        return bool(TRUE[int(read[place][1:])]) != (reader == "Bo" and place % 10 == 0)

    reviews = Reviews(root)
    has_read = {"Ada": range(120), "Bo": range(120), "Cy": range(30), "Di": range(30, 120, 10)}
    for reader, its_places in has_read.items():
        given = []
        for place in its_places:
            row = rows[read[place]]
            word = "agree" if says(reader, place) == row["consensus_Mass"] else "wrong"
            shown = {"prob": row["prob_Mass"], "consensus": row["consensus_Mass"], "fingerprint": FINGERPRINT}
            named = {"reader": reader, "verdict_id": f"submission-{reader}", "patient_id": row["patient_id"]}
            given.append(verdict(read[place], word, finding="Mass", **named, **shown))
        reviews.write(given)
    return Reviewed(root, table, read, drawn.name)


def evaluated(reviewed: Reviewed, out: Path, **settings: Any) -> dict[str, Any]:
    given = {"scores": reviewed.root.url, "studies": reviewed.table, "out": str(out), "resamples": 50, "pictures": 0}
    assert evaluate.run(EvaluateConfig(**given | {"labels": "reviews", "split": "all"} | settings)) == 0
    return json.loads((out / "metrics.json").read_text())


@pytest.fixture(scope="module")
def metrics(reviewed: Reviewed, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return evaluated(reviewed, tmp_path_factory.mktemp("figures"))


def places(reviewed: Reviewed) -> np.ndarray:
    return np.array([int(study_id[1:]) for study_id in reviewed.read])


def test_figures_are_of_the_readers_labels_and_not_of_the_tables(reviewed: Reviewed, metrics: dict[str, Any]) -> None:
    read = places(reviewed)
    called = PROBS.mean(axis=0)[read]  # two members; a tie is decided by the mean
    figures = metrics["findings"]["Mass"]
    assert figures["studies"] == 120
    assert figures["positives"] == TRUE[read].sum()
    assert figures["left_out"] == STUDIES - 120
    from sklearn.metrics import roc_auc_score

    assert figures["auroc"]["value"] == pytest.approx(roc_auc_score(TRUE[read], called), abs=1e-6)


def test_it_is_said_whose_labels_these_are(reviewed: Reviewed, metrics: dict[str, Any], tmp_path: Path, capsys) -> None:
    assert metrics["reviews"]["readers"] == ["Ada", "Bo", "Cy", "Di"]
    assert metrics["reviews"]["verdicts"] == 120 + 120 + 30 + 9
    assert metrics["reviews"]["fingerprints"] == {FINGERPRINT: 279}
    assert metrics["reviews"]["without_majority"] == 0
    evaluated(reviewed, tmp_path)
    captured = capsys.readouterr()
    log = " ".join(captured.err.split())
    assert "279 verdicts of 4 readers on 120 studies, on answers of the models f1f1f1f1 (279)" in log
    assert "the readers had seen the model's answer" in log
    assert "Cohen's kappa" in captured.out
    assert f"reading list {reviewed.reading_list}" in captured.out
    page = (tmp_path / "report.html").read_text()
    assert "verdicts of readers who had seen the model's answer" in page.lower().replace("&#39;", "'")
    assert reviewed.reading_list in page


def test_readers_are_compared_with_each_other_and_with_the_ensemble(metrics: dict[str, Any]) -> None:
    pairs = {(each["reader"], each["other"]): each for each in metrics["reviews"]["agreements"]}
    assert pairs["Ada", "Bo"]["alike"] == pytest.approx(0.9)
    assert pairs["Ada", "Cy"]["kappa"] == pytest.approx(1)
    assert pairs["Ada", None]["studies"] == 120
    assert ("Bo", "Di") in pairs


def test_weighted_figures_speak_for_the_archive(reviewed: Reviewed, metrics: dict[str, Any]) -> None:
    (weighted,) = metrics["weighted"]
    assert (weighted["population"], weighted["listed"], weighted["read"], weighted["studies"]) == (600, 120, 120, 120)
    assert weighted["unread_strata"] == []
    called = np.array(read_scores(reviewed.root.url)["consensus_Mass"].to_pylist())
    truth = {
        "prevalence": TRUE.mean(),
        "sensitivity": called[TRUE].mean(),
        "specificity": (~called)[~TRUE].mean(),
    }
    plain = metrics["findings"]["Mass"]
    for name, value in truth.items():
        assert weighted[name]["low"] <= value <= weighted[name]["high"]
    assert abs(weighted["specificity"]["value"] - truth["specificity"]) < 0.05
    assert plain["specificity"]["value"] < truth["specificity"] - 0.05
    assert plain["positives"] / plain["studies"] > 1.5 * truth["prevalence"]


def test_a_split_takes_its_part_of_the_reading_list(reviewed: Reviewed, tmp_path: Path) -> None:
    of_test = evaluated(reviewed, tmp_path, split="test")
    in_test = int((places(reviewed) % 2 == 1).sum())
    assert of_test["findings"]["Mass"]["studies"] == of_test["weighted"][0]["studies"] == in_test
    assert of_test["weighted"][0]["read"] == 120


def test_the_table_stays_the_source_of_labels_by_default(reviewed: Reviewed, tmp_path: Path) -> None:
    by_table = evaluated(reviewed, tmp_path, labels="table")
    assert by_table["findings"]["Mass"]["studies"] == STUDIES
    assert (by_table["reviews"], by_table["weighted"]) == (None, [])


def test_what_readers_have_not_given_is_refused(reviewed: Reviewed, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no verdict on a study of split valid; .* of train.*see --split"):
        evaluated(reviewed, tmp_path, split="valid")
    empty = answered_root(tmp_path / "empty", {"Mass": PROBS})
    with pytest.raises(ConfigError, match=rf"no verdict of a reader there; make some with: cxrpipe review {empty}"):
        evaluated(reviewed, tmp_path, scores=empty)
    with pytest.raises(ConfigError, match="what nobody has read is not negative"):
        evaluated(reviewed, tmp_path, blank="zeros")
    with pytest.raises(ConfigError, match="name --scores URL"):
        CalibrateConfig(models=("m",), out="o", prevalence=("0.3",), labels="reviews")

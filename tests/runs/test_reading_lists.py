"""Reading lists of a score root: drawn once, found again, and never with a forgotten patient."""

from pathlib import Path

import numpy as np
import pytest
from answered import FINGERPRINT, answered_root

from cxrpipe.errors import ConfigError
from cxrpipe.runs import reading_lists
from cxrpipe.runs.reading_lists import STRATA, ReadingList, draw_list, open_list
from cxrpipe.runs.root import ScoreRoot

STUDIES = 400


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> ScoreRoot:
    rng = np.random.default_rng(0)
    probs = {
        name: np.clip(rng.beta(1, 4, STUDIES) + rng.normal(0, 0.1, (2, STUDIES)), 0, 1) for name in ("Mass", "Edema")
    }
    folder = tmp_path_factory.mktemp("answered")
    return ScoreRoot.at(answered_root(folder, probs, threshold=0.3, failed=[0, 1]))


def drawn(root: ScoreRoot, studies: int, by: str, **further: object) -> ReadingList:
    return draw_list(root, root.complete_runs().of(None), studies, by, **further)  # type: ignore[arg-type]


@pytest.mark.parametrize("by", reading_lists.BYS)
def test_a_list_is_drawn_once_and_then_opened(root: ScoreRoot, by: str) -> None:
    made = drawn(root, 40, by)
    assert made.studies.num_rows == 40
    assert len(set(made.studies["study_id"].to_pylist())) == 40
    assert made.design.population == STUDIES - 2
    again = drawn(root, 40, by)
    assert (again.name, again.design) == (made.name, made.design)
    assert again.studies.equals(made.studies)
    assert open_list(root, made.name).studies.equals(made.studies)
    assert made.name == f"{by}-40-seed0-{FINGERPRINT[:8]}"
    assert made.name in reading_lists.names(root)


def test_a_list_keeps_its_studies_when_more_are_scored(tmp_path: Path) -> None:
    probs = {"Mass": np.linspace(0, 1, 20)[None]}
    root = ScoreRoot.at(answered_root(tmp_path, probs))
    made = drawn(root, 5, "random")
    answered_root(tmp_path, probs, ids=[f"t{number}" for number in range(20)], run_id="20261121T000000")
    assert drawn(root, 5, "random").studies.equals(made.studies)
    assert drawn(root, 6, "random").design.population == 40


def test_strata_hold_what_their_names_say_and_each_is_drawn_from(root: ScoreRoot) -> None:
    made = drawn(root, 40, "stratified", finding="Mass")
    rows = {row["study_id"]: row for row in root.complete_runs().of(None).scores(without=["views"]).to_pylist()}
    for listed in made.studies.to_pylist():
        row = rows[listed["study_id"]]
        near = row["prob_Mass"] / 0.3 if row["prob_Mass"] < 0.3 else (1 - row["prob_Mass"]) / 0.7
        assert listed["stratum"].startswith("positive" if row["consensus_Mass"] else "negative")
        assert listed["stratum"].endswith("near") == (near >= 0.5)
    sizes = {name: made.studies["stratum"].to_pylist().count(name) for name in STRATA}
    chances = made.studies["probability"].to_numpy()
    assert min(sizes.values()) >= 5
    assert (1 / chances).sum() == pytest.approx(STUDIES - 2)


def test_uncertain_studies_and_those_where_members_disagree_are_drawn_more_often(root: ScoreRoot) -> None:
    rows = {row["study_id"]: row for row in root.complete_runs().of(None).scores(without=["views"]).to_pylist()}

    def mean(made: ReadingList, column: str) -> float:
        return float(np.mean([rows[study_id][column] for study_id in made.studies["study_id"].to_pylist()]))

    at_random = drawn(root, 60, "random", seed=1)
    by_spread = drawn(root, 60, "disagreement", finding="Mass", seed=1)
    assert mean(by_spread, "disagreement_Mass") > 1.2 * mean(at_random, "disagreement_Mass")
    by_doubt = drawn(root, 60, "uncertainty", finding="Mass", seed=1)
    doubt = [abs(rows[study_id]["prob_Mass"] - 0.3) for study_id in by_doubt.studies["study_id"].to_pylist()]
    assert np.mean(doubt) < 0.9 * np.mean([abs(row["prob_Mass"] - 0.3) for row in rows.values() if row["prob_Mass"]])


def test_a_forgotten_patient_is_neither_drawn_nor_read_from_a_list(tmp_path: Path) -> None:
    root = ScoreRoot.at(answered_root(tmp_path, {"Mass": np.linspace(0, 1, 20)[None]}))
    root.forget("p00003")
    made = drawn(root, 20, "random")
    assert sorted(made.studies["patient_id"].to_pylist()) == [f"p{number:05d}" for number in range(20) if number != 3]
    root.forget("p00005")
    assert "p00005" not in open_list(root, made.name).studies["patient_id"].to_pylist()


def test_a_list_lies_on_any_store(anywhere: str, root: ScoreRoot, tmp_path: Path) -> None:
    made = draw_list(ScoreRoot.at(anywhere), root.complete_runs().of(None), 10, "stratified")
    assert open_list(ScoreRoot.at(anywhere), made.name).studies.equals(made.studies)


def test_what_cannot_be_drawn_is_refused(root: ScoreRoot, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no finding 'Nodule' was scored; known are Mass, Edema"):
        drawn(root, 5, "random", finding="Nodule")
    alone = ScoreRoot.at(answered_root(tmp_path / "alone", {"Mass": np.linspace(0, 1, 20)[None]}))
    with pytest.raises(ConfigError, match="no members disagree"):
        drawn(alone, 5, "disagreement")
    failed = ScoreRoot.at(answered_root(tmp_path / "failed", {"Mass": np.ones((1, 2))}, failed=[0, 1]))
    with pytest.raises(ConfigError, match="no scored study to draw"):
        drawn(failed, 5, "random")
    with pytest.raises(ConfigError, match=r"no reading list '\.\./x'; it has none"):
        open_list(alone, "../x")

"""`similar`: the nearest studies by feature vector, as numpy finds them over all pairs; a table and a picture."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from builders import own_table, png, radiograph, small_classifier

from cxrpipe.config import ScoreConfig, SimilarConfig
from cxrpipe.errors import ConfigError
from cxrpipe.evaluation.neighbours import nearest
from cxrpipe.programs import similar
from cxrpipe.programs.score import score_archive
from cxrpipe.records import complete_runs, read_scores
from cxrpipe.records.stored_vectors import read_embedded
from cxrpipe.runs.engine import loop
from cxrpipe.runs.root import ScoreRoot

pytestmark = pytest.mark.usefixtures("one_thread", "scored_here")
FILMS = {f"s{number}": [radiograph(number)] for number in range(8)}
FILMS["two"] = [radiograph(90), radiograph(3)]  # its second view is the film of s3
FILMS["gone"] = [None]


@pytest.fixture(scope="module")
def scored(tmp_path_factory) -> ScoreConfig:
    folder = tmp_path_factory.mktemp("scored")
    files = {name: [b"junk" if film is None else png(film) for film in films] for name, films in FILMS.items()}
    table = own_table(folder, files)
    models = tuple(small_classifier(folder / name, seed=seed, side_px=64).url for seed, name in enumerate("ab"))
    config = ScoreConfig(studies=table.url, models=models, out=str(folder / "root"), embed=True)
    score_archive(config, loop)
    return config


def of_views(scored: ScoreConfig, member: int) -> dict[tuple[str, int], np.ndarray]:
    """(study id, number of the view) → its vector at length 1."""
    return {
        (row["study_id"], number): np.array(of_view[member]) / np.linalg.norm(of_view[member])
        for row in read_scores(scored.out).to_pylist()
        for number, of_view in enumerate(row["feature_vectors"] or ())
        if of_view
    }


def expected(scored: ScoreConfig, study_id: str, member: int = 0) -> dict[str, float]:
    """Every other study → its distance, the nearest first, by all pairs of views."""
    vectors, distances = of_views(scored, member), dict[str, float]()
    for (name, _), vector in vectors.items():
        if name != study_id:
            cosine = max(float(vector @ other) for (query, _), other in vectors.items() if query == study_id)
            distances[name] = min(distances.get(name, 2.0), 1 - cosine)
    return dict(sorted(distances.items(), key=lambda pair: pair[1]))


@pytest.mark.parametrize("at_once", [1, 4, 1000])
def test_the_nearest_are_those_of_all_pairs_however_few_are_in_memory(scored, at_once):
    root, wanted = ScoreRoot.at(scored.out), expected(scored, "s0", member=1)
    query = np.stack([vector for (name, _), vector in of_views(scored, 1).items() if name == "s0"])
    batches = (
        (rows, members[1])
        for _, rows, members in read_embedded(
            complete_runs(root.url), [], lambda rows: np.array(rows["study_id"]) != "s0", at_once
        )
    )
    found = nearest(query, batches, 5)
    studies, distances = [each.row["study_id"] for each in found], [each.distance for each in found]
    assert sorted(studies) == sorted([*wanted][:5])
    np.testing.assert_allclose(distances, [wanted[study] for study in studies], atol=1e-5)
    np.testing.assert_allclose(distances, [*wanted.values()][:5], atol=1e-5)  # nearest first; s3 and two are a tie


def listed(scored: ScoreConfig, capsys, tmp_path: Path, **settings: object) -> str:
    config = SimilarConfig(**({"source": scored.out, "study": "s3", "out": str(tmp_path / "s.png")} | settings))
    assert similar.run(config) == 0
    return capsys.readouterr().out


def test_the_table_has_the_nearest_first_and_the_picture_has_them_all(scored, capsys, tmp_path):
    printed = listed(scored, capsys, tmp_path, top=3)
    lines = [line.split() for line in printed.splitlines() if line.split()[:1] and line.split()[0] in FILMS]
    wanted = expected(scored, "s3")
    assert [line[0] for line in lines] == [*wanted][:3]
    assert lines[0][0] == "two"  # by its second view, which is the same film
    assert [float(line[-1]) for line in lines] == pytest.approx([*wanted.values()][:3], abs=1e-4)
    assert "by the feature vectors of a;" in printed
    sheet = cv2.imread(str(tmp_path / "s.png"), cv2.IMREAD_GRAYSCALE)
    assert sheet.std() > 10
    assert f"Picture: {tmp_path}/s.png" in printed


def test_another_member_may_be_compared(scored, capsys, tmp_path):
    assert "by the feature vectors of b;" in listed(scored, capsys, tmp_path, member="b")
    with pytest.raises(ConfigError, match="no feature vectors of --member c; expected one of a, b"):
        listed(scored, capsys, tmp_path, member="c")


def test_of_several_fingerprints_the_one_with_vectors_is_read(scored, capsys, tmp_path):
    root = str(tmp_path / "root")
    shutil.copytree(scored.out, root)
    score_archive(ScoreConfig(studies=scored.studies, models=scored.models[:1], out=root), loop)
    capsys.readouterr()
    assert "by the feature vectors of a;" in listed(scored, capsys, tmp_path, source=root)


def test_other_studies_of_the_patient_are_marked(scored, capsys, tmp_path):
    table = tmp_path / "own" / "table.csv"
    own_table(tmp_path, {name: [png(film) for film in FILMS[name]] for name in ("s0", "s1", "s2")})
    table.write_text(table.read_text().replace("patient_s1", "patient_s0"))
    config = ScoreConfig(archive=str(table), models=scored.models[:1], out=str(tmp_path / "root"), embed=True)
    score_archive(config, loop)
    lines = listed(config, capsys, tmp_path, study="s0").splitlines()
    assert [line.split()[0] for line in lines if "same patient" in line] == ["s1"]


def test_a_forgotten_patient_is_no_neighbour_and_no_query(scored, capsys, tmp_path):
    root = ScoreRoot.at(str(shutil.copytree(scored.out, tmp_path / "root")))
    root.forget("patient_two")  # the list alone: `forget` broke behind it
    assert "two" not in listed(scored, capsys, tmp_path, source=root.url)
    with pytest.raises(ConfigError, match="the patient of study 'two' is forgotten"):
        listed(scored, capsys, tmp_path, source=root.url, study="two")


def test_without_the_films_there_is_a_table_and_a_line_that_says_why(scored, capsys, tmp_path):
    root = shutil.copytree(scored.out, tmp_path / "root")
    for frozen in root.glob("runs/*/studies.parquet"):
        frozen.unlink()
    printed = listed(scored, capsys, tmp_path, source=str(root))
    assert "No picture: " in printed
    assert "two" in printed
    assert not (tmp_path / "s.png").exists()
    assert "Picture: " in listed(scored, capsys, tmp_path, source=str(root), studies=scored.studies)


def test_what_cannot_be_compared_is_refused_in_one_line(scored, capsys, tmp_path):
    with pytest.raises(ConfigError, match="no view of study 'gone' was scored"):
        listed(scored, capsys, tmp_path, study="gone")
    with pytest.raises(ConfigError, match="no study 'nobody'"):
        listed(scored, capsys, tmp_path, study="nobody")
    plain = ScoreConfig(studies=scored.studies, models=scored.models[:1], out=str(tmp_path / "root"))
    score_archive(plain, loop)
    with pytest.raises(ConfigError, match="no feature vectors there; score with --embed to have some"):
        listed(plain, capsys, tmp_path)

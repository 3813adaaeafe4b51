"""`show`: what is known of a study in lines, and a picture of every view that can be seen."""

import cv2
import numpy as np
import pytest
from builders import lung_table, nih_table, own_table, png, radiograph, segmenter, small_classifier

from cxrpipe.archives.reader import Reader
from cxrpipe.config import ScoreConfig, ShowConfig
from cxrpipe.programs import show
from cxrpipe.programs.score import score_archive
from cxrpipe.records import find_score
from cxrpipe.report.study_panels import panels
from cxrpipe.runs.engine import loop

FILMS = {"p1/a": [png(radiograph()), png(radiograph(1)), b"junk"], "b": [png(radiograph(2))]}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return own_table(
        tmp_path_factory.mktemp("archive"), {name.replace("/", "-"): films for name, films in FILMS.items()}
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory, table) -> str:
    folder = tmp_path_factory.mktemp("scored")
    models = (small_classifier(folder / "a").url, small_classifier(folder / "b", seed=1).url)
    out = str(folder / "root")
    lungs = segmenter(folder / "lungs").url
    assert score_archive(ScoreConfig(studies=table.url, models=models, segmenter=lungs, out=out), loop) == 0
    return out


def shown(source: str, study: str, tmp_path, capsys) -> tuple[str, np.ndarray]:
    """What is printed, and the picture."""
    out = tmp_path / "sheet.png"
    assert show.run(ShowConfig(source=source, study=study, out=str(out))) == 0
    return capsys.readouterr().out, cv2.imread(str(out))


def test_a_study_of_a_table_is_drawn_with_its_labels(tmp_path, capsys):
    table = nih_table(tmp_path, studies=12)
    sick = next(study for study in table.studies() if study.labels["Pneumonia"] == 1)
    printed, sheet = shown(table.url, sick.study_id, tmp_path, capsys)
    assert f"study {sick.study_id}\npatient {sick.patient_id} · split {sick.split}\nlabelled: " in printed
    assert "Pneumonia" in printed
    assert sheet.std() > 10


def test_a_scored_study_is_drawn_with_what_every_finding_got(root, tmp_path, capsys):
    printed, sheet = shown(root, "p1-a", tmp_path, capsys)
    row, _ = find_score(root, "p1-a")
    assert "partial: not_an_image (" in printed
    assert f"Pneumonia            {row['prob_Pneumonia']:.3f}  {row['votes_Pneumonia']} of 2 votes" in printed
    assert sheet.shape[1] > sheet.shape[0]  # three views side by side


def test_a_view_that_cannot_be_read_is_a_panel_that_says_why(table):
    study = next(study for study in table.studies() if study.study_id == "p1-a")
    with Reader(table.seek_points) as reader:
        found = [*panels(study, reader, None)]
    assert [panel.pixels is None for panel in found] == [False, False, True]
    assert found[2].title == "view 2: not_an_image"


def test_the_outlines_of_the_archive_and_of_a_model_lie_on_the_image(tmp_path):
    table = lung_table(tmp_path, studies=4, side_px=96)
    study = next(table.studies())
    out = str(tmp_path / "root")
    assert score_archive(ScoreConfig(studies=table.url, segmenter=segmenter(tmp_path / "u").url, out=out), loop) == 0
    row, _ = find_score(out, study.study_id)
    with Reader(table.seek_points) as reader:
        (panel,) = panels(study, reader, row)
    assert panel.truth.shape == panel.masks[0].shape == panel.pixels.shape
    assert 0 < panel.truth.mean() < 1


def test_a_picture_without_a_name_is_named_by_the_study(table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    show.run(ShowConfig(source=table.url, study="b"))
    assert (tmp_path / "b.png").is_file()

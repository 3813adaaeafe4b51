"""`show`: what is known of a study in lines, and a picture of every view that can be seen."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from builders import lung_table, nih_table, own_table, png, radiograph, segmenter, small_classifier

from cxrpipe.archives.reader import Reader
from cxrpipe.config import ScoreConfig, ShowConfig
from cxrpipe.programs import show
from cxrpipe.programs.score import score_archive
from cxrpipe.records import find_score
from cxrpipe.report.sheet import LUNG, Panel, draw, overlaid
from cxrpipe.report.study_panels import panels
from cxrpipe.runs.engine import loop

FILMS = {"p1/a": [png(radiograph()), png(radiograph(1)), b"junk"], "b": [png(radiograph(2))]}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return own_table(
        tmp_path_factory.mktemp("archive"), {name.replace("/", "-"): films for name, films in FILMS.items()}
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory, table, scored_here) -> str:
    folder = tmp_path_factory.mktemp("scored")
    models = (small_classifier(folder / "a").url, small_classifier(folder / "b", seed=1).url)
    out = str(folder / "root")
    lungs = segmenter(folder / "lungs").url
    assert score_archive(ScoreConfig(studies=table.url, models=models, segmenter=(lungs,), out=out), loop) == 0
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
    assert score_archive(ScoreConfig(studies=table.url, segmenter=(segmenter(tmp_path / "u").url,), out=out), loop) == 0
    row, _ = find_score(out, study.study_id)
    with Reader(table.seek_points) as reader:
        (panel,) = panels(study, reader, row)
    rows, columns = panel.truth.shape  # of the file; the pixels of a picture and the model's mask have other grids
    for grid in (panel.pixels, panel.masks[0]):
        assert grid.shape[0] / grid.shape[1] == pytest.approx(rows / columns, abs=0.03)
    assert 0 < panel.truth.mean() < 1


def test_structures_have_a_panel_of_their_own(tmp_path):
    table, names = lung_table(tmp_path, studies=2, side_px=96), ("left_lung", "right_lung", "heart")
    study, out = next(table.studies()), str(tmp_path / "root")
    anatomy = segmenter(tmp_path / "u", structures=names, fit="center-crop")
    assert score_archive(ScoreConfig(studies=table.url, segmenter=(anatomy.url,), out=out), loop) == 0
    row, _ = find_score(out, study.study_id)
    with Reader(table.seek_points) as reader:
        lungs, structures = panels(study, reader, row)
    assert structures.title == "left_lung, right_lung, heart"
    np.testing.assert_array_equal(structures.masks[0] | structures.masks[1], lungs.masks[0])
    assert draw([lungs, structures], "")


@pytest.mark.parametrize("grid", [32, 100, 400])
def test_an_outline_lies_where_its_mask_does_whatever_grid_that_has(grid):
    mask = np.zeros((grid, grid), bool)
    mask[: grid // 2, : grid // 4] = True
    drawn = overlaid(np.zeros((200, 100), np.uint8), [(mask, LUNG)])
    rows, columns = np.nonzero(drawn.any(axis=2))
    assert rows.max() == pytest.approx(100, abs=4)
    assert columns.max() == pytest.approx(25, abs=4)
    assert not drawn[20:80, 8:17].any()  # the line alone is drawn


@pytest.mark.parametrize("shape", [(1, 2_000), (2_000, 1), (16, 16), (3_000, 40)])
@pytest.mark.parametrize("mask", [None, np.zeros((8, 8), bool), np.ones((8, 8), bool)])
def test_an_image_of_any_shape_is_drawn(shape, mask):
    film = Panel(title="x" * 500, pixels=np.zeros(shape, np.uint8), masks=() if mask is None else (mask,), truth=mask)
    sheet = cv2.imdecode(np.frombuffer(draw([film], "a\n" * 3), np.uint8), cv2.IMREAD_COLOR)
    assert sheet.shape[0] > 462


def test_a_sheet_without_a_panel_has_its_heading():
    sheet = cv2.imdecode(np.frombuffer(draw([], "no view of it"), np.uint8), cv2.IMREAD_GRAYSCALE)
    assert sheet.max() > 100


def test_a_mask_that_cannot_be_read_costs_the_picture_its_outline_alone(tmp_path):
    table = lung_table(tmp_path, studies=2, side_px=64)
    study = next(table.studies())
    for mask in study.mask_views:
        Path(mask.url).write_bytes(b"junk" * int(mask.length // 4))
    with Reader(table.seek_points) as reader:
        (panel,) = panels(study, reader, None)
    assert panel.pixels is not None
    assert panel.truth is None
    assert "its mask: " in panel.title


def test_files_are_decoded_in_another_process(table, tmp_path, monkeypatch):
    monkeypatch.setattr("cxrpipe.images.radiographs.decode", lambda *_, **__: pytest.fail("decoded in this process"))
    assert show.run(ShowConfig(source=table.url, study="b", out=str(tmp_path / "b.png"))) == 0


def test_a_picture_without_a_name_is_named_by_the_study(table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    show.run(ShowConfig(source=table.url, study="b"))
    assert (tmp_path / "b.png").is_file()

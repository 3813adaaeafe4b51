"""A folder of segmenters, or a list of them, goes through every program that draws lungs."""

import json
from pathlib import Path
from typing import NamedTuple

import cv2
import pyarrow.parquet as pq
import pytest
from builders import lung_table, segmenter

from cxrpipe.archives.reader import Reader
from cxrpipe.config import EvaluateConfig, ExportConfig, PredictConfig, ScoreConfig, ShowConfig
from cxrpipe.config.arguments import parse
from cxrpipe.images import masks
from cxrpipe.images.dicom.segmentation import Model
from cxrpipe.models.folder import ModelFolder
from cxrpipe.programs import evaluate, export, predict, show
from cxrpipe.programs.score import score_archive
from cxrpipe.records import read_scores
from cxrpipe.records.study_table import StudyTable
from cxrpipe.runs.engine import loop

pytestmark = pytest.mark.usefixtures("one_thread", "scored_here")


class Voted(NamedTuple):
    folder: str
    """Holds the models a (64 px) and b (32 px)."""
    voters: tuple[ModelFolder, ...]
    table: StudyTable
    root: str


def score(table: StudyTable, root: str, *words: str) -> int:
    settings = parse("score", ScoreConfig, [f"--studies={table.url}", f"--out={root}", "--precision=fp32", *words])
    return score_archive(settings, loop)


@pytest.fixture(scope="module")
def voted(tmp_path_factory, scored_here) -> Voted:
    folder = tmp_path_factory.mktemp("vote")
    voters = tuple(segmenter(folder / "lungs" / name, seed=side, side_px=side) for name, side in (("a", 64), ("b", 32)))
    table, root = lung_table(folder, studies=4), str(folder / "root")
    assert score(table, root, "--segmenter", str(folder / "lungs")) == 0
    return Voted(str(folder / "lungs"), voters, table, root)


def report_of(root: str) -> dict:
    (path,) = Path(root).glob("runs/*/run.json")
    return json.loads(path.read_text())


def test_the_run_names_every_voter_and_its_masks_have_the_largest_side(voted):
    report = report_of(voted.root)
    assert [(model["task"], model["url"]) for model in report["models"]] == [
        ("segment", voter.url) for voter in voted.voters
    ]
    assert [model["weights_sha256"] for model in report["models"]] == [v.card.weights_sha256 for v in voted.voters]
    assert report["settings"]["segmenter"] == [voted.folder]
    rows = read_scores(voted.root).to_pylist()
    assert {masks.decode(png).shape for row in rows for png in row["masks"]} == {(64, 64)}
    assert all(0 < view["lung_fraction"] < 1 for row in rows for view in row["views"])
    assert all(0 < view["mask_quality"] < 1 for row in rows for view in row["views"])


def test_a_list_of_them_is_the_same_vote_and_one_of_them_another(voted, tmp_path, capsys):
    assert score(voted.table, voted.root, "--segmenter", ",".join(voter.url for voter in voted.voters)) == 0
    assert "Nothing to do" in capsys.readouterr().out
    assert score(voted.table, str(tmp_path), "--segmenter", voted.voters[0].url) == 0
    assert report_of(str(tmp_path))["fingerprint"] != report_of(voted.root)["fingerprint"]
    assert read_scores(str(tmp_path))["masks"] != read_scores(voted.root)["masks"]


def test_the_masks_of_a_vote_have_a_dice_and_a_panel_of_shifts(voted, tmp_path):
    words = ["--studies", voted.table.url, "--split", "all", "--resamples", "50"]
    figures, panel = str(tmp_path / "figures"), str(tmp_path / "panel")
    assert evaluate.run(parse("evaluate", EvaluateConfig, ["--scores", voted.root, "--out", figures, *words])) == 0
    assert 0 < json.loads((tmp_path / "figures" / "metrics.json").read_text())["masks"]["dice"]["value"] < 1
    shifts = ["--shifts", "--segmenter", voted.folder, "--most-studies", "1", "--out", panel]
    assert evaluate.run(parse("evaluate", EvaluateConfig, [*shifts, *words])) == 0
    models = json.loads((tmp_path / "panel" / "shifts.json").read_text())["models"]
    assert [model["url"] for model in models] == [voter.url for voter in voted.voters]


def test_predict_draws_the_masks_that_score_draws_and_show_and_export_read_them(voted, tmp_path):
    study = next(voted.table.studies())
    film = tmp_path / f"{study.study_id}.png"
    with Reader(voted.table.seek_points) as reader:
        film.write_bytes(reader.read(study.views[0]))
    words = [str(film), "--segmenter", voted.folder, "--out", str(tmp_path / "out")]
    assert predict.run(parse("predict", PredictConfig, words)) == 0
    (png,) = pq.read_table(tmp_path / "out" / "scores.parquet")["masks"].to_pylist()[0]
    row = next(row for row in read_scores(voted.root).to_pylist() if row["study_id"] == study.study_id)
    assert (masks.decode(png) == masks.decode(row["masks"][0])).mean() > 0.99  # predict may compute in bf16
    assert show.run(ShowConfig(source=voted.root, study=study.study_id, out=str(tmp_path / "show.png"))) == 0
    assert cv2.imread(str(tmp_path / "show.png")) is not None
    assert export.run(ExportConfig(source=voted.root, masks=str(tmp_path / "png"))) == 0
    assert len(list((tmp_path / "png").iterdir())) == 4


def test_a_file_of_settings_names_one_segmenter_or_several(tmp_path):
    for line, expected in (('"a"', ("a",)), ('["a", "b"]', ("a", "b")), ('"a,b"', ("a", "b"))):
        (tmp_path / "s.toml").write_text(f'archive = "x"\nout = "y"\nsegmenter = {line}\n')
        assert parse("score", ScoreConfig, ["--config", str(tmp_path / "s.toml")]).segmenter == expected


def test_a_dicom_segmentation_names_the_voters_in_64_characters_and_hashes_their_weights():
    one, vote = (
        Model.of(["unet-resnet34"], ["a" * 64]),
        Model.of(["unet-resnet34", "unet-resnet18"], ["a" * 64, "b" * 64]),
    )
    assert (one.name, one.version) == ("cxrpipe unet-resnet34", "a" * 12)
    assert vote.name == "cxrpipe vote of unet-resnet34, unet-resnet18"
    assert vote.version != Model.of(["unet-resnet34", "unet-resnet18"], ["a" * 64, "c" * 64]).version
    assert len(Model.of(["unet-timm-efficientnet-b0"] * 9, ["a" * 64] * 9).name) == 64

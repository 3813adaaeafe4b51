"""The program `evaluate`: scores and labels of one archive → figures, pictures and refusals."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
from builders import lung_table, nih_table, own_table, png, radiograph
from sklearn.metrics import roc_auc_score

from cxrpipe import storage
from cxrpipe.archives.index import index
from cxrpipe.archives.reader import Reader
from cxrpipe.archives.truth import truth_mask
from cxrpipe.config import EvaluateConfig, ScoreConfig
from cxrpipe.errors import ConfigError
from cxrpipe.images import letterbox, masks, radiographs
from cxrpipe.models.folder import ModelFolder, save_model
from cxrpipe.programs import evaluate
from cxrpipe.programs.score import score_archive
from cxrpipe.records import read_scores
from cxrpipe.records.study_table import StudyTable
from cxrpipe.runs.engine import Engine, Job, loop
from cxrpipe.scoring.parts import Receipt, score_table, write_part
from cxrpipe.scoring.prepare import Preparer

pytestmark = pytest.mark.usefixtures("scored_here")
RESAMPLES = 50


class Scored(NamedTuple):
    table: StudyTable
    root: str


def evaluated(scored: Scored, out: Path, **settings: Any) -> dict[str, Any]:
    """metrics.json of an evaluation, which JSON proper must be able to read."""
    config = EvaluateConfig(
        **{"scores": scored.root, "studies": scored.table.url, "out": str(out), "resamples": RESAMPLES} | settings
    )
    assert evaluate.run(config) == 0

    def not_json(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads((out / "metrics.json").read_text(), parse_constant=not_json)


def test_an_evaluation_reads_the_report_of_a_run_once(nih, tmp_path, monkeypatch):
    urls: list[str] = []
    monkeypatch.setattr(storage, "read", lambda url, read=storage.read: urls.append(url) or read(url))
    evaluated(nih, tmp_path / "out")
    assert len([url for url in urls if url.endswith("run.json")]) == 1


@pytest.fixture(scope="module")
def nih(tmp_path_factory, small) -> Scored:
    """A synthetic archive with official splits, scored whole; in parts, whose order is not that of the table."""
    folder = tmp_path_factory.mktemp("nih")
    table, root = nih_table(folder, studies=24, side_px=48), str(folder / "root")
    config = ScoreConfig(studies=table.url, models=(small.url,), out=root, batch_studies=8, part_studies=8)
    assert score_archive(config, loop) == 0
    assert read_scores(root)["study_id"].to_pylist() != [study.study_id for study in table.studies()]
    return Scored(table, root)


@pytest.fixture(scope="module")
def nih_out(nih, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("figures")
    evaluated(nih, out)
    return out


# ---- findings -------------------------------------------------------------------------------------------------


def test_the_test_split_is_what_is_evaluated_by_default(nih, nih_out):
    tested = [*nih.table.studies("test")]
    metrics = json.loads((nih_out / "metrics.json").read_text())
    assert 0 < len(tested) < 24
    assert metrics["split"] == "test"
    assert metrics["studies_scored"] == metrics["findings"]["Pneumonia"]["studies"] == len(tested)


@pytest.mark.parametrize("finding", ["Pneumonia", "Cardiomegaly"])
def test_figures_are_of_each_studys_own_label(nih, tmp_path, finding):
    metrics = evaluated(nih, tmp_path, split="all")
    rows = {row["study_id"]: row for row in read_scores(nih.root).to_pylist()}
    studies = [*nih.table.studies()]
    labels = np.array([study.labels[finding] for study in studies])
    probs = [rows[study.study_id][f"prob_{finding}"] for study in studies]
    agreed = np.array([rows[study.study_id][f"consensus_{finding}"] for study in studies])
    figures = metrics["findings"][finding]
    assert figures["auroc"]["value"] == pytest.approx(roc_auc_score(labels, probs))
    assert figures["sensitivity"]["value"] == pytest.approx(agreed[labels == 1].mean())
    assert figures["positives"] == labels.sum()


def test_only_findings_that_are_scored_and_labelled_are_evaluated(nih, nih_out):
    metrics = json.loads((nih_out / "metrics.json").read_text())
    assert set(metrics["findings"]) == {"Pneumonia", "Cardiomegaly"} < set(nih.table.findings)
    assert metrics["masks"] is None


def test_metrics_say_what_was_evaluated(nih, nih_out):
    metrics = json.loads((nih_out / "metrics.json").read_text())
    (fingerprint,) = set(read_scores(nih.root)["fingerprint"].to_pylist())
    assert (metrics["scores"], metrics["studies"]) == (nih.root, nih.table.url)
    assert (metrics["fingerprint"], metrics["seed"]) == (fingerprint, 0)
    assert metrics["findings"]["Pneumonia"]["resamples"] == RESAMPLES


def test_pictures_are_drawn(nih_out):
    names = {"report.html", "metrics.json", "roc.png", "confusion.png", "classification.txt"}
    assert {path.name for path in nih_out.iterdir()} == names
    for name in ("roc.png", "confusion.png"):
        assert cv2.imread(str(nih_out / name)).std() > 1


def test_the_classification_report_has_the_figures_of_both_classes(nih_out):
    figures = json.loads((nih_out / "metrics.json").read_text())["findings"]
    lines = (nih_out / "classification.txt").read_text().splitlines()
    assert [line for line in lines if line in figures] == [*figures]
    for of_finding, first in zip(figures.values(), (lines.index(finding) for finding in figures), strict=True):
        rows = {cells[0]: [float(cell) for cell in cells[1:]] for cells in map(str.split, lines[first + 3 : first + 5])}
        names = ("precision", "sensitivity", "f1", "npv", "specificity")
        value = {name: np.nan if (of := of_finding[name]["value"]) is None else of for name in names}
        positive = [value["precision"], value["sensitivity"], value["f1"], of_finding["positives"]]
        assert rows["positive"] == pytest.approx(positive, abs=1e-4, nan_ok=True)
        assert rows["negative"][:2] == pytest.approx([value["npv"], value["specificity"]], abs=1e-4, nan_ok=True)


def test_a_table_is_printed(nih, tmp_path, capsys):
    evaluated(nih, tmp_path)
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("Pneumonia", "Cardiomegaly", "AUROC", str(tmp_path)))


def test_uncertain_missing_and_unscored_studies_are_left_out_and_counted(tmp_path, small):
    labels = {"a": "1", "b": "0", "c": "1", "d": "0", "unsure": "-1", "silent": "", "broken": "1"}
    lines = ["study_id,path,split,label_Pneumonia"]
    for number, (study_id, label) in enumerate(labels.items()):
        (tmp_path / f"{study_id}.png").write_bytes(b"x" if study_id == "broken" else png(radiograph(number)))
        lines.append(f"{study_id},{study_id}.png,test,{label}")
    (tmp_path / "own.csv").write_text("\n".join(lines))
    table = str(tmp_path / "table" / "studies.parquet")
    index(str(tmp_path / "own.csv"), table)
    root = str(tmp_path / "root")
    assert score_archive(ScoreConfig(studies=table, models=(small.url,), out=root), loop) == 0
    figures = evaluated(Scored(StudyTable(table), root), tmp_path / "out")["findings"]["Pneumonia"]
    assert (figures["studies"], figures["positives"]) == (4, 2)
    assert (figures["left_out"], figures["unscored"]) == (2, 1)


# ---- masks ----------------------------------------------------------------------------------------------------


def pencil(draw: Callable[[np.ndarray], np.ndarray]) -> Engine:
    """An engine whose masks are drawn after the truth, in the segmenter's frame."""

    def engine(job: Job) -> Iterator[Receipt]:
        table = StudyTable(job.run.studies)
        (side,) = {preparation.side_px for preparation in job.ensemble.preparations}
        rows = []
        with Reader(table.seek_points) as reader, Preparer(table, job.ensemble, None) as prepare:
            for study in table.studies():
                size_px = radiographs.decode(reader.read(study.views[0]), "voi").size_px
                said = draw(letterbox.prepare_mask(truth_mask(study, 0, reader, size_px), side))
                row = prepare(study).row
                rows.append(row | {"masks": [masks.encode(said)], "computed_on": "a sharp pencil"})
        yield write_part(score_table(rows, ()), job.run.parts)

    return engine


@pytest.fixture(scope="module")
def perfect(tmp_path_factory, lungs: ModelFolder) -> Scored:
    """A synthetic archive with masks, scored with its own truth at 96 px a side; the films have 200 x 170."""
    folder = tmp_path_factory.mktemp("montgomery")
    table, root = lung_table(folder, studies=6, side_px=200), str(folder / "root")
    wide = save_model(str(folder / "wide"), replace(lungs.card, side_px=96), b"never loaded", {})
    assert (
        score_archive(ScoreConfig(studies=table.url, segmenter=(wide.url,), out=root), pencil(lambda truth: truth)) == 0
    )
    return Scored(table, root)


def test_the_truth_itself_fits_on_the_original_grid(perfect, tmp_path):
    metrics = evaluated(perfect, tmp_path, split="all")
    assert metrics["masks"]["studies"] == 6
    assert 0.97 < metrics["masks"]["dice"]["value"] < 1
    assert metrics["masks"]["iou"]["value"] < metrics["masks"]["dice"]["value"]
    assert metrics["findings"] == {}
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "metrics.json"}
    assert (tmp_path / "report.html").read_text().count("data:image/jpeg;base64,") == 8


def test_a_lung_in_the_wrong_place_does_not_fit(perfect, lungs, tmp_path):
    root = str(tmp_path / "root")
    score_archive(ScoreConfig(studies=perfect.table.url, segmenter=(lungs.url,), out=root), pencil(np.flipud))
    metrics = evaluated(Scored(perfect.table, root), tmp_path / "out", split="all")
    assert metrics["masks"]["dice"]["value"] < 0.9


# ---- refused --------------------------------------------------------------------------------------------------


def refused(scored: Scored, out: Path, **settings: Any) -> str:
    with pytest.raises(ConfigError) as refusal:
        evaluated(scored, out, **settings)
    assert not out.exists()
    return str(refusal.value)


def test_a_table_of_other_studies_is_refused(nih, tmp_path):
    other = own_table(tmp_path, {"a": [png(radiograph())]})
    assert "none of its studies" in refused(Scored(other, nih.root), tmp_path / "out", split="all")


def test_a_split_that_was_not_scored_is_refused(nih, small, tmp_path):
    root = str(tmp_path / "root")
    score_archive(ScoreConfig(studies=nih.table.url, models=(small.url,), out=root, split="valid"), loop)
    assert "none of its studies of split test" in refused(Scored(nih.table, root), tmp_path / "out")


def test_a_table_without_labels_or_masks_is_refused(nih, small, tmp_path):
    table, root = own_table(tmp_path, {"a": [png(radiograph())]}), str(tmp_path / "root")
    score_archive(ScoreConfig(studies=table.url, models=(small.url,), out=root), loop)
    assert "neither labels nor masks" in refused(Scored(table, root), tmp_path / "out", split="all")


def trained_on(nih: Scored, small: ModelFolder, folder: Path, split_seed: int) -> ModelFolder:
    facts = {"archive": nih.table.metadata["archive"], "split_seed": split_seed}
    card = replace(small.card, thresholds={"Pneumonia": 0.4})
    return save_model(str(folder / f"seed_{split_seed}"), card, small.read_weights(), facts)


def test_a_model_trained_on_this_archive_under_another_split_is_refused(nih, small, tmp_path):
    model, root = trained_on(nih, small, tmp_path, split_seed=7), str(tmp_path / "root")
    score_archive(ScoreConfig(studies=nih.table.url, models=(model.url,), out=root, split="test"), loop)
    message = refused(Scored(nih.table, root), tmp_path / "out")
    assert f"{model.url} was trained on this archive under split seed 7, the table has 0" in message


def test_a_model_trained_on_this_archive_under_the_same_split_is_not_refused(nih, small, tmp_path):
    model, root = trained_on(nih, small, tmp_path, split_seed=0), str(tmp_path / "root")
    score_archive(ScoreConfig(studies=nih.table.url, models=(model.url,), out=root, split="test"), loop)
    evaluated(Scored(nih.table, root), tmp_path / "out")


def test_a_refit_is_judged_on_the_test_split_alone_and_chooses_no_threshold_on_valid(nih, small, tmp_path):
    seed = "0; refit over development, seed 0"
    model, root = trained_on(nih, small, tmp_path, split_seed=seed), str(tmp_path / "root")
    score_archive(ScoreConfig(studies=nih.table.url, models=(model.url,), out=root), loop)
    scored = Scored(nih.table, root)
    evaluated(scored, tmp_path / "out")
    points = json.loads((tmp_path / "out" / "metrics.json").read_text())["findings"]["Pneumonia"]["operating_points"]
    assert {point["chosen_on"] for point in points} == {"cards", "fixed", "test"}
    for split in ("train", "valid", "all"):
        message = refused(scored, tmp_path / split, split=split)
        assert f"{model.url}: a refit, which learned from the train and valid split" in message
    assert "a refit" in refused(scored, tmp_path / "again", thresholds_on="valid")


def test_only_the_models_whose_rows_are_evaluated_must_fit_the_split(nih, small, tmp_path):
    root = str(tmp_path / "root")
    fingerprints = []
    for model in (small, trained_on(nih, small, tmp_path, split_seed=7)):
        score_archive(ScoreConfig(studies=nih.table.url, models=(model.url,), out=root, split="test"), loop)
        accounts = [json.loads(path.read_text()) for path in Path(root).glob("runs/*/run.json")]
        fingerprints += {account["fingerprint"] for account in accounts} - set(fingerprints)
    message = refused(Scored(nih.table, root), tmp_path / "out")
    assert re.search(r"name one --fingerprint: .*\d\d-\d\d \d\d:\d\d\), ", message), "the minute tells copies apart"
    assert "split seed 7" in refused(Scored(nih.table, root), tmp_path / "out", fingerprint=fingerprints[1])
    evaluated(Scored(nih.table, root), tmp_path / "out", fingerprint=fingerprints[0])

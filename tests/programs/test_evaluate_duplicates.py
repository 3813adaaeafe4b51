"""`evaluate` on a root with feature vectors: a copied film under another patient in another split is named."""

import json
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest
from builders import awake, png, small_classifier

from cxrpipe.archives import phantom
from cxrpipe.archives.index import index
from cxrpipe.archives.reader import Reader
from cxrpipe.config import EvaluateConfig, ScoreConfig
from cxrpipe.images import radiographs
from cxrpipe.programs import evaluate
from cxrpipe.programs.score import score_archive
from cxrpipe.records.study_table import StudyTable
from cxrpipe.runs.engine import loop

pytestmark = pytest.mark.usefixtures("one_thread", "scored_here")
STUDIES = 90
COPIED = {"s1": "copy1", "s7": "copy7"}


def copy_of(film: np.ndarray) -> bytes:
    """The film at 80% of its size, as JPEG of quality 70."""
    small = cv2.resize(film, None, fx=0.8, fy=0.8, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 70])[1].tobytes()


def archive(folder: Path, films: Mapping[str, bytes], split_of: Mapping[str, str]) -> str:
    """A table of one's own with a patient for every film; its study table."""
    folder.mkdir()
    lines = ["study_id,path,patient_id,split,label_Pneumonia"]
    for number, (name, data) in enumerate(films.items()):
        (folder / f"{name}.png").write_bytes(data)
        lines.append(f"{name},{name}.png,patient_{name},{split_of[name]},{number % 2}")
    (folder / "table.csv").write_text("\n".join(lines))
    index(str(folder / "table.csv"), str(folder / "studies.parquet"))
    return str(folder / "studies.parquet")


def evaluated(table: str, model: str, folder: Path, **settings: object) -> tuple[dict, str]:
    """metrics.json and the report of an evaluation of the test split, after all splits were scored."""
    config = ScoreConfig(
        **({"studies": table, "models": (model,), "out": str(folder / "root"), "embed": True} | settings)
    )
    assert score_archive(config, loop) == 0
    out = folder / "figures"
    judging = EvaluateConfig(scores=config.out, studies=table, out=str(out), resamples=20, pictures=0)
    assert evaluate.run(judging) == 0
    return json.loads((out / "metrics.json").read_text()), (out / "report.html").read_text()


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return awake(small_classifier(tmp_path_factory.mktemp("model") / "m", side_px=64)).url


@pytest.fixture(scope="module")
def films() -> dict[str, np.ndarray]:
    return {f"s{n}": phantom.radiograph(np.random.default_rng(n), side_px=96).pixels for n in range(STUDIES)}


@pytest.fixture(scope="module")
def split_of() -> dict[str, str]:
    of_film = {f"s{number}": ("train", "train", "train", "valid", "test")[number % 5] for number in range(STUDIES)}
    return of_film | {"copy1": "test", "copy7": "valid"}


def test_a_copied_film_under_another_patient_in_another_split_is_named(films, split_of, model, tmp_path, capsys):
    copies = {copy: copy_of(films[film]) for film, copy in COPIED.items()}
    table = archive(tmp_path / "a", {name: png(film) for name, film in films.items()} | copies, split_of)
    metrics, page = evaluated(table, model, tmp_path)
    found = metrics["near_duplicates"]
    assert found["studies"] == 2
    pairs = {frozenset((pair["study_id"], pair["other_study_id"])) for pair in found["nearest"]}
    assert pairs == {frozenset(pair) for pair in COPIED.items()}
    printed = capsys.readouterr().err
    assert "WARNING: near-duplicates of different patients in two splits: 2 pairs of studies" in printed
    assert "2 pairs of studies in two splits are near-duplicates" in page
    assert all(f"<code>{name}</code>" in page for pair in COPIED.items() for name in pair)


def test_ordinary_films_give_no_warning(films, split_of, model, tmp_path, capsys):
    table = archive(tmp_path / "a", {name: png(film) for name, film in films.items()}, split_of)
    metrics, page = evaluated(table, model, tmp_path)
    assert metrics["near_duplicates"]["studies"] == 0
    assert "WARNING" not in capsys.readouterr().err
    assert "No near-duplicates among" in page


def test_without_vectors_nothing_is_said_of_duplicates(films, split_of, model, tmp_path, capsys):
    few = {name: png(film) for name, film in [*films.items()][:20]}
    metrics, page = evaluated(archive(tmp_path / "a", few, split_of), model, tmp_path, embed=False)
    assert metrics["near_duplicates"] is None
    assert "duplicates" not in capsys.readouterr().err
    assert "duplicates" not in page


def test_what_cannot_be_compared_is_said(films, split_of, model, tmp_path, capsys, monkeypatch):
    few = {name: png(film) for name, film in [*films.items()][:20]}
    table = archive(tmp_path / "a", few, split_of)
    evaluated(table, model, tmp_path / "test", split="test")
    assert "near-duplicates across splits not sought: vectors of split test alone" in capsys.readouterr().err
    evaluated(table, model, tmp_path / "few")
    assert "not sought: 20 views are too few, or too alike" in capsys.readouterr().err
    monkeypatch.setattr("cxrpipe.programs.evaluate_duplicates.MOST_VIEWS", 19)
    evaluated(table, model, tmp_path / "few")
    assert "not sought: 20 views; at most 19 are compared" in capsys.readouterr().err


@pytest.mark.slow
def test_copies_of_real_films_are_found_among_220(real_data, model, tmp_path):
    """Films of the NIH archive under three patients more."""
    index(str(real_data / "nih"), str(tmp_path / "nih.parquet"))
    table = StudyTable(str(tmp_path / "nih.parquet"))
    films, split_of = {}, {}
    with Reader(table.seek_points) as reader:
        for study in table.studies():
            films[study.study_id] = reader.read(study.views[0])
            split_of[study.study_id] = study.split
    metrics, _ = evaluated(archive(tmp_path / "plain", films, split_of), model, tmp_path / "of_plain")
    assert metrics["near_duplicates"]["studies"] == 0
    copied = [study_id for study_id, split in split_of.items() if split == "train"][::50]
    for study_id in copied:
        films[f"copy_{study_id}"] = copy_of(radiographs.decode(films[study_id], "voi").pixels)
        split_of[f"copy_{study_id}"] = "test"
    metrics, _ = evaluated(archive(tmp_path / "with_copies", films, split_of), model, tmp_path / "of_copies")
    pairs = {frozenset((pair["study_id"], pair["other_study_id"])) for pair in metrics["near_duplicates"]["nearest"]}
    assert pairs == {frozenset((study_id, f"copy_{study_id}")) for study_id in copied}

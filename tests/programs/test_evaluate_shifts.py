"""`evaluate --shifts`: copies are scored as the plain loop scores, each file is decoded once, and what is written."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from builders import FINDINGS, lung_table, nih_table, own_table, png, radiograph

from cxrpipe import storage
from cxrpipe.archives.reader import Reader
from cxrpipe.config import EvaluateConfig
from cxrpipe.errors import ConfigError
from cxrpipe.images import radiographs
from cxrpipe.images.corruptions import CLEAN, COPIES, corrupt
from cxrpipe.images.squares import decode_view
from cxrpipe.models.ensemble import open_ensemble
from cxrpipe.models.folder import ModelFolder, save_model
from cxrpipe.programs import evaluate
from cxrpipe.records.study_table import StudyTable
from cxrpipe.scoring.copies import RememberingReader, score_copies, seed_of
from cxrpipe.scoring.loop import score
from cxrpipe.scoring.predict import Predictor
from cxrpipe.scoring.prepare import Preparer

pytestmark = pytest.mark.usefixtures("one_thread", "scored_here")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> StudyTable:
    return nih_table(tmp_path_factory.mktemp("shifts"), studies=12)


def settings(table: StudyTable, small: ModelFolder, out: Path, **further: Any) -> EvaluateConfig:
    wanted = {"shifts": True, "studies": table.url, "models": (small.url,), "out": str(out), "split": "all"}
    return EvaluateConfig(**wanted | {"resamples": 20, "most_studies": 4} | further)


@pytest.fixture(scope="module")
def panel(table: StudyTable, small: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("panel")
    assert evaluate.run(settings(table, small, out)) == 0
    return out


def test_the_clean_copies_are_what_the_plain_loop_gives(panel, table, small):
    ensemble = open_ensemble([small.url])
    copies = pq.read_table(panel / "copies.parquet")
    clean = {row["study_id"]: row for row in copies.to_pylist() if (row["corruption"], row["grade"]) == CLEAN}
    assert len(clean) == 4
    with Preparer(table, ensemble, None) as prepare:
        (rows,) = score(table.find(clean), prepare, Predictor(ensemble))
    for row in rows.to_pylist():
        for finding in FINDINGS:
            assert clean[row["study_id"]][f"prob_{finding}"] == pytest.approx(row[f"prob_{finding}"], abs=1e-6)


def test_a_corrupted_copy_is_what_the_loop_gives_for_the_corrupted_file(panel, table, small):
    from cxrpipe.images import squares

    ensemble = open_ensemble([small.url])
    copy = COPIES[9]
    copies = pq.read_table(panel / "copies.parquet").to_pylist()
    row = next(row for row in copies if (row["corruption"], row["grade"]) == copy and row["status"] == "ok")
    (study,) = table.find([row["study_id"]])
    with Reader(table.seek_points) as reader:
        data = reader.read(study.views[0])
    film = radiographs.decode(data, "voi")
    film = film._replace(pixels=corrupt(film.pixels, copy, seed_of(data)))
    pixels = squares.fitted({"voi": film}, ensemble.preparations).squares[ensemble.preparations[0]]
    probs = Predictor(ensemble).predict({ensemble.preparations[0]: pixels[None]}).probs[0, 0]
    assert [row[f"prob_{finding}"] for finding in FINDINGS] == pytest.approx(probs.tolist(), abs=1e-5)


def test_every_study_has_every_copy_and_no_row_names_a_file(panel):
    copies = pq.read_table(panel / "copies.parquet")
    assert copies.num_rows == 4 * len(COPIES)
    assert {"views", "masks", "detail"}.isdisjoint(copies.column_names)
    figures = pq.read_table(panel / "shifts.parquet").to_pylist()
    assert {(row["corruption"], row["grade"]) for row in figures} == set(COPIES)
    told = json.loads((panel / "shifts.json").read_text())
    assert (told["sampled"], told["split"], len(told["figures"])) == (4, "all", len(figures))
    assert "Robustness" in (panel / "shifts.html").read_text()


def test_the_same_seed_gives_the_same_panel(panel, table, small, tmp_path):
    assert evaluate.run(settings(table, small, tmp_path)) == 0
    assert pq.read_table(tmp_path / "copies.parquet").equals(pq.read_table(panel / "copies.parquet"))
    assert pq.read_table(tmp_path / "shifts.parquet").equals(pq.read_table(panel / "shifts.parquet"))


def test_every_file_is_read_and_decoded_once_beside_its_clean_copy(table, small, tmp_path, monkeypatch):
    read, decoded = [], []
    read_bytes, decode = Reader.read, radiographs.decode
    monkeypatch.setattr(Reader, "read", lambda self, view: (read.append(view), read_bytes(self, view))[1])
    monkeypatch.setattr(radiographs, "decode", lambda *given, **named: (decoded.append(1), decode(*given, **named))[1])
    assert evaluate.run(settings(table, small, tmp_path, most_studies=2)) == 0
    assert len(read) == len(decoded) == 2  # the clean copy is decoded in a child


def test_a_file_that_cannot_be_decoded_is_tried_once_and_its_copies_have_its_reason(small, tmp_path):
    table = own_table(tmp_path, {"broken": [b"no image"], "whole": [png(radiograph())]})
    ensemble, tried = open_ensemble([small.url]), []

    def decode(data, name, preparations):
        tried.append(name)
        return decode_view(data, name, preparations)

    with RememberingReader(table.seek_points) as reader:
        scored = score_copies(table.studies(), table, ensemble, Predictor(ensemble), decode, reader)
        status = {study.study_id: rows["reason"].to_pylist() for study, rows in scored}
    assert status == {"broken": ["not_an_image"] * len(COPIES), "whole": [None] * len(COPIES)}
    assert len(tried) == 2


def test_masks_of_people_move_with_their_copies(lungs, tmp_path):
    table = lung_table(tmp_path, studies=3)
    wanted = {"shifts": True, "studies": table.url, "segmenter": lungs.url, "out": str(tmp_path / "panel")}
    assert evaluate.run(EvaluateConfig(**wanted, split="all", resamples=20)) == 0
    figures = pq.read_table(tmp_path / "panel" / "shifts.parquet").to_pylist()
    assert {row["of"] for row in figures} == {"lungs"}
    assert {row["figure"] for row in figures} == {"dice"}
    assert all(row["studies"] == 3 for row in figures)


def test_a_score_root_is_no_place_for_copies(table, small, tmp_path):
    storage.write(str(tmp_path / "runs" / "x" / "plan.json"), b"{}")
    with pytest.raises(ConfigError, match="a score root"):
        evaluate.run(settings(table, small, tmp_path))


def test_a_split_without_labels_and_a_table_of_another_archive_are_refused(table, small, tmp_path):
    model = save_other(small, tmp_path)
    with pytest.raises(ConfigError, match="has labels of Other"):
        evaluate.run(settings(table, small, tmp_path / "out", models=(model,)))
    with pytest.raises(ConfigError, match="not of --archive /other"):
        evaluate.run(settings(table, small, tmp_path / "out", archive="/other"))


def save_other(small: ModelFolder, folder: Path) -> str:
    """The small classifier, which now calls its findings otherwise."""
    from dataclasses import replace

    card = replace(small.card, findings=("Other", "Another"))
    return save_model(str(folder / "other"), card, small.read_weights(), {}).url


def test_a_model_that_was_trained_under_another_split_of_the_archive_is_refused(table, small, tmp_path):
    facts = {"archive": table.metadata["archive"], "split_seed": 1}
    model = save_model(str(tmp_path / "seen"), small.card, small.read_weights(), facts)
    with pytest.raises(ConfigError, match="split seed 1"):
        evaluate.run(settings(table, small, tmp_path / "out", models=(model.url,)))


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ({"scores": "root"}, "leave --scores out"),
        ({"models": ()}, "name --models"),
        ({"studies": ""}, "either --archive URL or --studies URL"),
        ({"shifts": False}, "missing: --scores URL. Example: cxrpipe evaluate"),
        ({"shifts": False, "scores": "root"}, "belong to --shifts"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(table, small, tmp_path, words, reason):
    with pytest.raises(ConfigError, match=reason):
        settings(table, small, tmp_path, **words)

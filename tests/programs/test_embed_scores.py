"""`score --embed` and its neighbours on a root: privacy, derivation, and what other programs read."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from builders import FINDINGS, nih_table
from engines import must_not_run

from cxrpipe.archives.index import index
from cxrpipe.config import AdoptConfig, EvaluateConfig, ExportConfig, NightlyConfig, ScoreConfig, SimilarConfig
from cxrpipe.errors import ConfigError
from cxrpipe.models.folder import save_model
from cxrpipe.models.onnx_export import write_onnx
from cxrpipe.programs import adopt, evaluate, export, similar
from cxrpipe.programs.score import score_archive
from cxrpipe.records import complete_runs, read_scores
from cxrpipe.records.study_table import StudyTable
from cxrpipe.runs.engine import loop

pytestmark = pytest.mark.usefixtures("one_thread", "scored_here")


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> StudyTable:
    return nih_table(tmp_path_factory.mktemp("films"), studies=12)


@pytest.fixture(scope="module")
def root(tmp_path_factory, table, small) -> str:
    out = str(tmp_path_factory.mktemp("scored") / "root")
    assert score_archive(ScoreConfig(studies=table.url, models=(small.url,), out=out, embed=True), loop) == 0
    return out


def test_every_scored_view_has_a_vector_of_every_member(root):
    rows = read_scores(root)
    assert rows.num_rows == 12
    vectors = np.array(rows["feature_vectors"].to_pylist())
    assert vectors.shape == (12, 1, 1, 1024)
    assert np.isfinite(vectors).all()


def test_new_thresholds_keep_the_vectors_and_open_no_image(root, table, small, tmp_path):
    other = save_model(
        str(tmp_path / "other"),
        replace(small.card, thresholds=dict.fromkeys(FINDINGS, 0.01)),
        small.read_weights(),
        facts={},
    )
    config = ScoreConfig(studies=table.url, models=(other.url,), out=root, embed=True)
    assert score_archive(config, must_not_run) == 0
    runs = complete_runs(root)
    before, after = (runs.of(report.fingerprint).scores().sort_by("study_id") for report in runs)
    assert runs.newest.derived == 12
    assert after["feature_vectors"].to_pylist() == before["feature_vectors"].to_pylist()
    assert set(after["votes_Pneumonia"].to_pylist()) == {1}


@pytest.fixture(scope="module")
def private(tmp_path_factory, table) -> str:
    folder = tmp_path_factory.mktemp("private")
    key = folder / "key"
    key.write_bytes(bytes(range(32)))
    key.chmod(0o600)
    index(table.metadata["archive"], str(folder / "studies.parquet"), pseudonymise=str(key))
    return str(folder / "studies.parquet")


def test_on_a_pseudonymised_table_embed_is_refused_until_it_is_allowed(private, small, tmp_path):
    refused = ScoreConfig(studies=private, models=(small.url,), out=str(tmp_path / "root"), embed=True)
    with pytest.raises(ConfigError, match=r"can identify a patient.*add --embed-under-pseudonyms"):
        score_archive(refused, must_not_run)
    assert not Path(refused.out).exists()
    assert score_archive(replace(refused, embed_under_pseudonyms=True), loop) == 0
    assert read_scores(refused.out)["feature_vectors"].null_count == 0


def test_a_night_with_pseudonyms_is_refused_before_it_indexes(small):
    settings = {"archive": "a", "studies": "s.parquet", "models": (small.url,), "out": "o", "pseudonymise": "key"}
    with pytest.raises(ConfigError, match="add --embed-under-pseudonyms"):
        NightlyConfig(**settings, embed=True)
    NightlyConfig(**settings, embed=True, embed_under_pseudonyms=True)


def test_an_onnx_file_has_no_vectors_and_no_program_stumbles_over_that(table, small, tmp_path):
    write_onnx(small, tmp_path / "a.onnx")
    settings = {"mean": (0.5,), "std": (0.25,), "fit": "letterbox", "resize": "area", "findings": FINDINGS}
    adopt.run(AdoptConfig(source=f"onnx:{tmp_path / 'a.onnx'}", out=str(tmp_path / "m"), **settings))
    root = str(tmp_path / "root")
    assert score_archive(ScoreConfig(studies=table.url, models=(str(tmp_path / "m"),), out=root, embed=True), loop) == 0
    assert read_scores(root)["feature_vectors"].to_pylist() == [[[None]]] * 12
    judging = {"scores": root, "studies": table.url, "resamples": 20, "pictures": 0}
    assert evaluate.run(EvaluateConfig(**judging, out=str(tmp_path / "figures"))) == 0
    with pytest.raises(ConfigError, match="no view there has a feature vector"):
        export.run(ExportConfig(source=root, embeddings=str(tmp_path / "v.parquet")))
    with pytest.raises(ConfigError, match="no model there has feature vectors"):
        similar.run(SimilarConfig(source=root, study=read_scores(root)["study_id"][0].as_py()))

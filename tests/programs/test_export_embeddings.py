"""`export --embeddings`: Parquet that DuckDB, pandas and faiss take, without the patients whom a root has forgotten."""

import shutil
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest
from builders import own_table, png, radiograph, small_classifier

from cxrpipe.config import ExportConfig, ForgetConfig, ScoreConfig
from cxrpipe.errors import ConfigError
from cxrpipe.programs import export, forget
from cxrpipe.programs.score import score_archive
from cxrpipe.records import complete_runs, read_scores
from cxrpipe.records.stored_vectors import read_embedded
from cxrpipe.runs.engine import loop
from cxrpipe.runs.root import ScoreRoot

pytestmark = pytest.mark.usefixtures("one_thread", "scored_here")


@pytest.fixture(scope="module")
def scored(tmp_path_factory) -> ScoreConfig:
    """Three studies by two models; one study has two views, one of them broken, and one has nothing else."""
    folder = tmp_path_factory.mktemp("scored")
    films = {"a": [png(radiograph(0))], "b": [b"junk", png(radiograph(1))], "c": [b"junk"], "d": [png(radiograph(2))]}
    models = tuple(small_classifier(folder / name, seed=seed).url for seed, name in enumerate(("one", "two")))
    config = ScoreConfig(studies=own_table(folder, films).url, models=models, out=str(folder / "root"), embed=True)
    score_archive(config, loop)
    return config


def exported(config: ScoreConfig, folder: Path) -> str:
    out = str(folder / "vectors.parquet")
    assert export.run(ExportConfig(source=config.out, embeddings=out)) == 0
    return out


def test_pandas_and_faiss_get_an_array_of_float32_that_is_contiguous(scored, tmp_path):
    views = pd.read_parquet(exported(scored, tmp_path)).sort_values("study_id")
    assert views[["study_id", "patient_id", "view"]].to_numpy().tolist() == [
        ["a", "patient_a", 0],
        ["b", "patient_b", 1],
        ["d", "patient_d", 0],
    ]
    rows = {row["study_id"]: row for row in read_scores(scored.out).to_pylist()}
    for member, name in enumerate(("one", "two")):
        vectors = np.stack(views[f"features_{name}"])
        assert (vectors.shape, vectors.dtype, vectors.flags.c_contiguous) == ((3, 1024), np.float32, True)
        np.testing.assert_array_equal(vectors[1], rows["b"]["feature_vectors"][1][member])


def test_duckdb_compares_vectors(scored, tmp_path):
    out = exported(scored, tmp_path)
    found = duckdb.sql(
        f"""SELECT a.study_id, b.study_id, array_cosine_similarity(a.v, b.v)
            FROM (SELECT study_id, features_one::FLOAT[1024] AS v FROM '{out}') AS a
            JOIN (SELECT study_id, features_one::FLOAT[1024] AS v FROM '{out}') AS b ON a.study_id <= b.study_id"""
    ).fetchall()
    assert len(found) == 6
    assert all(cosine == pytest.approx(1) for one, other, cosine in found if one == other)


def test_rows_are_read_some_at_a_time(scored):
    root = ScoreRoot.at(scored.out)
    batches = [*read_embedded(complete_runs(root.url), ["views"], root.forgotten().is_kept, at_once=1)]
    assert [batch.rows.num_rows for batch in batches] == [1, 1, 1, 1]


def test_a_forgotten_patient_is_in_no_export_even_where_forget_broke(scored, tmp_path):
    root = _copy(scored.out, tmp_path / "root")
    root.forget("patient_d")  # the list alone, as a `forget` that broke behind it leaves a root
    out, csv = str(tmp_path / "after.parquet"), str(tmp_path / "after.csv")
    assert export.run(ExportConfig(source=root.url, embeddings=out, csv=csv)) == 0
    assert sorted(pd.read_parquet(out)["study_id"]) == ["a", "b"]
    assert sorted(pd.read_csv(csv)["study_id"]) == ["a", "b", "c"]


def test_forget_removes_the_vectors_of_a_patient(scored, tmp_path):
    root = _copy(scored.out, tmp_path / "root")
    forget.run(ForgetConfig(out=root.url, patient="patient_a"))
    left = read_scores(root.url)
    assert sorted(left["study_id"].to_pylist()) == ["b", "c", "d"]
    before = {row["study_id"]: row["feature_vectors"] for row in read_scores(scored.out).to_pylist()}
    for row in left.to_pylist():
        assert row["feature_vectors"] == before[row["study_id"]]


def test_a_root_without_vectors_says_how_to_have_some(scored, tmp_path):
    plain = ScoreConfig(studies=scored.studies, models=scored.models, out=str(tmp_path / "root"))
    score_archive(plain, loop)
    with pytest.raises(ConfigError, match="no feature vectors there; score with --embed to have some"):
        export.run(ExportConfig(source=plain.out, embeddings=str(tmp_path / "v.parquet")))
    assert not (tmp_path / "v.parquet").exists()


def _copy(root: str, to: Path) -> ScoreRoot:
    shutil.copytree(root, to, dirs_exist_ok=True)
    return ScoreRoot.at(str(to))

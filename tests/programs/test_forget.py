"""What a patient leaves behind when they are forgotten: nothing in the root, and the names of what is elsewhere."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from answered import answered_root
from builders import own_table, png, radiograph, segmenter
from engines import Killed, killed_after, must_not_run
from readings import verdict

from cxrpipe.archives.index import index
from cxrpipe.config import ForgetConfig, ScoreConfig
from cxrpipe.models.folder import ModelFolder, save_model
from cxrpipe.programs.forget import run as forget
from cxrpipe.programs.score import score_archive
from cxrpipe.records import read_scores
from cxrpipe.records.study_table import StudyTable
from cxrpipe.runs.engine import loop
from cxrpipe.runs.plan import ROW_GROUP
from cxrpipe.runs.reading_lists import draw_list, open_list
from cxrpipe.runs.reviews import Reviews
from cxrpipe.runs.root import ScoreRoot

pytestmark = pytest.mark.usefixtures("scored_here", "one_thread")

FILMS = {f"s{number}": [png(radiograph(number))] for number in range(4)}
STRUCTURES = ("left_lung", "right_lung", "heart")


@pytest.fixture(scope="module")
def anatomy(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    """A segmenter that names structures."""
    return segmenter(tmp_path_factory.mktemp("anatomy"), structures=STRUCTURES)


@pytest.fixture
def config(tmp_path: Path, small: ModelFolder, anatomy: ModelFolder) -> ScoreConfig:
    """Four studies of four patients, with structures and feature vectors, in parts of two."""
    return ScoreConfig(
        studies=own_table(tmp_path, FILMS).url,
        models=(small.url,),
        segmenter=(anatomy.url,),
        out=str(tmp_path / "root"),
        embed=True,
        part_studies=2,
    )


def test_all_columns_of_the_others_stay_as_they_were(config: ScoreConfig) -> None:
    assert score_archive(config, loop) == 0
    before = {row["study_id"]: row for row in read_scores(config.out).to_pylist()}
    assert len(before["s1"]["feature_vectors"][0][0]) > 100
    assert [structure["name"] for structure in before["s1"]["structures"][0]] == list(STRUCTURES)
    tables = {path: pq.ParquetFile(path).schema_arrow for path in Path(config.out).rglob("*.parquet")}
    assert forget(ForgetConfig(patient="patient_s0", out=config.out)) == 0
    assert {row["study_id"]: row for row in read_scores(config.out).to_pylist()} == {
        study_id: row for study_id, row in before.items() if study_id != "s0"
    }
    assert len(tables) >= 4  # the list, two parts, the published file
    for path, schema in tables.items():
        assert pq.ParquetFile(path).schema_arrow.equals(schema, check_metadata=True)
        assert "patient_s0" not in str(pq.read_table(path).to_pylist())
    assert score_archive(config, must_not_run) == 0


def test_row_groups_stay_within_their_limit_and_pages_without_a_dictionary_have_none(config: ScoreConfig) -> None:
    score_archive(config, loop)
    (published,) = Path(config.out, "scores").glob("*/*.parquet")
    rows = pq.read_table(published)
    many = rows.take([0, 1, 2, 3] * 600)
    pq.write_table(many, published, compression="zstd", row_group_size=ROW_GROUP, use_dictionary=False)
    forget(ForgetConfig(patient="patient_s0", out=config.out))
    facts = pq.ParquetFile(published).metadata
    groups = [facts.row_group(number) for number in range(facts.num_row_groups)]
    assert sum(group.num_rows for group in groups) == 1800
    assert max(group.num_rows for group in groups) <= ROW_GROUP
    assert not any(group.column(place).has_dictionary_page for group in groups for place in range(group.num_columns))


def test_who_is_not_there_changes_no_file(config: ScoreConfig) -> None:
    score_archive(config, loop)
    before = {path: path.stat().st_mtime_ns for path in Path(config.out).rglob("*.parquet")}
    forget(ForgetConfig(patient="nobody", out=config.out))
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_lists_beside_a_private_table_are_reached_through_it(
    config: ScoreConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = tmp_path / "key"
    key.write_bytes(bytes(range(32)))
    key.chmod(0o600)
    table = str(tmp_path / "private" / "studies.parquet")
    index(StudyTable(config.studies).metadata["archive"], table, pseudonymise=str(key))
    config = replace(config, studies=table, embed_under_pseudonyms=True)
    with pytest.raises(Killed):
        score_archive(config, killed_after(1))
    first, *others = [study.patient_id for study in StudyTable(table).studies()]
    forget(ForgetConfig(patient=str(first), out=config.out))
    (run,) = ScoreRoot.at(config.out).runs()
    assert f"{run.run_id}: unfinished, and its list lies beside its table" in capsys.readouterr().out
    forget(ForgetConfig(patient=str(first), out=config.out, studies=table))
    assert "unfinished" not in capsys.readouterr().out
    assert score_archive(config, loop) == 0
    assert sorted(read_scores(config.out)["patient_id"].to_pylist()) == sorted(map(str, others))


def test_verdicts_and_entries_of_reading_lists_are_removed_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = ScoreRoot.at(answered_root(tmp_path, {"Mass": np.linspace(0, 1, 8)[None]}))
    drawn = draw_list(root, root.complete_runs().of(None), 8, "random")
    reviews = Reviews(root)
    of_patient = {"patient_id": "p00003", "finding": "Mass"}
    for reader in ("Ada", "Bo"):
        reviews.write([verdict("s00003", reader=reader, **of_patient)])
    reviews.write([verdict("s00004", patient_id="p00004", finding="Mass")])
    reviews.merge()
    reviews.write([verdict("s00003", "wrong", reader="Cy", **of_patient)])
    assert forget(ForgetConfig(patient="p00003", out=root.url)) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "3 verdicts of readers, 1 entries of reading lists" in said
    assert json.loads((tmp_path / "reviews/forgotten.json").read_text()) == {"verdicts": 3, "listed": 1}
    for path in tmp_path.rglob("*.parquet"):
        assert "s00003" not in str(pq.read_table(path).to_pylist()), path
    assert Reviews(root).read()["study_id"].to_pylist() == ["s00004"]
    assert reviews.read()["study_id"].to_pylist() == ["s00004"]  # although it had read the files before
    again = open_list(root, drawn.name)
    assert (again.design, again.studies.num_rows) == (drawn.design, 7)
    forget(ForgetConfig(patient="p00004", out=root.url))
    assert json.loads((tmp_path / "reviews/forgotten.json").read_text()) == {"verdicts": 4, "listed": 2}
    assert Reviews(root).merge(at_least=1) == 1
    assert Reviews(root).history().num_rows == 0


def model_with(facts: dict[str, Any], small: ModelFolder, folder: Path) -> str:
    return save_model(str(folder), small.card, small.read_weights(), facts=facts).url


def test_models_that_may_have_learned_from_the_patient_are_named_from_their_cards(
    config: ScoreConfig, small: ModelFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    score_archive(config, loop)
    (run,) = ScoreRoot.at(config.out).runs()
    archive = StudyTable(config.studies).metadata["archive"]
    heads = {"scores": config.out, "runs": [run.run_id], "studies": config.studies, "model": small.url}
    told = {
        "heads": {"heads": heads, "archive": archive},
        "other-heads": {"heads": heads | {"runs": ["another"]}, "archive": archive},
        "trained": {"archive": archive},
        "unrelated": {"archive": "s3://elsewhere"},
    }
    for name, facts in told.items():
        model_with(facts, small, tmp_path / "models" / name)
    forget(ForgetConfig(patient="patient_s0", out=config.out))
    assert "--models lists the models" in capsys.readouterr().out
    forget(ForgetConfig(patient="patient_s1", out=config.out, models=(str(tmp_path / "models"),)))
    lines = capsys.readouterr().out.replace("\n", " ")
    for name, words in {
        "heads": "its heads may have learned from the patient: fit them again with cxrpipe probe",
        "other-heads": "its heads were fitted on other runs of this root",
        "trained": "trained on the archive of this root, and on the patient if",
        "unrelated": "its card names neither this root nor the archive of its runs",
    }.items():
        assert f"{tmp_path}/models/{name}: {words}" in lines
    assert not [path for path in Path(config.out).rglob("*.parquet") if "patient_s1" in str(pq.read_table(path))]

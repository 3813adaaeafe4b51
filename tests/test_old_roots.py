"""What earlier versions wrote stays of use: a score root and models of commit 7adb411 (tests/fixtures/7adb411)."""

import hashlib
import json
import shutil
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from engines import must_not_run

from cxrpipe.config import CompareConfig, EvaluateConfig, ExportConfig, ForgetConfig, ScoreConfig
from cxrpipe.errors import ConfigError
from cxrpipe.images import masks
from cxrpipe.models.ensemble import Ensemble, open_ensemble
from cxrpipe.models.folder import save_model
from cxrpipe.programs import compare, evaluate, export, forget
from cxrpipe.programs.score import score_archive
from cxrpipe.records import read_scores, runs_of, score_schema
from cxrpipe.runs.engine import Engine, loop

pytestmark = pytest.mark.usefixtures("scored_here", "one_thread")

PACKED = Path(__file__).parent / "fixtures" / "7adb411" / "place.tar.gz"
WRITTEN_AT = "/cxrpipe-7adb411"
FINDINGS = ("Pneumonia", "Cardiomegaly")
OF_ITS_TIME = 2
"""The PREPARATION_VERSION of 7adb411."""
EXPLAINED_THEN = 1
"""Its EXPLANATION_VERSION."""


@pytest.fixture(scope="module")
def then(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that was packed, which no test changes."""
    folder = tmp_path_factory.mktemp("then")
    with tarfile.open(PACKED) as packed:
        packed.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def models_then(then: Path) -> Path:
    return then / "models"


@pytest.fixture
def place(then: Path, tmp_path: Path) -> Path:
    """Its archives, table and root, where lists and tables name the archives as they lie here."""
    for name in ("archive", "nih", "table", "root", "figures"):
        shutil.copytree(then / name, tmp_path / name)
    for table in (tmp_path / "table/studies.parquet", *tmp_path.glob("root/runs/*/studies.parquet")):
        _name_place(table, tmp_path)
    (seek_points,) = tmp_path.glob("root/index/*/seek_points")
    for container in (tmp_path / "nih").glob("*.tar.gz"):
        then, now = (_of_seek_points(f"{place}/nih/{container.name}") for place in (WRITTEN_AT, tmp_path))
        (seek_points / then).rename(seek_points / now)
    return tmp_path


def _of_seek_points(container: str) -> str:
    """The file name of the seek points of a tar.gz, as 7adb411 made it of the url."""
    return hashlib.sha256(container.encode()).hexdigest()[:32] + ".gzidx"


def _name_place(table: Path, place: Path) -> None:
    """Write a list or table of studies again, with urls below `place`; digests stay as they were."""

    def here(value: Any) -> Any:
        match value:
            case str():
                return value.replace(WRITTEN_AT, str(place))
            case list():
                return [here(each) for each in value]
            case dict():
                return {name: here(each) for name, each in value.items()}
        return value

    rows = pq.read_table(table)
    facts = {name.decode(): here(value.decode()) for name, value in rows.schema.metadata.items()}
    schema = rows.schema.with_metadata(facts)
    pq.write_table(pa.Table.from_pylist(here(rows.to_pylist()), schema=schema), table)


@pytest.fixture
def as_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels are prepared as they were: with another preparation the models have another fingerprint."""
    monkeypatch.setattr("cxrpipe.models.ensemble.PREPARATION_VERSION", OF_ITS_TIME)
    monkeypatch.setattr("cxrpipe.models.ensemble.EXPLANATION_VERSION", EXPLAINED_THEN)


def ensemble(models: Path, **settings: bool) -> Ensemble:
    return open_ensemble([f"{models}/a", f"{models}/b"], [f"{models}/lungs"], **settings)


def score(
    place: Path, models: Path, engine: Engine = loop, members: Sequence[str] | None = None, **settings: Any
) -> int:
    """members: instead of the two of then"""
    config = ScoreConfig(
        studies=f"{place}/table/studies.parquet",
        models=tuple(members or (f"{models}/a", f"{models}/b")),
        segmenter=(f"{models}/lungs",),
        out=f"{place}/root",
        precision="fp32",
        **settings,
    )
    return score_archive(config, engine)


def fingerprint(place: Path, explained: bool = False) -> str:
    """Of the run without heat maps, or of that with them."""
    first, second = runs_of(str(place / "root"))[:2]
    return (first if explained else second).fingerprint


def statuses(place: Path, of: str) -> dict[str, str]:
    rows = read_scores(str(place / "root"), of).to_pylist()
    return {row["study_id"]: row["reason"] or row["status"] for row in rows}


TEST_SPLIT = {f"s{number:02}": "ok" for number in (0, 1, 2, 3, 4, 5, 9)} | {"s10": "no_frontal", "s11": "truncated"}
REST = {f"s{number:02}": "ok" for number in (6, 7, 8)}


# ---- read -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("explained", [True, False])
def test_its_rows_are_read_with_todays_columns(place: Path, explained: bool) -> None:
    of = fingerprint(place, explained)
    assert statuses(place, of) == TEST_SPLIT
    rows = read_scores(str(place / "root"), of)
    assert rows.schema.equals(score_schema(FINDINGS))
    row = next(row for row in rows.to_pylist() if row["study_id"] == "s09")
    assert [masks.decode(mask).shape for mask in row["masks"]] == [(32, 32), (32, 32)]
    assert bool(row["heatmaps"]) == explained
    assert 0 < row["prob_Pneumonia"] < 1
    assert len(row["member_probs_Pneumonia"]) == 2


def test_its_models_of_several_fingerprints_must_be_named(place: Path) -> None:
    with pytest.raises(ConfigError, match=f"name one --fingerprint: .*{fingerprint(place)}"):
        read_scores(str(place / "root"))


def test_its_models_have_the_fingerprint_that_they_had(place: Path, models_then: Path, as_then: None) -> None:
    assert ensemble(models_then).fingerprint == fingerprint(place)
    assert ensemble(models_then, explain=True).fingerprint == fingerprint(place, explained=True)


# ---- resume ---------------------------------------------------------------------------------------------------


def test_its_broken_run_is_resumed_by_the_same_command(place: Path, models_then: Path, as_then: None) -> None:
    before = len(list((place / "root/runs").iterdir()))
    assert score(place, models_then) == 0
    assert len(list((place / "root/runs").iterdir())) == before
    completed = runs_of(str(place / "root"))[-1]
    assert (completed.studies, completed.scored_before_resume) == (12, 4)
    assert statuses(place, fingerprint(place)) == TEST_SPLIT | REST


def test_a_night_completes_every_broken_run_of_its_models_and_finds_nothing_left(
    place: Path, models_then: Path, as_then: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """That of the NIH archive reads a tar.gz at the seek points that were kept then."""
    assert score(place, models_then, incremental=True) == 0
    assert [run.counts for run in runs_of(str(place / "root"))[2:]] == [
        {"ok": 10, "rejected/no_frontal": 1, "failed/truncated": 1},
        {"ok": 6},
    ]
    assert "every study is scored" in capsys.readouterr().out
    assert score(place, models_then, must_not_run, incremental=True) == 0


def test_its_complete_run_is_not_scored_again(place: Path, models_then: Path, as_then: None) -> None:
    assert score(place, models_then, must_not_run, split="test") == 0
    assert score(place, models_then, must_not_run, split="test", explain=True) == 0


def test_under_another_preparation_its_runs_stay_as_they_are_and_all_is_scored_anew(
    place: Path, models_then: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows of two preparations never share a run: its broken run waits for the version that began it."""
    monkeypatch.setattr("cxrpipe.models.ensemble.PREPARATION_VERSION", 1_000)
    root, then = str(place / "root"), fingerprint(place)
    before = {path: path.read_bytes() for path in (place / "root/runs").rglob("*") if path.is_file()}
    assert score(place, models_then, incremental=True, dry_run=True) == 0
    assert "12 studies: 12 new" in capsys.readouterr().out
    assert score(place, models_then, incremental=True) == 0
    now = ensemble(models_then).fingerprint
    assert statuses(place, now) == TEST_SPLIT | REST
    assert statuses(place, then) == TEST_SPLIT
    assert runs_of(root)[-1].scored_before_resume == 0
    assert before.items() <= {path: path.read_bytes() for path in before}.items()


# ---- derive, evaluate, compare, export, forget ----------------------------------------------------------------


def test_rows_of_calibrated_models_are_derived_from_its_rows_without_an_image(
    place: Path, models_then: Path, as_then: None
) -> None:
    calibrated = []
    for model in ensemble(models_then).members:
        card = replace(model.card, thresholds={"Pneumonia": 0.2}, calibration={"Pneumonia": (2.0, -0.5)})
        out = f"{place}/calibrated/{Path(model.url).name}"
        calibrated.append(save_model(out, card, model.read_weights(), facts={}).url)
    for image in (place / "archive").glob("*.png"):
        image.unlink()
    assert score(place, models_then, must_not_run, members=calibrated, split="test") == 0
    derived = runs_of(str(place / "root"))[-1]
    assert derived.derived == 9
    assert statuses(place, derived.fingerprint) == TEST_SPLIT
    then, now = (read_scores(f"{place}/root", of) for of in (fingerprint(place), derived.fingerprint))
    assert now.sort_by("study_id")["prob_Pneumonia"] != then.sort_by("study_id")["prob_Pneumonia"]
    assert now.sort_by("study_id")["masks"] == then.sort_by("study_id")["masks"]


def test_its_rows_are_evaluated_to_the_figures_of_then(place: Path) -> None:
    evaluate.run(
        EvaluateConfig(
            scores=f"{place}/root",
            studies=f"{place}/table/studies.parquet",
            fingerprint=fingerprint(place),
            out=f"{place}/figures_now",
            resamples=200,
        )
    )
    then, now = (json.loads((place / name / "metrics.json").read_text()) for name in ("figures", "figures_now"))
    for finding in FINDINGS:
        assert now["findings"][finding]["auroc"] == pytest.approx(then["findings"][finding]["auroc"])
    assert now["masks"]["dice"] == pytest.approx(then["masks"]["dice"])


def test_its_runs_are_compared(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (run.run_id for run in runs_of(str(place / "root")))
    how = {"root": f"{place}/root", "across_models": True, "resamples": 1_000}
    assert compare.run(CompareConfig(runs=(first, second), **how)) == 0
    assert "9 studies in both: 0 decisions flipped" in capsys.readouterr().out


def test_its_rows_and_masks_are_exported(place: Path) -> None:
    out = {"csv": f"{place}/scores.csv", "masks": f"{place}/lungs"}
    assert export.run(ExportConfig(source=f"{place}/root", fingerprint=fingerprint(place), **out)) == 0
    assert len((place / "scores.csv").read_text().splitlines()) == 1 + 9
    assert len(list((place / "lungs").iterdir())) == 8  # s09 has two views


def test_a_patient_is_forgotten_in_it_and_its_broken_run_goes_on_without_them(
    place: Path, models_then: Path, as_then: None
) -> None:
    assert forget.run(ForgetConfig(patient="p02", out=f"{place}/root")) == 0
    score(place, models_then)
    assert statuses(place, fingerprint(place)) == {
        study: status for study, status in (TEST_SPLIT | REST).items() if study != "s02"
    }
    for table in (place / "root").rglob("*.parquet"):
        assert "p02" not in str(pq.read_table(table).to_pylist())

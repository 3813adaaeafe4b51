"""Nights after the first: what is new, what changed, what may succeed now, what follows from old rows. No network."""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from builders import jpeg, own_table, png, radiograph, small_classifier, tar, tar_gz, zipped
from engines import Killed, killed_after, must_not_run, without_models

from cxrpipe.archives.index import index
from cxrpipe.config import ForgetConfig, ScoreConfig
from cxrpipe.errors import ConfigError
from cxrpipe.models.folder import CARD
from cxrpipe.programs.forget import run as forget
from cxrpipe.programs.score import score_archive
from cxrpipe.records import read_scores, runs_of
from cxrpipe.records.study_table import StudyTable
from cxrpipe.runs.engine import Job, loop
from cxrpipe.runs.root import ScoreRoot

pytestmark = pytest.mark.usefixtures("scored_here")

FILMS = {f"s{number}": [png(radiograph(number))] for number in range(6)}
OTHER = png(radiograph(99))


@pytest.fixture
def night(tmp_path, small):
    """Score an archive of these studies as one night's job; its exit status."""

    def score(films: Mapping[str, Sequence[bytes | None]], engine=without_models, **settings: Any) -> int:
        table = own_table(tmp_path / "archive", films)
        return score_archive(config(tmp_path, small.url, table, **settings), engine)

    return score


def config(folder: Path, model: str, table: StudyTable, **settings: Any) -> ScoreConfig:
    given = {"models": (model,), "out": str(folder / "root"), "batch_studies": 2, "part_studies": 2} | settings
    return ScoreConfig(studies=table.url, **given)


def scored(folder: Path) -> list[list[str]]:
    """The study ids of every complete run, oldest first."""
    root = str(folder / "root")
    return [
        sorted(study.study_id for study in StudyTable(ScoreRoot(root).run(run.run_id).studies).studies())
        for run in runs_of(root)
    ]


def statuses(folder: Path) -> dict[str, str]:
    rows = read_scores(str(folder / "root")).to_pylist()
    return {row["study_id"]: row["reason"] or row["status"] for row in rows}


# ---- incremental ----------------------------------------------------------------------------------------------


def test_a_night_scores_what_is_new_and_what_changed_and_nothing_else(night, tmp_path):
    night({"a": FILMS["s0"], "b": FILMS["s1"]}, incremental=True)
    night({"a": FILMS["s0"], "b": [FILMS["s1"][0], OTHER], "c": FILMS["s2"]}, incremental=True)
    assert scored(tmp_path) == [["a", "b"], ["b", "c"]]
    assert read_scores(str(tmp_path / "root")).num_rows == 3


def test_a_night_without_arrivals_starts_no_run(night, tmp_path, capsys):
    night(FILMS, incremental=True)
    assert night(FILMS, must_not_run, incremental=True) == 0
    assert len(scored(tmp_path)) == 1
    assert "every study is scored" in capsys.readouterr().out


def test_a_night_that_broke_is_completed_on_its_own_list_before_newer_arrivals(night, tmp_path):
    with pytest.raises(Killed):
        night({name: FILMS[name] for name in ("s0", "s1", "s2", "s3")}, killed_after(1), incremental=True)
    night(FILMS, incremental=True)
    assert scored(tmp_path) == [["s0", "s1", "s2", "s3"], ["s4", "s5"]]
    first, _ = runs_of(str(tmp_path / "root"))
    assert first.scored_before_resume == 2


@pytest.mark.parametrize(("name", "pack"), [("a.tar", tar), ("a.tar.gz", tar_gz), ("a.zip", zipped)])
@pytest.mark.parametrize("incremental", [True, False])
def test_a_run_that_broke_reads_containers_that_were_packed_again_where_things_lie_now(
    tmp_path, small, name, pack, incremental
):
    paths = [f"train/patient{number}/study1/view1_frontal.jpg" for number in range(6)]
    films = {path: jpeg(radiograph(number, 40, 40)) for number, path in enumerate(paths)}  # of one size, in a tar
    first = dict(reversed(films.items()))
    (tmp_path / "archive").mkdir()
    for order, engine in ((first, killed_after(1)), (films, without_models)):
        (tmp_path / "archive" / name).write_bytes(pack(order))
        index(str(tmp_path / "archive"), str(tmp_path / "table" / "studies.parquet"))
        table = StudyTable(str(tmp_path / "table" / "studies.parquet"))
        with contextlib.suppress(Killed):
            score_archive(config(tmp_path, small.url, table, incremental=incremental), engine)
    (run,) = runs_of(str(tmp_path / "root"))
    assert (run.counts, run.scored_before_resume) == ({"ok": 6}, 2)
    read = {row["study_id"]: row["views"][0]["sha256"] for row in read_scores(str(tmp_path / "root")).to_pylist()}
    assert read == {path[6:21]: hashlib.sha256(film).hexdigest() for path, film in films.items()}


def test_what_changed_since_a_night_broke_leaves_its_list_unless_it_was_scored(night, tmp_path):
    first = {name: FILMS[name] for name in ("s0", "s1", "s2", "s3")}
    with pytest.raises(Killed):
        night(first, killed_after(1), incremental=True)
    night({"s0": [OTHER], "s1": FILMS["s1"], "s2": [OTHER]}, incremental=True)
    assert scored(tmp_path) == [["s0", "s1"], ["s0", "s2"]]
    assert night(first) == 0  # this plan was never completed
    assert scored(tmp_path)[2:] == [["s0", "s1", "s2", "s3"]]


def test_a_broken_night_of_which_nothing_is_left_is_over(night, tmp_path):
    with pytest.raises(Killed):
        night({"s0": FILMS["s0"]}, killed_after(0), incremental=True)
    assert night({"s0": [OTHER]}, incremental=True) == 0
    assert scored(tmp_path) == [[], ["s0"]]
    assert statuses(tmp_path) == {"s0": "ok"}


def test_the_broken_night_of_another_archive_keeps_its_list(tmp_path, small):
    for name, engine in (("a", killed_after(1)), ("b", without_models)):
        table = own_table(tmp_path / name, {f"{name}{number}": FILMS[f"s{number}"] for number in range(3)})
        with contextlib.suppress(Killed):
            score_archive(config(tmp_path, small.url, table, incremental=True), engine)
    assert scored(tmp_path) == [["a0", "a1", "a2"], ["b0", "b1", "b2"]]


def test_the_runs_of_other_models_are_neither_completed_nor_counted(night, tmp_path):
    other = small_classifier(tmp_path / "other", seed=7)
    with pytest.raises(Killed):
        night(FILMS, killed_after(1), models=(other.url,))
    night(FILMS, incremental=True)
    assert scored(tmp_path) == [sorted(FILMS)]


def test_an_unfinished_run_of_another_version_of_the_models_is_named(night, tmp_path, capsys):
    folder = tmp_path / "retrained"
    with pytest.raises(Killed):
        night(FILMS, killed_after(1), models=(small_classifier(folder, seed=7).url,))
    assert "another version" not in capsys.readouterr().err
    night(FILMS, incremental=True, models=(small_classifier(folder, seed=8).url,))
    assert "of another version of these models is unfinished and stays so" in capsys.readouterr().err


@pytest.mark.parametrize("before", [{"segmenter": None}, {"segmenter": "{lungs}"}, {"segmenter": None, "embed": None}])
def test_an_unfinished_run_from_before_segmenters_voted_is_named_too(night, tmp_path, capsys, lungs, before):
    """Plans held one segmenter, as text, or none; older ones lacked --embed."""
    before = {name: value and value.format(lungs=lungs.url) for name, value in before.items()}
    with_lungs = {"segmenter": (lungs.url,)} if before["segmenter"] else {}
    folder = tmp_path / "retrained"
    with pytest.raises(Killed):
        night(FILMS, killed_after(1), models=(small_classifier(folder, seed=7).url,), **with_lungs)
    (place,) = (tmp_path / "root").glob("runs/*/plan.json")
    plan = json.loads(place.read_text())
    settings = {name: value for name, value in (plan["settings"] | before).items() if name != "embed" or value}
    place.write_text(json.dumps(plan | {"settings": settings}))
    night(FILMS, incremental=True, models=(small_classifier(folder, seed=8).url,), **with_lungs)
    assert "of another version of these models is unfinished and stays so" in capsys.readouterr().err


def test_a_study_that_was_missing_is_tried_again_by_the_next_night(night, tmp_path):
    night(FILMS | {"s0": [None]}, incremental=True)
    assert statuses(tmp_path)["s0"] == "missing"
    night(FILMS, incremental=True)
    assert scored(tmp_path)[1:] == [["s0"]]
    assert statuses(tmp_path)["s0"] == "ok"


def test_a_limit_takes_the_first_that_are_left(night, tmp_path):
    for _ in range(3):
        night(FILMS, incremental=True, limit=2)
    assert scored(tmp_path) == [["s0", "s1"], ["s2", "s3"], ["s4", "s5"]]


# ---- retry ----------------------------------------------------------------------------------------------------


def test_a_study_that_stays_missing_can_be_retried_again_and_again(night, tmp_path):
    films = FILMS | {"s0": [None], "s1": [b"junk"]}
    night(films)
    assert [night(films, retry=("retryable",)) for _ in range(2)] == [0, 0]
    assert scored(tmp_path)[1:] == [["s0"], ["s0"]]
    assert statuses(tmp_path)["s0"] == "missing"


def test_a_reason_that_is_named_is_retried_though_nothing_promises_success(night, tmp_path):
    night(FILMS | {"s0": [None], "s1": [b"junk"]})
    night(FILMS | {"s0": [None], "s1": [b"junk"]}, retry=("not_an_image",))
    assert scored(tmp_path)[1:] == [["s1"]]


def test_what_has_succeeded_since_is_not_retried(night, tmp_path, capsys):
    night(FILMS | {"s0": [None]})
    night(FILMS, retry=("retryable",))
    assert night(FILMS, must_not_run, retry=("retryable",)) == 0
    assert "no study to retry" in capsys.readouterr().out
    assert statuses(tmp_path)["s0"] == "ok"


def test_an_unknown_reason_is_refused(night):
    with pytest.raises(ConfigError, match="retry lost; expected retryable or some of"):
        night(FILMS, must_not_run, retry=("lost",))


# ---- dry run --------------------------------------------------------------------------------------------------


def test_a_dry_run_counts_and_writes_nothing(night, tmp_path, capsys):
    night(FILMS | {"s0": [None]})
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "root").rglob("*")}
    capsys.readouterr()
    changed = FILMS | {"s0": [None], "s1": [OTHER, OTHER], "t": [OTHER]}
    assert night(changed, must_not_run, dry_run=True) == 0
    assert "7 studies: 1 new, 1 changed, 1 to retry, 4 done" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "root").rglob("*")} == before


def test_a_dry_run_of_a_root_that_is_not_there_makes_none(night, tmp_path, capsys):
    assert night(FILMS, must_not_run, dry_run=True) == 0
    assert "6 new, 0 changed, 0 to retry, 0 done" in capsys.readouterr().out
    assert not (tmp_path / "root").exists()


# ---- derived --------------------------------------------------------------------------------------------------


def retuned(folder: Path, model: str, **card: Any) -> str:
    """A copy of a model folder whose card says something else."""
    shutil.copytree(model, folder)
    path = folder / CARD
    path.write_text(json.dumps(json.loads(path.read_text()) | card))
    return str(folder)


def test_rows_under_other_thresholds_are_derived_and_are_those_that_scoring_gives(night, tmp_path, small):
    card = {
        "thresholds": {"Pneumonia": 0.2},
        "calibration": {"Pneumonia": [2.0, -0.5]},
        "aggregation": {"Pneumonia": "mean"},
    }
    films = FILMS | {"s0": [FILMS["s0"][0], OTHER, b"junk"], "s1": [b"junk"]}
    other = retuned(tmp_path / "other", small.url, **card)
    night(films, loop)
    night(films, must_not_run, models=(other,))
    derived = runs_of(str(tmp_path / "root"))[-1]
    assert derived.derived == 6
    assert derived.counts == {"ok": 4, "partial/not_an_image": 1, "failed/not_an_image": 1}
    rows = read_scores(str(tmp_path / "root"), derived.fingerprint).to_pylist()
    night(films, loop, models=(other,), out=str(tmp_path / "fresh"))
    assert rows == read_scores(str(tmp_path / "fresh")).to_pylist()


def test_other_weights_derive_nothing(night, tmp_path):
    night(FILMS)
    night(FILMS, models=(small_classifier(tmp_path / "other", seed=9).url,))
    assert runs_of(str(tmp_path / "root"))[-1].derived == 0


def test_only_the_studies_that_old_rows_cannot_give_are_scored(night, tmp_path, small):
    night(FILMS | {"s0": [None]})
    seen: list[int] = []

    def counting(job: Job) -> Iterator[Any]:
        seen.append(len(job.done))
        yield from without_models(job)

    other = retuned(tmp_path / "other", small.url, thresholds={"Pneumonia": 0.2})
    night(FILMS | {"new": [OTHER]}, counting, models=(other,))
    assert seen == [5]
    assert runs_of(str(tmp_path / "root"))[-1].counts == {"ok": 7}


# ---- forget ---------------------------------------------------------------------------------------------------


def test_a_forgotten_patient_is_in_no_table_and_no_later_run_takes_them_in(night, tmp_path, small):
    night(FILMS, incremental=True)
    patients = {row["study_id"]: row["patient_id"] for row in read_scores(str(tmp_path / "root")).to_pylist()}
    assert forget(ForgetConfig(patient=patients["s2"], out=str(tmp_path / "root"))) == 0
    night(FILMS | {"new": [OTHER]}, incremental=True)
    found = read_scores(str(tmp_path / "root")).to_pylist()
    assert {row["study_id"] for row in found} == {"s0", "s1", "s3", "s4", "s5", "new"}
    for path in (tmp_path / "root").rglob("*.parquet"):
        assert patients["s2"] not in str(pq.read_table(path).to_pylist())
    assert runs_of(str(tmp_path / "root"))[0].forgotten == 1


def test_forgetting_leaves_a_complete_run_complete(night, tmp_path):
    night(FILMS)
    forget(ForgetConfig(patient="patient_s0", out=str(tmp_path / "root")))
    assert night(FILMS, must_not_run) == 0


def test_an_unfinished_run_is_completed_without_the_forgotten(night, tmp_path):
    with pytest.raises(Killed):
        night(FILMS, killed_after(1))
    forget(ForgetConfig(patient="patient_s0", out=str(tmp_path / "root")))
    forget(ForgetConfig(patient="patient_s5", out=str(tmp_path / "root")))
    night(FILMS)
    assert scored(tmp_path) == [["s1", "s2", "s3", "s4"]]
    assert sorted(statuses(tmp_path)) == ["s1", "s2", "s3", "s4"]

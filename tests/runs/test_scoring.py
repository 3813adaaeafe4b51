"""The program `score` on its plain engine: exactly once, resumed, refused, accounted for."""

import functools
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import decoders
import numpy as np
import pytest
from builders import nih_table, own_table, png, radiograph, small_classifier
from engines import Killed, killed_after, must_not_run, without_models
from poisoned import obey_or_decode

from cxrpipe.config import ScoreConfig
from cxrpipe.errors import ConfigError, RunError
from cxrpipe.models.folder import CARD, WEIGHTS, ModelFolder
from cxrpipe.programs.score import score_archive
from cxrpipe.records import Study, read_scores
from cxrpipe.records.study_table import StudyTable
from cxrpipe.runs import lock
from cxrpipe.runs.engine import Engine, Job, loop
from cxrpipe.runs.lock import locked
from cxrpipe.scoring.parts import Receipt
from cxrpipe.scoring.prepare import Prepared, Preparer

pytestmark = pytest.mark.usefixtures("scored_here")

FILM = png(radiograph(rows=24, columns=24))
STUDIES = {f"s{number:02d}": [png(radiograph(number, 24, 20 + number))] for number in range(10)} | {
    "cut": [FILM[:-9]],
    "text": [b"no image"],
    "gone": [None],
    "blank": [png(np.full((20, 20), 9, np.uint8))],
    "half": [FILM, b"no image"],
}
COUNTS = {
    "ok": 10,
    "failed/truncated": 1,
    "failed/not_an_image": 1,
    "failed/missing": 1,
    "rejected/blank": 1,
    "partial/not_an_image": 1,
}


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> StudyTable:
    return own_table(tmp_path_factory.mktemp("archive"), STUDIES)


@pytest.fixture
def config(tmp_path, table, small) -> ScoreConfig:
    out = str(tmp_path / "root")
    return ScoreConfig(
        studies=table.url, models=(small.url,), out=out, batch_studies=3, part_studies=4, precision="fp32"
    )


def only_run(root: str) -> Path:
    (run,) = Path(root, "runs").iterdir()
    return run


def account_of(root: str) -> dict[str, Any]:
    return json.loads((only_run(root) / "run.json").read_text())


def scored_ids(root: str) -> list[str]:
    return sorted(read_scores(root)["study_id"].to_pylist())


# ---- a whole run ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory, table, small) -> str:
    """The root of one run over all studies, part by part."""
    root = str(tmp_path_factory.mktemp("whole") / "root")
    config = ScoreConfig(
        studies=table.url, models=(small.url,), out=root, batch_studies=3, part_studies=4, precision="fp32"
    )
    assert score_archive(config, loop) == 0
    return root


def test_rows_out_are_studies_in_whatever_happens_to_a_file(whole):
    assert scored_ids(whole) == sorted(STUDIES)


def test_every_study_with_a_readable_view_has_numbers_and_no_other(whole):
    for row in read_scores(whole).to_pylist():
        assert (row["prob_Pneumonia"] is not None) == (row["status"] in ("ok", "partial")), row["study_id"]


def test_the_account_counts_by_status_and_reason(whole):
    assert account_of(whole)["counts"] == COUNTS
    assert account_of(whole)["studies"] == len(STUDIES)


def test_the_account_has_the_fields_of_the_contract(whole, small):
    account = account_of(whole)
    assert {
        *("studies", "studies_per_second", "seconds", "counts", "fingerprint", "models", "settings"),
        *("precision", "device", "stage_seconds", "versions", "start", "end"),
    } <= set(account)
    assert account["run_id"] == only_run(whole).name
    assert (account["device"], account["precision"], account["kernels"]) == ("cpu", "float32", "fused")
    assert set(account["stage_seconds"]) == set(account["busy_shares"]) == {"prepare", "predict", "finish", "land"}
    assert account["models"][0]["url"] == small.url
    assert account["models"][0]["weights_sha256"] == small.card.weights_sha256
    assert account["settings"]["part_studies"] == 4
    assert account["studies_per_second"] > 0
    assert account["start"] <= account["end"]


def test_plan_list_and_account_are_written_in_that_order(whole):
    written = [(only_run(whole) / name).stat().st_mtime_ns for name in ("plan.json", "studies.parquet", "run.json")]
    assert written == sorted(written)
    (published,) = Path(whole, "scores").glob("run=*/*.parquet")
    assert written[1] < published.stat().st_mtime_ns < written[2]


def test_the_plan_says_what_is_scored_by_what(whole, small):
    plan = json.loads((only_run(whole) / "plan.json").read_text())
    assert plan["fingerprint"] == account_of(whole)["fingerprint"]
    assert plan["settings"]["models"] == [small.url]
    assert only_run(whole).name.endswith(f"-{plan['hash'][:8]}")


def test_what_is_planned_lies_there_before_the_first_study_is_scored(config):
    def looking(job: Job) -> Iterator[Receipt]:
        run = only_run(config.out)
        assert {path.name for path in run.iterdir()} == {"plan.json", "studies.parquet"}
        yield from without_models(job)

    assert score_archive(config, looking) == 0


def test_a_complete_run_says_so_and_loads_nothing(config, small, tmp_path, capsys):
    shutil.copytree(small.url, tmp_path / "model")
    config = replace(config, models=(str(tmp_path / "model"),))
    assert score_archive(config, without_models) == 0
    before = {path: path.stat().st_mtime_ns for path in Path(config.out).rglob("*")}
    (tmp_path / "model" / WEIGHTS).write_bytes(b"spoiled: whoever reads this, fails")
    assert score_archive(config, must_not_run) == 0
    assert f"Nothing to do: run {only_run(config.out).name}" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in Path(config.out).rglob("*")} == before


def test_a_run_that_another_process_completes_meanwhile_is_not_published_again(config, monkeypatch):
    written = []

    def complete_it(*_: object) -> None:
        monkeypatch.undo()
        assert score_archive(config, without_models) == 0
        written.append((only_run(config.out) / "run.json").stat().st_mtime_ns)

    monkeypatch.setattr("cxrpipe.programs.score.try_some", complete_it)
    assert score_archive(config, must_not_run) == 0
    (published,) = Path(config.out, "scores").glob("run=*/*.parquet")
    assert published.stat().st_mtime_ns < (only_run(config.out) / "run.json").stat().st_mtime_ns == written[0]


def test_files_that_end_their_decoder_are_rows_and_the_run_goes_on(config, tmp_path, monkeypatch):
    monkeypatch.setattr("cxrpipe.runs.engine.Preparer", Preparer)  # with a process for its decoder
    studies = {"a": [FILM], "exit": [FILM + decoders.EXIT], "two": [FILM, FILM + decoders.SEGFAULT], "z": [FILM]}
    config = replace(config, studies=own_table(tmp_path, studies).url)
    assert score_archive(config, functools.partial(loop, decode=obey_or_decode)) == 0
    rows = {row["study_id"]: row for row in read_scores(config.out).to_pylist()}
    assert {name: (row["status"], row["reason"]) for name, row in rows.items()} == {
        "exit": ("failed", "crashed"),
        "two": ("partial", "crashed"),
        "a": ("ok", None),
        "z": ("ok", None),
    }
    assert rows["two"]["prob_Pneumonia"] == rows["a"]["prob_Pneumonia"]


# ---- broken and resumed ---------------------------------------------------------------------------------------


def interrupted(config: ScoreConfig, parts: int = 2, engine: Engine = without_models) -> Path:
    """A run that was killed after so many parts; its folder."""
    with pytest.raises(Killed):
        score_archive(config, killed_after(parts, engine))
    run = only_run(config.out)
    assert len([*run.glob("parts/*.parquet")]) == parts
    assert not (run / "run.json").exists()
    return run


def test_a_run_that_was_killed_is_resumed_where_it_was(config):
    run = interrupted(config)
    before = {path.name: path.stat().st_mtime_ns for path in run.glob("parts/*")}
    assert score_archive(config, without_models) == 0
    after = {path.name: path.stat().st_mtime_ns for path in run.glob("parts/*")}
    assert before.items() <= after.items()
    assert only_run(config.out) == run
    assert scored_ids(config.out) == sorted(STUDIES)
    assert account_of(config.out)["counts"] == COUNTS
    assert account_of(config.out)["scored_before_resume"] == 8


def test_a_resumed_run_gives_the_rows_of_one_that_was_not_killed(config, whole):
    interrupted(config, engine=loop)
    score_archive(config, loop)
    ours, theirs = (read_scores(root).sort_by("study_id") for root in (config.out, whole))
    for name in ("study_id", "study_digest", "status", "reason", "fingerprint", "votes_Pneumonia"):
        assert ours[name].to_pylist() == theirs[name].to_pylist(), name
    assert ours["prob_Pneumonia"].to_pylist() == pytest.approx(theirs["prob_Pneumonia"].to_pylist(), abs=1e-5)


def test_done_studies_are_not_scored_again(config):
    interrupted(config)

    def counting(job: Job) -> Iterator[Receipt]:
        receipts = [*loop(job)]
        assert sum(receipt.studies for receipt in receipts) == len(STUDIES) - 8
        yield from receipts

    assert score_archive(config, counting) == 0


def test_a_run_that_was_killed_before_publishing_scores_nothing_again(config):
    interrupted(config, parts=4)
    assert score_archive(config, must_not_run) == 0
    assert scored_ids(config.out) == sorted(STUDIES)


def test_a_run_killed_again_and_again_ends_with_every_study_once(config):
    for _ in range(3):
        with pytest.raises(Killed):
            score_archive(config, killed_after(1))
    assert score_archive(config, without_models) == 0
    assert scored_ids(config.out) == sorted(STUDIES)


def test_a_part_that_breaks_off_is_scored_again(config):
    cut = min(interrupted(config).glob("parts/*.parquet"))
    cut.write_bytes(cut.read_bytes()[:-100])
    assert score_archive(config, without_models) == 0
    assert account_of(config.out)["scored_before_resume"] == 4
    assert scored_ids(config.out) == sorted(STUDIES)


def test_a_study_in_two_parts_is_published_once(config):
    part = min(interrupted(config).glob("parts/*.parquet"))
    shutil.copy(part, part.with_name("part-again.parquet"))
    assert score_archive(config, without_models) == 0
    assert scored_ids(config.out) == sorted(STUDIES)
    assert sum(account_of(config.out)["counts"].values()) == len(STUDIES)


def test_a_study_that_no_part_holds_breaks_the_run_and_the_same_command_mends_it(config):
    def lazy(job: Job) -> Iterator[Receipt]:
        yield next(without_models(job))

    with pytest.raises(RunError, match="are in no part"):
        score_archive(config, lazy)
    assert not (only_run(config.out) / "run.json").exists()
    assert score_archive(config, without_models) == 0
    assert scored_ids(config.out) == sorted(STUDIES)


def test_a_run_killed_between_its_plan_and_its_list_is_resumed(config, monkeypatch):
    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr("cxrpipe.programs.score.freeze", killed)
        with pytest.raises(Killed):
            score_archive(config, must_not_run)
    run = only_run(config.out)
    assert [path.name for path in run.iterdir()] == ["plan.json"]
    assert score_archive(config, without_models) == 0
    assert only_run(config.out) == run
    assert scored_ids(config.out) == sorted(STUDIES)


# ---- which run ------------------------------------------------------------------------------------------------


def runs_after(config: ScoreConfig, whole: str) -> int:
    """How many runs a copy of the whole root has after one more."""
    shutil.copytree(whole, config.out)
    assert score_archive(config, without_models) == 0
    return len([*Path(config.out, "runs").iterdir()])


def test_other_weights_are_another_run(config, whole, tmp_path):
    other = small_classifier(tmp_path / "other", seed=5)
    assert runs_after(replace(config, models=(other.url,)), whole) == 2


def test_another_threshold_is_another_run(config, whole, small, tmp_path):
    shutil.copytree(small.url, tmp_path / "model")
    card = json.loads((tmp_path / "model" / CARD).read_text()) | {"thresholds": {"Pneumonia": 0.2}}
    (tmp_path / "model" / CARD).write_text(json.dumps(card))
    assert runs_after(replace(config, models=(str(tmp_path / "model"),)), whole) == 2


def test_other_facts_and_another_place_are_the_same_run(config, whole, small, tmp_path):
    shutil.copytree(small.url, tmp_path / "model")
    card = json.loads((tmp_path / "model" / CARD).read_text()) | {"facts": {"auroc": 0.7}}
    (tmp_path / "model" / CARD).write_text(json.dumps(card))
    moved = replace(config, models=(str(tmp_path / "model"),), batch_studies=5, part_studies=7)
    assert runs_after(moved, whole) == 1


def test_a_changed_image_is_another_run(config, whole, tmp_path):
    table = own_table(tmp_path / "changed", STUDIES | {"s00": [FILM]})
    assert runs_after(replace(config, studies=table.url), whole) == 2


def test_a_limit_scores_the_first_studies(config):
    assert score_archive(replace(config, limit=3), without_models) == 0
    assert scored_ids(config.out) == ["s00", "s01", "s02"]


def test_a_split_scores_its_studies_and_no_others(config, table):
    wanted = sorted(study.study_id for study in table.studies("train"))
    assert 0 < len(wanted) < len(STUDIES)
    assert score_archive(replace(config, split="train"), without_models) == 0
    assert scored_ids(config.out) == wanted


def test_an_empty_split_is_refused_and_nothing_written(config, tmp_path):
    table = own_table(tmp_path / "one", {"a": [FILM]})
    empty = next(split for split in ("test", "train") if not [*table.studies(split)])
    with pytest.raises(ConfigError, match=f"no studies in split {empty}"):
        score_archive(replace(config, studies=table.url, split=empty), must_not_run)
    assert not Path(config.out).exists()


# ---- how it ends ----------------------------------------------------------------------------------------------


def many(folder: Path, good: int, gone: int) -> StudyTable:
    return own_table(folder, {f"a{n:03d}": [FILM] for n in range(good)} | {f"b{n:03d}": [None] for n in range(gone)})


@pytest.mark.parametrize(
    ("good", "gone", "allowed", "status"),
    [(44, 6, 0.1, 3), (45, 5, 0.1, 0), (43, 6, 0.1, 0), (44, 6, 0.12, 0), (49, 1, 0.0, 3), (15, 35, 0.7, 0)],
)
def test_exit_3_says_that_more_than_the_allowed_fraction_of_50_studies_failed(
    config, tmp_path, capsys, good, gone, allowed, status
):
    table = many(tmp_path, good, gone)
    asked = replace(config, studies=table.url, max_failed_fraction=allowed)
    assert score_archive(asked, without_models) == status
    assert account_of(config.out)["counts"] == {"ok": good, "failed/missing": gone}
    assert ("max-failed-fraction" in capsys.readouterr().err) == (status == 3)


@pytest.mark.parametrize(("good", "gone"), [(20, 40), (0, 1), (24, 26)])
def test_nothing_is_started_where_most_of_the_studies_tried_first_cannot_be_read(config, tmp_path, good, gone):
    table = many(tmp_path, good, gone)
    with pytest.raises(RunError, match="cannot be read, so nothing was started") as broke:
        score_archive(replace(config, studies=table.url), must_not_run)
    assert broke.value.exit_status == 1
    assert "b0" in str(broke.value)  # the first of them is named
    assert not Path(config.out).exists()


def test_fifty_are_tried_and_no_more(config, tmp_path, monkeypatch):
    tried: list[str] = []

    class Noting(Preparer):
        def __call__(self, study: Study) -> Prepared:
            tried.append(study.study_id)
            return super().__call__(study)

    monkeypatch.setattr("cxrpipe.runs.trial.Preparer", Noting)
    score_archive(replace(config, studies=many(tmp_path, 70, 0).url), without_models)
    assert len(set(tried)) == len(tried) == 50


@pytest.mark.parametrize("spoil", ["cut", "absent"])
def test_a_model_folder_that_was_not_copied_whole_is_refused_and_nothing_written(config, small, tmp_path, spoil):
    shutil.copytree(small.url, tmp_path / "model")
    weights = tmp_path / "model" / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1]) if spoil == "cut" else weights.unlink()
    with pytest.raises(ConfigError):
        score_archive(replace(config, models=(str(tmp_path / "model"),)), must_not_run)
    assert not Path(config.out).exists()


# ---- an archive instead of a table ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nih(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    nih_table(folder, studies=8, side_px=48)
    return folder / "nih"


def test_of_an_archive_the_root_keeps_its_own_list_and_the_seek_points(nih, config):
    asked = replace(config, studies=None, archive=str(nih))
    assert score_archive(asked, loop) == 0
    assert account_of(config.out)["counts"] == {"ok": 8}
    kept = StudyTable(str(only_run(config.out) / "studies.parquet"))
    assert sorted(study.study_id for study in kept.studies()) == scored_ids(config.out)
    index = {path.suffix for path in Path(config.out, "index").rglob("*") if path.is_file()}
    assert index
    assert ".parquet" not in index  # a table of the whole archive would name those whom the root must forget


def test_the_seek_points_of_a_tar_gz_are_found_again_on_resume(nih, config):
    asked = replace(config, studies=None, archive=str(nih), batch_studies=2, part_studies=2)
    run = interrupted(asked, engine=loop)
    points = Path(StudyTable(str(run / "studies.parquet")).seek_points)
    assert points.is_relative_to(config.out)
    assert len([*points.iterdir()]) == 2
    assert score_archive(asked, loop) == 0
    assert account_of(config.out)["counts"] == {"ok": 8}
    assert account_of(config.out)["scored_before_resume"] == 4


def test_an_archive_that_is_not_there_is_refused_and_nothing_written(config, tmp_path):
    with pytest.raises(ConfigError, match="nothing there"):
        score_archive(replace(config, studies=None, archive=str(tmp_path / "nope")), must_not_run)
    assert not Path(config.out).exists()


# ---- with a segmenter -----------------------------------------------------------------------------------------


def test_a_segmenter_alone_scores_an_archive(config, lungs: ModelFolder):
    assert score_archive(replace(config, models=(), segmenter=(lungs.url,), limit=2), loop) == 0
    rows = read_scores(config.out).to_pylist()
    assert [len(row["masks"]) for row in rows] == [1, 1]
    assert account_of(config.out)["findings"] == []
    assert [model["task"] for model in account_of(config.out)["models"]] == ["segment"]


@pytest.mark.parametrize("incremental", [False, True])
def test_a_run_that_may_wait_begins_when_the_other_ends(config, monkeypatch, incremental):
    monkeypatch.setattr(lock, "LOOK_EVERY_S", 0.05)
    with ExitStack() as other:
        other.enter_context(locked(config.out))
        release = threading.Timer(0.3, other.close)
        release.start()
        waiting = replace(config, incremental=incremental, wait_for_lock_s=30)
        assert score_archive(waiting, without_models) == 0
        release.join()
    assert read_scores(config.out).num_rows == len(STUDIES)

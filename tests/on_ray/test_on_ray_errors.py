"""Under Ray: what costs one study its row, what stops the run, and how far the driver sees it."""

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import decoders
import numpy as np
import pyarrow as pa
import pytest
from builders import own_table, png, radiograph, small_classifier
from losing import LosingPredictor
from poisoned import obey_or_decode

from cxrpipe.config import ScoreConfig
from cxrpipe.errors import DeviceLostError, RunError
from cxrpipe.models.ensemble import open_ensemble
from cxrpipe.on_ray import prometheus, tally, wire
from cxrpipe.on_ray import score as on_ray
from cxrpipe.programs.score import score_archive
from cxrpipe.records import complete_runs, read_scores
from cxrpipe.records.id_set import IdSet
from cxrpipe.runs.engine import Job
from cxrpipe.runs.root import ScoreRoot
from cxrpipe.scoring.finish import finish
from cxrpipe.scoring.predict import Predictor
from cxrpipe.scoring.prepare import Preparer

FILM = png(radiograph(rows=24, columns=24))
BRIGHT = png(np.maximum(radiograph(rows=24, columns=24), 205))
FILMS = {f"s{number:02d}": [png(radiograph(number, 24, 24))] for number in range(20)}
BAD = {"empty": [b""], "bug": [FILM + decoders.BUG], "lost": [BRIGHT]}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return small_classifier(tmp_path_factory.mktemp("model") / "small").url


# ---- through Ray ------------------------------------------------------------------------------------------------


@pytest.mark.ray
def test_an_empty_object_a_bug_and_a_device_that_is_lost_cost_one_study_each_and_the_bar_counts_every_one(
    ray_local: None, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(on_ray, "_Predictor", LosingPredictor)
    monkeypatch.setattr(tally, "_EVERY_S", 0.05)
    counted: list[int] = []

    def engine(job: Job) -> Any:
        yield from on_ray.engine(replace(job, predicted=counted.append), decode=obey_or_decode)

    config = ScoreConfig(
        studies=own_table(tmp_path, FILMS | BAD).url,
        models=(model,),
        out=str(tmp_path / "root"),
        batch_studies=8,
        part_studies=30,
    )
    assert score_archive(config, engine) == 0
    rows = {row["study_id"]: (row["status"], row["reason"]) for row in read_scores(config.out).to_pylist()}
    assert rows == dict.fromkeys(FILMS, ("ok", None)) | {
        "empty": ("failed", "empty"),
        "bug": ("failed", "internal_error"),
        "lost": ("failed", "internal_error"),
    }
    assert 0 < sum(counted) <= len(rows)
    told = capsys.readouterr().err
    assert "study bug met an error in this program (`internal_error`): ZeroDivisionError" in told
    assert told.count("Traceback") == 1
    assert "device-side assert triggered; another process takes over" in told


@pytest.mark.ray
def test_an_error_that_is_everywhere_stops_the_run_and_the_same_command_goes_on_and_tries_compiling_once(
    ray_local: None, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    films = {f"s{number:02d}": [FILM + decoders.BUG] for number in range(60)}
    config = ScoreConfig(
        studies=own_table(tmp_path, films).url,
        models=(model,),
        out=str(tmp_path / "root"),
        batch_studies=8,
        part_studies=20,
    )
    with pytest.raises(RunError, match=r"all of the first 60 studies that finished .* ZeroDivisionError"):
        score_archive(config, functools.partial(on_ray.engine, decode=obey_or_decode))
    assert not complete_runs(config.out)
    monkeypatch.setattr(on_ray, "TRIAL_FROM_VIEWS", 1)  # as in a long run
    assert score_archive(config, on_ray.engine) == 0
    assert capsys.readouterr().err.count("views do not repay a trial") == 1
    assert set(read_scores(config.out)["status"].to_pylist()) == {"ok"}


@pytest.mark.ray
def test_where_no_machine_tries_it_in_time_nothing_is_compiled(
    ray_local: None, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(on_ray, "TRIAL_FROM_VIEWS", 1)
    config = ScoreConfig(studies="none", models=(model,), out=str(tmp_path))
    job = Job(ScoreRoot.at(str(tmp_path)).run("r"), IdSet(), open_ensemble((model,)), config)
    sized = on_ray.size(config.resources, 20)._replace(wait_s=0.0)
    assert on_ray._decided(job, sized, 20) == {"device": "cpu", "precision": "auto", "compile": "off"}
    assert "not compiled: no machine has tried it within 0 s" in capsys.readouterr().err


# ---- one prediction actor, without Ray ----------------------------------------------------------------------------


class Tally:
    """What a predictor tells, kept here."""

    def __init__(self, suspects: dict[str, int]) -> None:
        self._suspects = tally.Counter(suspects)
        self.ended: list[str] = []
        self.counted = 0

    def suspects(self) -> tally.Counter:
        return self._suspects

    def predicted(self, study_ids: list[str]) -> None:
        self.counted += len(study_ids)

    def say(self, line: str) -> None: ...

    def ended_by(self, study_ids: list[str]) -> None:
        self.ended += study_ids


class Ended(BaseException):
    """The process."""


@pytest.fixture
def batch(tmp_path: Path, model: str) -> pa.Table:
    studies = own_table(tmp_path, {"a": [FILM], "b": [FILM], "c": [FILM]}).studies()
    ensemble = open_ensemble((model,))
    return wire.prepared_table([*map(Preparer(None, ensemble, None), studies)], ensemble)


@pytest.fixture
def actor_of(model: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An actor after other processes ended; its device fails on batches of these sizes."""

    def ended(status: int) -> None:
        raise Ended

    def made(suspects: dict[str, int], fails_on: set[int]) -> tuple[Any, Tally, list[int]]:
        monkeypatch.setattr("os._exit", ended)
        kept, given = Tally(suspects), []
        actor = on_ray._Predictor(ensemble=open_ensemble((model,)), tally=kept, threads=1, sharing=1, device="cpu")

        def predict(self: Predictor, pixels: Any) -> Any:
            given.append(len(next(iter(pixels.values()))))
            if given[-1] in fails_on:
                raise DeviceLostError("cuda:0 fails")
            return real(self, pixels)

        real = Predictor.predict
        monkeypatch.setattr(Predictor, "predict", predict)
        return actor, kept, given

    return made


def test_an_actor_whose_device_is_lost_names_its_batch_and_ends(actor_of: Any, batch: pa.Table) -> None:
    actor, kept, _ = actor_of({}, fails_on={3})
    with pytest.raises(Ended):
        actor(batch)
    assert kept.ended == ["a", "b", "c"]


def test_its_successor_takes_each_study_of_that_batch_alone(actor_of: Any, batch: pa.Table) -> None:
    actor, kept, given = actor_of({"a": 1, "b": 1, "c": 1}, fails_on=set())
    assert actor(batch)["fault"].to_pylist() == [None] * 3
    assert given == [1, 1, 1]
    assert kept.counted == 3


def test_a_study_with_which_two_have_ended_is_a_row_and_is_not_tried(
    actor_of: Any, batch: pa.Table, model: str
) -> None:
    actor, _, given = actor_of({"b": 2}, fails_on=set())
    ensemble, predicted = open_ensemble((model,)), actor(batch)
    rows = finish(wire.rows_of(predicted), wire.predicted_of(predicted, ensemble), ensemble)
    assert rows["reason"].to_pylist() == [None, "internal_error", None]
    assert rows["computed_on"].to_pylist() == ["cpu float32 fused"] * 3
    assert given == [1, 0, 1]


def test_a_block_goes_through_the_networks_in_batches_that_are_counted_one_by_one(
    actor_of: Any, batch: pa.Table
) -> None:
    actor, kept, given = actor_of({}, fails_on=set())
    actor._predictor.views_at_once = 2
    assert actor(batch)["study_id"].to_pylist() == ["a", "b", "c"]
    assert (given, kept.counted) == ([2, 1], 3)


# ---- metrics and counts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, -1.5, float("nan"), float("inf")])
def test_what_ray_refuses_to_count_is_not_counted(value: float) -> None:
    class Counter:
        def inc(self, value: float, labels: object) -> None:
            raise ValueError(f"value must be >0, got {value}")

    prometheus.count(Counter(), value)  # type: ignore[arg-type]


def test_a_batch_that_ray_repeats_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally, "_REMEMBERED", 2)
    counts = tally._Counts()
    for batch in ("a", "b", "b", "a", "c", "d"):
        counts.add(batch, 16)
    assert counts.news() == (64, [])

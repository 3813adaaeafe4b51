"""An exception that nobody foresaw costs the study it met, and no run; one that is everywhere stops the run."""

import functools
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import own_table, png, radiograph
from engines import Killed, killed_after, raising, without_models

import cxrpipe
from cxrpipe.config import ScoreConfig
from cxrpipe.errors import ConfigError, CxrError, LockError, RunError, StoreError, StudyError
from cxrpipe.images.answers import DecoderError
from cxrpipe.images.squares import Decode, Decoded, decode_view
from cxrpipe.models.ensemble import Ensemble
from cxrpipe.programs.score import score_archive
from cxrpipe.records import complete_runs, read_scores, runs_of
from cxrpipe.records.id_set import IdSet
from cxrpipe.records.study_table import StudyTable
from cxrpipe.runs.engine import Engine
from cxrpipe.runs.watch import FaultWatch
from cxrpipe.scoring import findings
from cxrpipe.scoring.faults import Fault, guarded
from cxrpipe.scoring.loop import score
from cxrpipe.scoring.parts import Receipt, StudyFault, write_part
from cxrpipe.scoring.predict import Predictor
from cxrpipe.scoring.predictions import Predictions
from cxrpipe.scoring.prepare import Preparer

pytestmark = pytest.mark.usefixtures("scored_here")

FILMS = {f"s{number}": [png(radiograph(number, 24, 24))] for number in range(8)}
BUG = KeyError("John Doe")


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> StudyTable:
    return own_table(tmp_path_factory.mktemp("archive"), FILMS)


@pytest.fixture
def config(tmp_path, table, small) -> ScoreConfig:
    return ScoreConfig(
        studies=table.url, models=(small.url,), out=str(tmp_path / "root"), batch_studies=4, part_studies=3
    )


def failing(*studies: str, error: Exception = BUG) -> Engine:
    return functools.partial(without_models, decode=raising(studies, error))


def rows_of(config: ScoreConfig) -> dict[str, dict[str, Any]]:
    """The published rows by study, of which there is one each."""
    rows = read_scores(config.out).to_pylist()
    by_study = {row["study_id"]: row for row in rows}
    assert len(by_study) == len(rows)
    return by_study


def reasons(config: ScoreConfig) -> dict[str, str | None]:
    return {study: row["reason"] for study, row in rows_of(config).items()}


EXPECTED = dict.fromkeys(FILMS)


# ---- one study ------------------------------------------------------------------------------------------------


def test_an_error_in_preparing_one_study_is_its_row_and_the_others_are_scored(config):
    assert score_archive(config, failing("s2")) == 0
    assert reasons(config) == EXPECTED | {"s2": "internal_error"}
    row = rows_of(config)["s2"]
    assert row["status"] == "failed"
    assert "KeyError at engines.py:" in row["detail"] or "KeyError at cxrpipe/" in row["detail"]
    assert "John Doe" not in row["detail"]
    assert [view["reason"] for view in row["views"]] == ["internal_error"]


def test_its_traceback_is_logged_once_for_each_kind_with_the_id_of_the_study(config, capsys):
    assert score_archive(config, failing("s2", "s5", "s6")) == 0
    told = capsys.readouterr().err
    assert told.count("Traceback") == 1
    assert "study s2 met an error in this program" in told
    assert "John Doe" in told


def test_of_a_study_with_a_pseudonym_no_message_is_logged_and_the_places_in_the_code_are(capsys):
    fault = guarded(lambda: {}["/archive/John Doe.png"], lambda fault: fault)
    FaultWatch(studies=9, private=True).add(receipt([fault, None]))
    told = capsys.readouterr().err
    assert "KeyError at " in told
    assert "cxrpipe/scoring/faults.py:" in told
    assert "John" not in told


@pytest.mark.parametrize("kind", [StoreError, RunError, LockError, ConfigError])
def test_what_is_no_fault_of_a_study_still_stops_the_run(config, kind):
    with pytest.raises(kind, match="as it was raised"):
        score_archive(config, failing("s2", error=kind("as it was raised")))
    assert not complete_runs(config.out)


def scored(
    table: StudyTable, ensemble: Ensemble, predictor: Any, decode: Decode = decode_view, batch_studies: int = 16
) -> dict[str, dict[str, Any]]:
    prepare = Preparer(None, ensemble, None, decode=decode)
    tables = score(table.studies(), prepare, predictor, batch_studies=batch_studies)
    return {row["study_id"]: row for rows in tables for row in rows.to_pylist()}


def test_a_batch_that_the_networks_refuse_is_halved_until_the_study_is_found(table, small, monkeypatch):
    ensemble = Ensemble((small,))
    predictor = Predictor(ensemble, "cpu")
    right = scored(table, ensemble, predictor)
    bad = decode_view(FILMS["s5"][0], "s5", ensemble.preparations).squares[ensemble.preparations[0]]
    sizes = []

    def refusing(pixels: dict[Any, np.ndarray]) -> Predictions:
        (squares,) = pixels.values()
        sizes.append(len(squares))
        if any(np.array_equal(square, bad) for square in squares):
            raise RuntimeError("size mismatch")
        return Predictor.predict(predictor, pixels)

    monkeypatch.setattr(predictor, "predict", refusing)
    found = scored(table, ensemble, predictor, batch_studies=8)
    assert [size for size in sizes if size] == [8, 4, 4, 2, 1, 1, 2]
    assert found.pop("s5")["reason"] == "internal_error"
    for study_id, row in found.items():
        assert row["prob_Pneumonia"] == pytest.approx(right[study_id]["prob_Pneumonia"], abs=1e-5)


def test_an_error_in_finishing_one_study_is_its_row_and_its_numbers_go(table, small, monkeypatch):
    ensemble = Ensemble((small,))

    def aggregate(probs: np.ndarray, starts: np.ndarray, *others: Any) -> np.ndarray:
        if any(np.array_equal(view, bad) for view in probs):
            raise BUG
        return aggregated(probs, starts, *others)

    aggregated = findings._aggregate
    bad = np.array(scored(table, ensemble, Predictor(ensemble, "cpu"))["s2"]["views"][0]["member_probs"][0], np.float32)
    monkeypatch.setattr(findings, "_aggregate", aggregate)
    found = scored(table, ensemble, Predictor(ensemble, "cpu"))
    assert [row["reason"] for row in found.values()] == [None, None, "internal_error", None, None, None, None, None]
    assert (found["s2"]["n_views_ok"], found["s2"]["prob_Pneumonia"]) == (0, None)
    assert found["s2"]["fault"]["kind"].startswith("KeyError at cxrpipe/scoring/findings.py:")


def test_a_row_that_the_schema_cannot_hold_is_an_error_of_that_study(table, small):
    def huge(data: bytes, name: str, preparations: Sequence[Any]) -> Decoded:
        decoded = decode_view(data, name, preparations)
        return decoded._replace(rows_px=2**40) if "s3_" in name else decoded

    ensemble = Ensemble((small,))
    found = scored(table, ensemble, Predictor(ensemble, "cpu"), decode=huge)
    assert {study for study, row in found.items() if row["reason"]} == {"s3"}
    assert found["s3"]["reason"] == "internal_error"


def test_a_detail_with_bytes_that_are_no_utf_8_can_be_written(config):
    name = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    assert score_archive(config, failing("s2", error=StudyError("corrupt", f"{name}: is broken"))) == 0
    assert rows_of(config)["s2"]["detail"] == "caf\\udce9.png: is broken"


def raised(*paths: str) -> Fault:
    """The fault of a decoder whose traceback ends in line 7 of these files."""
    frames = "".join(f'  File "{path}", line 7, in check\n' for path in paths)

    def fail() -> None:
        raise DecoderError("OSError", "/secret", f"Traceback (most recent call last):\n{frames}OSError: /secret")

    return guarded(fail, lambda found: found)


def test_an_error_of_a_decoder_keeps_the_kind_and_place_that_it_had_in_its_process():
    path = f"{Path(cxrpipe.__file__).parent}/images/jpeg.py"
    trace = f'Traceback (most recent call last):\n  File "{path}", line 7, in check\nOSError: /secret'
    expected = Fault("OSError at cxrpipe/images/jpeg.py:7", "  cxrpipe/images/jpeg.py:7 in check", trace)
    assert raised(path) == expected


def test_code_of_others_in_a_clone_with_the_name_of_the_package_is_not_ours():
    ours = f"{Path(cxrpipe.__file__).parent}/images/jpeg.py"
    theirs = "/home/cxrpipe/.venv/lib/python3.12/site-packages/numpy/core.py", "/home/cxrpipe/tests/test_jpeg.py"
    fault = raised(ours, *theirs)
    assert fault.kind == "OSError at cxrpipe/images/jpeg.py:7"
    assert [line.split()[0] for line in fault.code.splitlines()] == [
        "cxrpipe/images/jpeg.py:7",
        "numpy/core.py:7",
        "test_jpeg.py:7",
    ]


def test_the_package_catches_every_exception_in_one_place_only():
    broad = re.compile(r"^\s*except (Exception\b.*)?:|suppress\((Base)?Exception\)", re.MULTILINE)
    files = Path(cxrpipe.__file__).parent.rglob("*.py")
    assert {path.name: len(found) for path in files if (found := broad.findall(path.read_text()))} == {"faults.py": 1}


# ---- resumed, and tried again ---------------------------------------------------------------------------------


def test_a_run_that_is_resumed_scores_them_again_and_publishes_the_later_row_alone(config):
    with pytest.raises(Killed):
        score_archive(config, killed_after(2, failing("s0", "s4")))
    assert score_archive(config, without_models) == 0
    assert reasons(config) == EXPECTED
    (run,) = runs_of(config.out)
    assert (run.counts, run.scored_before_resume) == ({"ok": 8}, 4)


def test_where_that_fails_again_the_run_is_complete_with_one_row_for_them(config):
    with pytest.raises(Killed):
        score_archive(config, killed_after(2, failing("s0", "s4")))
    assert score_archive(config, failing("s0", "s4")) == 0
    assert reasons(config) == EXPECTED | {"s0": "internal_error", "s4": "internal_error"}
    assert score_archive(config, failing("s0", "s4")) == 0  # nothing to do
    assert len(runs_of(config.out)) == 1


@pytest.mark.parametrize("how", [{"retry": ("retryable",)}, {"retry": ("internal_error",)}, {"incremental": True}])
def test_retry_and_incremental_take_them_up(config, how):
    score_archive(config, failing("s2"))
    assert score_archive(replace(config, **how), without_models) == 0
    assert [run.studies for run in runs_of(config.out)] == [8, 1]
    assert reasons(config) == EXPECTED


def test_a_study_that_meets_its_error_every_night_never_ends_a_night(config, tmp_path, small):
    score_archive(config, failing("s2"))
    for number in range(2):
        arrived = own_table(tmp_path / "later", FILMS | ({"new": FILMS["s0"]} if number else {}))
        night = replace(config, studies=arrived.url, incremental=True)
        assert score_archive(night, failing("s2")) == 0
    assert reasons(config) == EXPECTED | {"s2": "internal_error", "new": None}


# ---- everywhere -----------------------------------------------------------------------------------------------


def test_where_every_study_of_a_small_run_meets_it_nothing_is_published_and_the_same_command_goes_on(config, capsys):
    for _ in range(2):
        with pytest.raises(
            RunError, match=r"all of the first 8 studies .* KeyError at .*Nothing is published"
        ) as broke:
            score_archive(config, failing(*FILMS))
        assert broke.value.exit_status == 1
        assert capsys.readouterr().err.count("Traceback") == 1
        assert not Path(config.out, "scores").exists()
    assert score_archive(config, without_models) == 0
    assert reasons(config) == EXPECTED


def test_the_studies_tried_first_count_errors_in_this_program_among_those_that_fail(config, monkeypatch, capsys):
    decode = raising([*FILMS], BUG)
    monkeypatch.setattr(
        "cxrpipe.runs.trial.Preparer", lambda table, ensemble, _: Preparer(table, ensemble, None, decode=decode)
    )
    with pytest.raises(RunError, match=r"8 of 8 studies tried .* KeyError"):
        score_archive(config, failing(*FILMS))
    assert capsys.readouterr().err.count("Traceback") == 1
    assert not Path(config.out).exists()


FAULT = Fault("KeyError at cxrpipe/images.py:1", "  cxrpipe/images.py:1 in f", "Traceback: KeyError")


def receipt(faults: Sequence[Fault | None], first: int = 0) -> Receipt:
    """Of a part whose studies are numbered from `first` on, and have met these errors, or none."""
    met = [StudyFault(f"n{first + n}", n, fault) for n, fault in enumerate(faults) if fault]
    return Receipt(len(faults), {}, {}, {}, faults=met)


def stops(watch: FaultWatch, *parts: Sequence[Fault | None]) -> bool:
    first = 0
    try:
        for part in parts:
            watch.add(receipt(part, first))
            first += len(part)
    except RunError:
        return True
    return False


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([[FAULT] * 50], True),
        ([[FAULT] * 49], False),
        ([[FAULT] * 30, [FAULT] * 20], True),
        ([[FAULT] * 50 + [None] * 206], True),
        ([[None] + [FAULT] * 200], False),
        ([[FAULT] * 49 + [None] + [FAULT] * 100], False),
        ([[None] * 490 + [FAULT] * 10], False),
        ([[None] * 489 + [FAULT] * 11], True),
        ([[None] * 400 + [FAULT] * 11], False),
        ([[None] * 256, [None] * 300, [FAULT] * 12], True),
    ],
)
def test_it_is_everywhere_where_the_first_50_met_it_or_more_than_2_percent_of_500(parts, expected):
    assert stops(FaultWatch(studies=10_000), *parts) == expected


def test_what_was_scored_before_says_that_it_is_not_everywhere():
    assert not stops(FaultWatch(studies=10_000, done=9_900), [FAULT] * 100)
    assert stops(FaultWatch(studies=10_000, done=5_000), [FAULT] * 110)


def test_studies_that_met_an_error_in_an_earlier_run_are_no_news():
    known = IdSet(f"n{number}" for number in range(60))
    assert not stops(FaultWatch(studies=60, known=known), [FAULT] * 60)
    assert stops(FaultWatch(studies=200, known=known), [FAULT] * 110)


def test_a_receipt_comes_back_from_json_as_it_was(tmp_path, table, small):
    ensemble = Ensemble((small,))
    prepare = Preparer(None, ensemble, None, decode=raising({"s1", "s4"}, BUG))
    (rows,) = score(table.studies(), prepare, Predictor(ensemble, "cpu"))
    written = write_part(rows, str(tmp_path))
    read = Receipt.from_json(json.dumps(json.loads(written.to_json())))
    assert read == written
    assert [(met.study_id, met.place, bool(met.fault.traceback)) for met in read.faults] == [
        ("s1", 1, True),
        ("s4", 4, False),
    ]


def test_every_error_of_the_tree_is_one_of_those_that_stop_or_that_of_a_study():
    kinds = set(CxrError.__subclasses__())
    assert kinds == {ConfigError, StoreError, RunError, LockError, StudyError}

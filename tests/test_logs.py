"""What collects logs gets one JSON object a line, with the program and the run; people get text."""

import json
from pathlib import Path

import pytest
from builders import nih_table
from engines import without_models

from cxrpipe import cli, console
from cxrpipe.config import ScoreConfig
from cxrpipe.programs.score import score_archive
from cxrpipe.records import runs_of

pytestmark = pytest.mark.usefixtures("scored_here")


@pytest.fixture
def as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXRPIPE_LOG", "json")


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, str]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_line_has_its_time_level_program_and_message(as_json, capsys):
    with console.about(program="score"):
        console.log('said "ünd"\nmore')
    (line,) = lines(capsys)
    assert line.pop("time").endswith("+00:00")
    assert line == {"level": "info", "program": "score", "message": 'said "ünd"\nmore'}


def test_a_refusal_is_an_error_line(as_json, capsys):
    with pytest.raises(SystemExit) as refused:
        cli.main("score", ["--archive", "a", "--out", "o"])
    assert refused.value.code == 2
    (line,) = lines(capsys)
    assert (line["level"], line["program"]) == ("error", "score")
    assert line["message"].startswith("nothing to score with")


def test_lines_of_a_run_name_it_and_no_patient(as_json, capsys, tmp_path: Path, small, monkeypatch):
    monkeypatch.setattr(console, "_LINE_EVERY_S", 0.0)  # progress, too
    table = nih_table(tmp_path)
    config = ScoreConfig(studies=table.url, models=(small.url,), out=str(tmp_path / "out"))
    assert score_archive(config, without_models) == 0
    (run,) = runs_of(str(tmp_path / "out"))
    told = lines(capsys)
    of_run = [line for line in told if line.get("run") == run.run_id]
    assert len(of_run) >= 2
    ids = {name for study in table.studies() for name in (study.study_id, study.patient_id)}
    assert not [line for line in told if any(name and name in line["message"] for name in ids)]


def test_people_get_text(capsys):
    console.log("hello")
    assert capsys.readouterr().err.endswith(" hello\n")

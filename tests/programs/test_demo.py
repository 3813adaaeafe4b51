"""The README, as a new user follows it: the demo, then every command and example that the page shows."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
import torch
import xrv_files
from builders import small_classifier
from processes import ROOT, finish

from cxrpipe.cli import PROGRAMS, parse
from cxrpipe.models.ensemble import open_ensemble
from cxrpipe.programs import demo
from cxrpipe.records import read_scores
from cxrpipe.records.study_table import StudyTable

BIN = Path(sys.executable).parent
README = (ROOT / "README.md").read_text()


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def _commands() -> list[str]:
    """Every line of the page that is a command, in its order."""
    lines = [line for block in _blocks("sh") + _blocks("text") for line in block.splitlines()]
    return [line for line in lines if line.startswith(("cxrpipe ", "make ", "ray job submit "))]


@pytest.mark.parametrize("command", [line for line in _commands() if not line.startswith("make ")])
def test_every_documented_command_has_settings_that_the_parser_takes(command: str) -> None:
    words = command.split()
    name = next(word.removeprefix("jobs/").removesuffix(".py") for word in words if _program(word) in PROGRAMS)
    at = next(number for number, word in enumerate(words) if _program(word) == name)
    parse(name, words[at + 1 :])


def _program(word: str) -> str:
    return word.removeprefix("jobs/").removesuffix(".py")


@pytest.mark.parametrize("missing", [(), ("onnx",), ("onnx", "onnxruntime")])
def test_the_second_classifier_votes_as_an_onnx_file_where_the_packages_are_there(
    missing: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in demo.MEMBERS:
        small_classifier(tmp_path / "models" / name, side_px=32, findings=demo.FINDINGS)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in missing else find_spec(name))
    demo.adopt_second(tmp_path)
    members, _ = demo.voting(tmp_path)
    first, other = open_ensemble(members).members
    assert first.url == str(tmp_path / "models" / "first")
    if missing:
        assert other.url == str(tmp_path / "models" / "second")
        assert (
            f"left out: {' and '.join(missing)} not installed; pip install 'cxrpipe[onnx]'" in capsys.readouterr().err
        )
    else:
        assert (other.card.architecture, other.card.findings) == ("onnx", demo.FINDINGS)
        assert (other.card.preparation, other.card.mean) == (first.card.preparation, first.card.mean)


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the demo and then all commands of the page have run."""
    folder = tmp_path_factory.mktemp("reader")
    env = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(folder / "home")}
    downloads = folder / "home" / ".torchxrayvision" / "models_data"
    downloads.mkdir(parents=True)
    xrv_files.densenet(downloads, "densenet121-res224-all", torch.rand(2, 1, 224, 224))
    for command in ["cxrpipe demo --out demo", *(line for line in _commands() if line.startswith("cxrpipe "))]:
        process = subprocess.Popen(
            command.split(), cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        status, said = finish(process, timeout=1800)
        assert status == 0, f"{command}\n{said[-3000:]}"
    return folder


@pytest.mark.slow
@pytest.mark.ray
class TestReadme:
    def test_the_demo_reaches_its_figures(self, followed: Path) -> None:
        figures = followed / "demo" / "figures"
        assert json.loads((figures / "nih" / "metrics.json").read_text())["macro"]["auroc"]["value"] >= 0.9
        assert json.loads((figures / "montgomery" / "metrics.json").read_text())["masks"]["dice"]["value"] >= 0.9

    def test_the_demo_accounts_for_every_study(self, followed: Path) -> None:
        for name in ("nih", "montgomery"):
            table = StudyTable(str(followed / "demo" / "tables" / name / "studies.parquet"))
            wanted = sorted(study.study_id for study in table.studies("test"))
            scores = read_scores(str(followed / "demo" / "scores" / name))
            assert sorted(scores["study_id"].to_pylist()) == wanted

    def test_a_public_model_votes_beside_ones_own(self, followed: Path) -> None:
        rows = read_scores(str(followed / "public"))
        table = StudyTable(str(followed / "tables" / "studies.parquet"))
        assert sorted(rows["study_id"].to_pylist()) == sorted(study.study_id for study in table.studies("test"))
        knowers = {
            name: [len([p for p in probs if p is not None]) for probs in rows[f"member_probs_{name}"].to_pylist()]
            for name in ("Pneumonia", "Hernia")
        }
        assert set(knowers["Pneumonia"]) == {2}
        assert set(knowers["Hernia"]) == {1}

    def test_the_pictures_are_there(self, followed: Path) -> None:
        for name in ("roc.png", "confusion.png"):
            assert (followed / "figures" / name).read_bytes().startswith(b"\x89PNG")

    def test_the_python_example_runs(self, followed: Path) -> None:
        for block in _blocks("python"):
            done = subprocess.run([sys.executable, "-c", block], cwd=followed, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            assert "prob_Pneumonia" in done.stdout

    def test_the_line_of_sql_reads_what_python_reads(self, followed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(followed)
        (query,) = _blocks("sql")
        rows = duckdb.sql(query).fetchall()
        assert len(rows) == read_scores("scored").num_rows

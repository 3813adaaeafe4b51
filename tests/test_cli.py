"""The command line: what is understood, what is refused, and that a refusal is one line, status 2 and no trace."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
from builders import own_table, png, radiograph

from cxrpipe import cli, config
from cxrpipe.cli import PROGRAMS, parse
from cxrpipe.config import Resources, help_page, outline
from cxrpipe.config.words import Known, from_flags
from cxrpipe.errors import ConfigError

REPOSITORY = Path(__file__).parents[1]
SCORE = ["--archive", "a", "--models", "m", "--out", "o"]
REQUIRED = {
    "index": ["--archive", "a"],
    "train": ["--task", "classify", "--archive", "a", "--out", "o"],
    "score": SCORE,
    "nightly": ["--archive", "a", "--studies", "t.parquet", "--models", "m", "--out", "o"],
    "evaluate": ["--scores", "s", "--studies", "t", "--out", "o"],
    "predict": ["a.png", "b.dcm", "--models", "m"],
    "calibrate": ["--scores", "s", "--studies", "t", "--models", "m", "--out", "o"],
    "probe": ["--scores", "s", "--studies", "t", "--out", "o"],
    "compare": ["a", "b"],
    "show": ["studies.parquet", "--study", "s"],
    "similar": ["scores", "--study", "s"],
    "review": ["scores"],
    "export": ["root", "--csv", "scores.csv"],
    "forget": ["--patient", "p", "--out", "o"],
    "demo": [],
    "adopt": ["xrv:all", "--out", "o"],
}


# ---- understood -----------------------------------------------------------------------------------------------


def test_dash_and_underscore_are_the_same():
    dashed = parse("score", [*SCORE, "--split-seed", "3", "--batch-studies=4", "--max-failed-fraction", "0.2"])
    scored = parse("score", [*SCORE, "--split_seed", "3", "--batch_studies=4", "--max_failed_fraction", "0.2"])
    assert dashed == scored
    assert (dashed.split_seed, dashed.batch_studies, dashed.max_failed_fraction) == (3, 4, 0.2)


@pytest.mark.parametrize(
    "words",
    [
        ["--models", "a,b"],
        ["--models=a,b"],
        ["--models", "a, b,"],
        ["--models", '["a", "b"]'],
        ["--models=x", "--models=a,b"],
    ],
)
def test_a_list_is_written_with_commas(words):
    assert parse("score", ["--archive", "x", "--out", "o", *words]).models == ("a", "b")


def test_an_empty_item_counts_only_where_it_means_something():
    assert parse("adopt", [*REQUIRED["adopt"], "--findings", "A,,B,"]).findings == ("A", "", "B", "")


def test_a_flag_that_means_something_alone_needs_no_value():
    alone = parse("score", [*SCORE, "--incremental", "--retry", "--dry-run", "--limit", "3"])
    assert (alone.incremental, alone.retry, alone.dry_run, alone.limit) == (True, ("retryable",), True, 3)
    said = parse("score", [*SCORE, "--incremental", "false", "--retry", "missing,timeout", "--dry-run=true"])
    assert (said.incremental, said.retry, said.dry_run) == (False, ("missing", "timeout"), True)


def test_a_url_with_dashes_is_left_as_it_is():
    assert parse("index", ["--archive", "s3://my-bucket/a-b_c=1,2"]).archive == "s3://my-bucket/a-b_c=1,2"


def test_settings_of_a_section_have_a_dot():
    assert parse("score", [*SCORE, "--resources.preparers", "3"]).resources == Resources(preparers=3)


def test_lists_in_a_section_and_of_numbers_are_written_with_commas():
    words = ["--loss.uncertain-of", "A=ones,B=zeros", "--freeze.policy=adaptive", "--freeze.epochs", "2,8"]
    trained = parse("train", [*REQUIRED["train"], *words, "--freeze.learning-rates=1e-3,5e-4"])
    assert trained.loss.uncertain_of == ("A=ones", "B=zeros")
    assert (trained.freeze.epochs, trained.freeze.learning_rates) == ((2, 8), (1e-3, 5e-4))


@pytest.mark.parametrize(
    ("words", "flip"),
    [
        (["--augment.flip"], True),
        (["--augment.flip", "--seed", "3"], True),
        (["--augment.flip", "true"], True),
        (["--augment.flip=false"], False),
    ],
)
def test_a_flag_alone_means_true(words, flip):
    assert parse("train", [*REQUIRED["train"], *words]).augment.flip is flip


def test_a_file_of_settings_is_read_and_flags_come_on_top_wherever_they_stand(tmp_path):
    file = tmp_path / "score.toml"
    file.write_text('out = "o"\narchive = "a"\nmodels = ["m", "n"]\nlimit = 7\n\n[resources]\nthreads = 2\n')
    plain = parse("score", ["--config", str(file)])
    assert (plain.out, plain.models, plain.limit, plain.resources.threads) == ("o", ("m", "n"), 7, 2)
    for words in (["--limit", "9", "--config", str(file)], [f"--config={file}", "--limit=9"]):
        assert parse("score", words).limit == 9


@pytest.mark.parametrize("name", [*PROGRAMS])
def test_printed_settings_can_be_read_back(tmp_path, capsys, name):
    nasty = {
        "index": ["--archive", 'C:\\x\t"é😀"\n#[a]', "--out", "s3://b/x.parquet"],
        "train": [
            "--findings",
            "Mass,Pleural_Effusion",
            "--learning-rate",
            "1e-5",
            "--freeze.policy",
            "last-3",
            "--compile",
        ],
        "score": ["--limit", "3", "--models", 'a "b",c', "--resources.threads", "2"],
        "nightly": ["--limit", "3", "--reference", "r", "--resources.gpus", "4"],
        "evaluate": ["--seed", "4"],
        "calibrate": ["--method", "temperature"],
        "probe": ["--findings", "Mass,Edema", "--rule", "youden"],
        "compare": ["--root", "s3://b/scores"],
        "predict": ["--explain", "false"],
        "show": ["--out", "s.png"],
        "similar": ["--top", "3", "--member", "a b"],
        "review": ["--studies", "a b.parquet", "--allow-notes"],
        "export": ["--masks", "a b/", "--dicom-seg", "s3://b/seg"],
        "forget": ["--patient", "0012"],
        "demo": ["--workers", "1"],
        "adopt": ["--findings", "A,,B=", "--std", "0.2,0.3"],
    }
    words = [*REQUIRED[name], *nasty[name]]
    with pytest.raises(SystemExit) as printed:
        parse(name, [*words, "--print-config"])
    assert printed.value.code == 0
    file = tmp_path / "printed.toml"
    file.write_text(capsys.readouterr().out)
    assert parse(name, ["--config", str(file)]) == parse(name, words)


def shown(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as helped:
        cli.main(name, ["--help"])
    assert helped.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("width", ["60", "80", "200"])
@pytest.mark.parametrize("name", [*PROGRAMS])
def test_help_opens_with_an_example_that_the_parser_takes(monkeypatch, capsys, name, width):
    monkeypatch.setenv("COLUMNS", width)
    example, _, rest = shown(name, capsys).partition("\n\n")
    title, _, command = example.partition("\n")
    assert title == "example:"
    assert rest
    program, same, *words = shlex.split(command.replace("\\\n", ""))  # as a shell reads it
    assert (program, same) == ("cxrpipe", name)
    parse(name, words)


@pytest.mark.parametrize("name", [*PROGRAMS])
def test_help_shows_every_setting_with_its_meaning_and_default(capsys, name):
    page = " ".join(shown(name, capsys).split())
    for setting in outline.settings(PROGRAMS[name].settings):
        entry = f"{help_page.invocation(setting)} {help_page.explained(setting)}"
        assert " ".join(entry.split()) in page
        assert len(setting.meaning.split()) > 1 or setting.name == "optim.optimizer", setting.name


def test_a_default_is_shown_as_a_person_reads_it():
    defaults = {setting.name: setting.default for setting in outline.settings(PROGRAMS["train"].settings)}
    wanted = {
        "out": "required",
        "epochs": "default: 10",
        "learning_rate": "default: 0.001",
        "compile": "off",
        "findings": "",
        "loss.smoothing": "default: 0",
    }
    assert {name: defaults[name] for name in wanted} == wanted
    predict = {setting.name: setting.default for setting in outline.settings(PROGRAMS["predict"].settings)}
    assert predict["explain"] == "on; --no-explain turns it off"


@pytest.mark.parametrize("name", [*PROGRAMS])
def test_help_names_no_types_of_python_and_no_braces(capsys, name):
    page = shown(name, capsys)
    assert not re.search(r"\{|\}|true,false|<class|type:|null|None|_[a-z]+ [A-Z]", page)
    assert not re.search(r"--[a-z.-]*_", page)


def test_help_of_score_begins_with_what_everybody_needs(capsys):
    flags = re.findall(r"^  (--\S+)", shown("score", capsys), re.MULTILINE)
    assert flags[:5] == ["--archive", "--studies", "--models", "--segmenter", "--out"]


@pytest.mark.parametrize("name", [*PROGRAMS])
def test_every_setting_stands_in_one_section_of_the_outline(name):
    settings = PROGRAMS[name].settings
    names = [setting.name for setting in outline.settings(settings)]
    assert len(names) == len(set(names))
    assert {name.partition(".")[0] for name in names} == {field.name for field in fields(settings)}


@pytest.mark.parametrize("name", [*PROGRAMS])
def test_every_flag_that_help_shows_can_be_parsed(name):
    values = {"N": "3", "X": "0.5", "A,B": "a,b", "N,N": "1,2", "X,X": "1,2", "FRACTION": "0.5", "PIXELS": "64"}
    known = Known("cxrpipe", PROGRAMS[name].settings)
    for setting in outline.settings(PROGRAMS[name].settings):
        value = values.get(setting.value, setting.value.partition("|")[0] or "true")
        value = values.get({"SECONDS": "N", "DEGREES": "X"}.get(value, ""), value)
        (read,) = from_flags([setting.flag, value], known)
        assert (read.setting, read.text) == (setting, value)
        with pytest.raises(SystemExit) as printed:
            parse(name, [setting.flag, value, "--print-config"])
        assert printed.value.code == 0


def test_the_page_of_settings_is_what_its_script_prints():
    done = run(sys.executable, str(REPOSITORY / "docs" / "settings.py"), cwd=REPOSITORY)
    assert done.stderr == ""
    assert done.stdout == (REPOSITORY / "docs" / "settings.md").read_text(), (
        "python docs/settings.py > docs/settings.md"
    )


# ---- earlier spellings ----------------------------------------------------------------------------------------


def test_an_earlier_name_of_a_flag_still_works_and_is_not_shown(capsys):
    words = [*REQUIRED["evaluate"], "--target-sensitivity", "0.8", "--target_specificity=0.7"]
    read = parse("evaluate", words)
    assert (read.aim_sensitivity, read.aim_specificity) == (0.8, 0.7)
    assert "--target" not in shown("evaluate", capsys)


def test_an_earlier_name_works_in_a_file(tmp_path):
    (tmp_path / "old.toml").write_text("target_sensitivity = 0.8\n")
    assert parse("calibrate", [*REQUIRED["calibrate"], "--config", str(tmp_path / "old.toml")]).aim_sensitivity == 0.8


@pytest.mark.parametrize("program", ["evaluate", "calibrate"])
def test_earlier_words_for_labels_still_work(program):
    read = parse(program, [*REQUIRED[program], "--uncertain", "positive", "--blank", "negative"])
    assert (read.uncertain, read.blank) == ("ones", "zeros")
    assert parse(program, [*REQUIRED[program], "--uncertain=negative"]).uncertain == "zeros"


def test_training_takes_the_same_words_for_labels_as_evaluation():
    read = parse("train", [*REQUIRED["train"], "--loss.uncertain", "positive", "--loss.blank", "zeros"])
    assert (read.loss.uncertain, read.loss.blank) == ("ones", "zeros")


# ---- switches -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], False),
        (["--explain"], True),
        (["--explain", "--limit", "3"], True),
        (["--explain", "false"], False),
        (["--explain=true"], True),
        (["--no-explain"], False),
        (["--explain", "--no-explain"], False),
        (["--no-explain", "--explain"], True),
    ],
)
def test_a_switch_needs_no_value(words, said):
    assert parse("score", [*REQUIRED["score"], *words]).explain is said


@pytest.mark.parametrize(
    "words", [["--across-models", "a", "b"], ["a", "--across-models", "b"], ["a", "b", "--across-models"]]
)
def test_a_switch_does_not_take_a_word_that_is_not_its_value(words):
    read = parse("compare", words)
    assert (read.runs, read.across_models) == (("a", "b"), True)


def test_a_switch_of_a_section_is_turned_off_by_no(tmp_path):
    (tmp_path / "train.toml").write_text("[augment]\nflip = true\n")
    words = [*REQUIRED["train"], "--config", str(tmp_path / "train.toml")]
    assert parse("train", words).augment.flip is True
    assert parse("train", [*words, "--no-augment.flip"]).augment.flip is False


def test_an_overview_names_every_program(capsys):
    with pytest.raises(SystemExit) as helped:
        cli.main(None, ["--help"])
    assert helped.value.code == 0
    overview = capsys.readouterr().out
    for name, program in PROGRAMS.items():
        assert f"  {name:10} {outline.describe(program.settings).sentence}\n" in overview


# ---- refused --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def given(tmp_path_factory, small, lungs) -> dict[str, str]:
    """What a command may name: good things and bad ones."""
    folder = tmp_path_factory.mktemp("given")
    table = own_table(folder, {"a": [png(radiograph())], "b": [png(radiograph(1))]})
    (folder / "text").mkdir()
    (folder / "text" / "notes.txt").write_text("no image")
    (folder / "empty").mkdir()
    return {
        "archive": str(folder / "own" / "table.csv"),
        "table": table.url,
        "text": str(folder / "text"),
        "note": str(folder / "text" / "notes.txt"),
        "empty": str(folder / "empty"),
        "model": small.url,
        "lungs": lungs.url,
        "nowhere": str(folder / "nowhere"),
    }


REFUSED = {
    "index --archive {nowhere}": "nowhere: nothing there",
    "index --archive {empty}": "empty: nothing there",
    "index --archive {text}": "no known layout",
    "index --archive {text} --layout folders": "no class folders with images",
    "index --archive {archive} --layout zork": "layout 'zork' is unknown",
    "index --archive {archive} --bogus 1": "--bogus",
    "index --archive {archive} --out studies.csv": "studies.csv",
    "index --archive {archive} --split-seed x": "--split-seed 'x'; expected a whole number",
    "index --archive ftp://host/x": "ftp://host/x: expected s3://",
    "index": "missing: --archive URL. Example: cxrpipe index --archive",
    "train": "missing: --task classify|segment, --out URL. Example: cxrpipe train",
    "score --archive {nowhere} --models {model} --out OUT": "nowhere: nothing there",
    "score --archive {text} --models {model} --out OUT": "no known layout",
    "score --archive {text} --layout montgomery --models {model} --out OUT": "no CXR_png",
    "score --archive {archive} --layout zork --models {model} --out OUT": "layout 'zork' is unknown",
    "score --archive {archive} --models {nowhere} --out OUT": "nowhere: not a model folder",
    "score --archive {archive} --models {text} --out OUT": "text: not a model folder",
    "score --archive {archive} --models {note} --out OUT": "notes.txt: not a model folder",
    "score --archive {archive} --segmenter {nowhere} --out OUT": "nowhere: not a model folder",
    "score --archive {archive} --segmenter {model} --out OUT": "--models",
    "score --archive {archive} --models {model},{lungs} --out OUT": "--segmenter",
    "score --archive {archive} --models {model} --out OUT --bogus": "--bogus: no such setting",
    "score --archive {archive} --model {model} --out OUT": "--model: no such setting; did you mean --models?",
    "score --archive {archive} --models {model} --out OUT --max_faild_fraction 1": "mean --max-failed-fraction?",
    "score --archive {archive} --models {model} --out OUT --threads 1": "did you mean --resources.threads?",
    "score --archive {archive} --models {model} --out OUT stray": "'stray' belongs to no flag",
    "score --archive {archive} --models {model} --out OUT --limit": "--limit has no value; expected a whole number",
    "score --archive {archive} --models {model} --out OUT --limit 1.5": "--limit '1.5'; expected a whole number",
    "score --archive {archive} --models {model} --out OUT --explain=maybe": "--explain 'maybe'; expected true or false",
    "score --archive {archive} --models {model} --out OUT --config": "--config: expected one argument",
    "score --archive {archive} --out OUT": "nothing to score with",
    "score --archive {archive} --studies {table} --models {model} --out OUT": "either --archive URL or --studies URL",
    "score --models {model} --out OUT": "either --archive URL or --studies URL",
    "score --archive {archive} --models {model}": "missing: --out URL. Example: cxrpipe score",
    "score --archive {archive} --models {model} --out gs://x": "gs://x: expected s3://",
    "score --studies {nowhere} --models {model} --out OUT": "nowhere: no study table there",
    "score --studies {note} --models {model} --out OUT": "notes.txt: not a study table",
    "score --studies {table} --models {model} --out OUT --split tset": "--split 'tset'; expected one of all, train",
    "score --studies {table} --models {model} --out OUT --limit=-1": "--limit must be at least 0",
    "score --studies {table} --models {model} --out OUT --max-failed-fraction 2": "between 0 and 1",
    "score --config {nowhere}": "nowhere: No such file or directory; expected a TOML file of settings",
    "score --config {note}": "notes.txt: not a TOML file of settings",
    "train --task classify --archive {nowhere} --out OUT": "nowhere: nothing there",
    "train --task classify --archive {text} --out OUT": "no known layout",
    "train --task classify --archive {archive} --layout zork --out OUT": "layout 'zork' is unknown",
    "train --task guess --archive {archive} --out OUT": "--task 'guess'; expected one of classify, segment",
    "train --task classify --archive {archive} --out OUT --freeze.epochs 1,b": "whole numbers with commas between",
    "train --task classify --archive {archive} --out OUT --learning-rate y": "--learning-rate 'y'; expected a number",
    "train --task classify --archive {archive} --out OUT": "no labels",
    "train --task classify --archive {archive} --out OUT --arch resnet5000": "resnet5000",
    "train --task classify --archive {archive} --out OUT --side-px 100": "multiple of 32",
    "train --task classify --archive {archive} --out OUT --bogus 1": "--bogus",
    "train --task segment --archive {archive} --out OUT": "mask",
    "evaluate --scores {nowhere} --studies {table} --out OUT": "nowhere: no complete run",
    "evaluate --scores {nowhere} --studies {nowhere} --out OUT": "nowhere: no study table there",
    "evaluate --scores {nowhere} --studies {table} --out OUT --bogus 1": "--bogus",
    "evaluate --scores {nowhere} --studies {table} --out OUT --split all,test": "--split 'all,test'; expected one of",
    "evaluate --scores {nowhere} --studies {table} --out OUT --uncertain maybe": "--uncertain 'maybe'; expected one",
    "evaluate --scores {nowhere} --studies {table} --out OUT --aim-sensitivity 90": "--aim-sensitivity must lie",
    "calibrate --scores {nowhere} --studies {table} --models {model} --out OUT": "nowhere: no complete run",
    "calibrate --scores {nowhere} --studies {table} --models {model} --out OUT --method zork": "--method 'zork'",
    "probe --scores {nowhere} --studies {table} --findings Mass --out OUT": "nowhere: no complete run",
    "probe --scores {nowhere} --studies {nowhere} --findings Mass --out OUT": "nowhere: no study table there",
    "probe --scores {nowhere} --studies {table} --out OUT --balance zork": "--balance 'zork'; expected one of weights",
    "compare {nowhere}": "1 runs to compare; expected two",
    "compare {nowhere} {nowhere}": "nowhere: no complete run",
    "compare a b --root {nowhere}": "nowhere: no complete run",
    "score --studies {table} --models {model} --out OUT --retry lost": "retry lost; expected retryable or some of",
    "predict {note} --models {nowhere} --out OUT": "nowhere: not a model folder",
    "predict {note} --out OUT": "nothing to predict with",
    "predict --models {model} --out OUT": "missing: FILE...",
    "show {nowhere} --study a": "nowhere: no complete run there",
    "show {table} --study z": "no study 'z' among 2; its ids look like a, b",
    "show {table}": "missing: --study ID. Example: cxrpipe show",
    "show {table} {table} --study z": "expected one STUDIES|ROOT",
    "export {nowhere} --csv OUT": "nowhere: no complete run there",
    "export {nowhere}": "nothing to export",
    "export --csv OUT": "missing: ROOT. Example: cxrpipe export",
    "forget --patient p --out {nowhere}": "nowhere: no run there",
    "demo --bogus": "--bogus",
}


@pytest.fixture
def refused(given, tmp_path, monkeypatch, capsys) -> Callable[[str], str]:
    """Run a command in an empty folder; the one line with which it is refused, once it has left no trace."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def run(command: str) -> str:
        name, *words = command.split()
        with pytest.raises(SystemExit) as ended:
            cli.main(name, [word.format_map(given) for word in words])
        said = capsys.readouterr()
        lines = [line for line in said.err.splitlines() if not re.match(r"\d\d:\d\d:\d\d \w+: .* as \w+ \(", line)]
        assert ended.value.code == 2, said.err
        assert len(lines) == 1, said.err
        assert lines[0].startswith(f"cxrpipe {name}: ")
        assert "Traceback" not in said.err
        assert said.out == "" or "studies," in said.out  # the account of an archive that could be indexed
        assert not any(Path().iterdir())
        assert "ray" not in sys.modules or not sys.modules["ray"].is_initialized()
        return lines[0]

    return run


@pytest.mark.parametrize("command", [*REFUSED])
def test_a_refusal_is_one_line_and_status_2_and_writes_nothing(refused, command):
    assert REFUSED[command] in refused(command)


def test_weights_that_do_not_fit_are_refused_before_ray_starts(refused, given, tmp_path):
    labelled = tmp_path / "labelled.csv"
    films = [f"{number}.png" for number in range(12)]
    for number, film in enumerate(films):
        (tmp_path / film).write_bytes(png(radiograph(number)))
    splits = ["train"] * 8 + ["valid"] * 4
    rows = [f"{film},{film},{split},{n % 2}" for n, (film, split) in enumerate(zip(films, splits, strict=True))]
    labelled.write_text("\n".join(["study_id,path,split,label_Mass", *rows]))
    command = f"train --task classify --archive {labelled} --arch resnet18 --out OUT --weights {given['nowhere']}"
    assert "nowhere: no weights there" in refused(command)


def test_an_unknown_program_is_refused_and_the_known_ones_named(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(None, ["scroe"])
    assert ended.value.code == 2
    refusal = capsys.readouterr().err
    assert "no program 'scroe'; did you mean score? expected one of index, train, score" in refusal


def test_a_bad_value_in_a_file_is_refused_like_a_bad_flag(tmp_path):
    (tmp_path / "x.toml").write_text('archive = "a"\nlayuot = "nih"\n')
    with pytest.raises(ConfigError, match=r"x.toml: layuot: no such setting; did you mean layout\?"):
        parse("index", ["--config", str(tmp_path / "x.toml")])
    (tmp_path / "x.toml").write_text('[resources]\nthreads = "many"\n')
    with pytest.raises(ConfigError, match=r"x.toml: resources.threads 'many'; expected a whole number"):
        parse("score", [*SCORE, "--config", str(tmp_path / "x.toml")])


# ---- real processes -------------------------------------------------------------------------------------------


def run(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"COLUMNS": "100"}
    return subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_the_console_script_knows_its_version(tmp_path):
    script = Path(sys.executable).with_name("cxrpipe")
    done = run(str(script), "--version", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"cxrpipe {cli.__version__}\n", "")


def test_every_program_has_a_job():
    jobs = {job.stem: job.read_text() for job in (REPOSITORY / "jobs").glob("*.py")}
    assert {*jobs} == {*PROGRAMS}
    assert all(f'main("{name}")' in text for name, text in jobs.items())


def test_the_package_runs_as_a_module(tmp_path):
    done = run(sys.executable, "-m", "cxrpipe", "--version", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"cxrpipe {cli.__version__}\n", "")


@pytest.mark.parametrize("name", ["index", "score", "show"])
def test_a_job_is_the_same_program(tmp_path, monkeypatch, capsys, name):
    done = run(sys.executable, str(REPOSITORY / "jobs" / f"{name}.py"), "--help", cwd=tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        cli.main(name, ["--help"])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == capsys.readouterr().out


def test_a_process_ends_with_the_status_and_the_line_and_no_traceback(tmp_path):
    done = run(sys.executable, str(REPOSITORY / "jobs" / "index.py"), "--archive", "nowhere", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"cxrpipe index: {tmp_path}/nowhere: nothing there")
    assert done.stderr.count("\n") == 1
    assert not any(tmp_path.iterdir())


def test_a_program_that_is_terminated_says_so_and_ends_with_status_1(monkeypatch, capsys):
    def run(settings: Any) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
        return 0

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("cxrpipe.programs.index.run", run)
    with pytest.raises(SystemExit) as ended:
        cli.main("index", REQUIRED["index"])
    assert ended.value.code == 1
    assert "the same command goes on from here" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


def test_reading_the_command_line_loads_neither_torch_nor_ray(tmp_path):
    code = f"import sys; from cxrpipe.cli import parse; [parse(*each) for each in {[*REQUIRED.items()]}]; "
    done = run(sys.executable, "-c", code + "print({'torch', 'ray', 'boto3'} & set(sys.modules))", cwd=tmp_path)
    assert (done.stdout, done.returncode) == ("set()\n", 0)


def test_whoever_prepares_studies_or_writes_parts_loads_neither_torch_nor_pydicom_nor_boto3(tmp_path):
    code = "import sys, cxrpipe.scoring.prepare, cxrpipe.scoring.parts; "
    done = run(sys.executable, "-c", code + "print({'torch', 'pydicom', 'boto3'} & set(sys.modules))", cwd=tmp_path)
    assert (done.stdout, done.returncode) == ("set()\n", 0)


def test_every_setting_stands_in_config():
    assert {program.settings for program in PROGRAMS.values()} <= {
        each for each in vars(config).values() if is_dataclass(each)
    }

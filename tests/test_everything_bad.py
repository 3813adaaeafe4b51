"""All that is bad at once: every file of bad/ and field/ of the real data is a row or a line with the reason listed.

The plain loop reads every archive on disk and, slow, on S3; the program under Ray reads one of every kind on S3. The
reasons are those of the contract, and of the README of field/.
"""

import fnmatch
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from accounts import Outcome, files_in_no_account, outcomes
from builders import classifier, png, small_classifier
from engines import without_models
from processes import finish, start
from s3server import S3Server

from cxrpipe import storage
from cxrpipe.archives import phantom
from cxrpipe.archives.index import index
from cxrpipe.config import ScoreConfig
from cxrpipe.errors import ConfigError
from cxrpipe.programs.score import score_archive
from cxrpipe.records import read_scores
from cxrpipe.records.study_table import StudyTable

GOOD = 500
"""Films around the bad ones: as few failures as a real archive has."""


@dataclass(frozen=True)
class Case:
    """One archive, and what must become of its files."""

    folder: str
    layout: str
    said: dict[str, str | tuple[str, ...]]
    """Pattern of names → status and reason, or one of several that are right. The first pattern that matches counts."""
    table: bool = False
    """The archive is the table.csv in the folder, and not the folder."""
    may_refuse: str | None = None
    """What a refusal with status 2 must show to be right as well."""
    splits: dict[str, set[str]] = field(default_factory=dict)
    """Pattern of study ids → the splits that they are in."""
    patients: bool = False
    """Every study has a patient."""

    @property
    def name(self) -> str:
        return f"{self.folder.removeprefix('field/')} as {self.layout}"

    @property
    def archive(self) -> str:
        return f"{self.folder}/table.csv" if self.table else self.folder


SKIPPED = "skipped/*"
CASES = [
    Case(
        "bad",
        "images",
        {
            "all_black.png": "rejected/blank",
            "bomb_60000x60000.png": "failed/too_large",
            "empty.png": "failed/empty",
            "flipped_bytes.png": "failed/corrupt",
            "one_pixel.png": "failed/too_small",
            "text_named.png": "failed/not_an_image",
            "truncated.jpg": "failed/truncated",
            "truncated.png": ("failed/truncated", "skipped/duplicate_instance"),  # its id is that of truncated.jpg
            "*.dcm": SKIPPED,
            "images/00000193_019.png": "ok",  # before the cut of truncated.tar.gz
            "images/*": "skipped/truncated",
            "truncated.tar.gz": "skipped/truncated",
        },
    ),
    Case("field/dicom_without_preamble", "auto", {"*": "ok"}),
    Case("field/empty_object_among_images", "auto", {"empty.png": "failed/empty", "good.png": "ok"}),
    Case("field/masks_labelled_1_and_2", "table", {"*": "ok"}, table=True),
    Case("field/masks_of_half_size", "table", {"*": "ok"}, table=True),
    Case("field/nas_thumbnails", "auto", {"img[01].png": "ok", "*": SKIPPED}),
    Case("field/one_study_uid_three_patients", "auto", {"*": ("ok", SKIPPED)}),
    Case("field/other_suffixes", "auto", {"*": "ok"}),
    Case(
        "field/patients_in_mendeley_names",
        "auto",
        {"*": "ok"},
        splits={"*/test/*": {"test"}, "*/train/*": {"train", "valid"}},
        patients=True,
    ),
    Case("field/pixels", "dicom", {"*.dcm": "ok", "*.png": SKIPPED}),
    Case("field/pixels", "images", {"*.png": "ok", "*.dcm": SKIPPED}),
    Case("field/table_with_semicolons", "table", {"*": "ok"}, table=True, may_refuse="label_Pneumonia"),
    Case("field/table_with_spaces", "table", {"*": "ok"}, table=True, may_refuse="label_Pneumonia"),
    Case(
        "field/table_with_view_words",
        "table",
        {f"{number}.png": "rejected/no_frontal" for number in (6, 7, 8, 9, 11)} | {"*": "ok"},
        table=True,
        may_refuse="view_position",
    ),
    Case("field/tar_with_large_pax_header", "auto", {"*": "ok"}),
    Case(
        "field/view_positions_in_words",
        "auto",
        {f"{number}.dcm": "rejected/no_frontal" for number in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)}
        | {"12.dcm": ("ok", "rejected/no_frontal"), "sd.dcm": ("ok", "rejected/no_frontal")}  # PA/LAT; nothing
        | {"*": "ok"},
    ),
    Case("field/zip_names_differ_by_a_slash", "auto", {"*": "ok"}),
    Case(
        "field/zip_with_backslashes",
        "auto",
        {"*": "ok"},
        splits={"*test*": {"test"}, "*train*": {"train", "valid"}},
    ),
]
every_case = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


def hold_to_account(case: Case, archive: str, table: str, out: str) -> None:
    """AssertionError where a file is in no account, or has become of something else than is right."""
    found = outcomes(table, out)
    folder = archive.rpartition("/")[0] if case.table else archive
    wrong = {outcome.name_below(folder): outcome.said for outcome in found if not _is_right(case, outcome, folder)}
    assert wrong == {}
    assert files_in_no_account(archive, table, found) == []
    split_of: dict[str, str | None] = {}
    for study in StudyTable(table).studies():
        assert len(study.views) == 1, study.study_id  # as all of these archives have it
        assert study.patient_id or not case.patients, study.study_id
        assert split_of.setdefault(study.patient_id or study.study_id, study.split) == study.split, study.patient_id
        right = (splits for pattern, splits in case.splits.items() if fnmatch.fnmatchcase(study.study_id, pattern))
        assert study.split in next(right, {study.split}), study.study_id


def _is_right(case: Case, outcome: Outcome, folder: str) -> bool:
    name = outcome.name_below(folder)
    right = next((said for pattern, said in case.said.items() if fnmatch.fnmatchcase(name, pattern)), ())
    return any(fnmatch.fnmatchcase(outcome.said, said) for said in ([right] if isinstance(right, str) else right))


def _refusal(archive: str, table: str, layout: str) -> str | None:
    """Why the archive is not indexed; None where it is."""
    try:
        index(archive, table, layout=layout)
    except ConfigError as error:
        return str(error)
    return None


def _shows_why(case: Case, refusal: str) -> bool:
    return case.may_refuse is not None and case.may_refuse in refusal and "\n" not in refusal.strip()


# ---- the plain loop -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return small_classifier(tmp_path_factory.mktemp("tiny") / "model").url


@pytest.fixture(scope="module", params=["disk", pytest.param("s3", marks=[pytest.mark.s3, pytest.mark.slow])])
def bad_data(request: pytest.FixtureRequest, real_data: Path) -> Iterator[str]:
    """The folder with bad/ and field/, on disk and in a bucket."""
    if request.param == "disk":
        yield str(real_data)
        return
    server: S3Server = request.getfixturevalue("s3_server")
    server.boto().create_bucket(Bucket="all-bad")
    with pytest.MonkeyPatch.context() as patched:
        for name, value in server.env().items():
            patched.setenv(name, value)
        for name in ("bad", "field"):
            storage.upload(real_data / name, f"s3://all-bad/data/{name}")
        yield "s3://all-bad/data"


@every_case
def test_every_file_has_the_reason_listed(
    bad_data: str, tmp_path: Path, tiny: str, scored_here: None, case: Case
) -> None:
    place = f"s3://all-bad/{case.name}" if bad_data.startswith("s3:") else str(tmp_path)
    archive, table = f"{bad_data}/{case.archive}", f"{place}/table/studies.parquet"
    refusal = _refusal(archive, table, case.layout)
    if refusal:
        assert _shows_why(case, refusal), refusal
        return
    config = ScoreConfig(studies=table, models=(tiny,), out=f"{place}/out", max_failed_fraction=1)
    assert score_archive(config, without_models) == 0
    hold_to_account(case, archive, table, config.out)


def test_values_that_use_few_of_their_bits_are_flagged(real_data: Path, tmp_path: Path, tiny: str) -> None:
    config = ScoreConfig(
        archive=str(real_data / "field/pixels"), layout="images", models=(tiny,), out=str(tmp_path / "out")
    )
    score_archive(config, without_models)
    flags = {row["study_id"]: row["flags"] for row in read_scores(config.out).to_pylist()}
    assert "few_bits_used" in flags["12_bits_unscaled_in_16"]
    assert "few_bits_used" not in flags["right_16bit"]


# ---- the program, under Ray, on S3 ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Night:
    """What a night of all these jobs has left."""

    place: str
    """Below it: data/, and for every command its tables and scores."""
    statuses: dict[str, int]
    terminal: dict[str, str]
    """Command → what it printed."""

    def table(self, case: Case) -> str:
        return f"{self.place}/{case.name}/table/studies.parquet"

    def out(self, case: Case) -> str:
        return f"{self.place}/{case.name}/out"


AMONG_GOOD = Case("bad_among_good", "images", {"film*.png": "ok"} | CASES[0].said)
UNDER_RAY = [
    case
    for case in CASES
    if case.name
    in (
        "pixels as dicom",
        "table_with_view_words as table",
        "tar_with_large_pax_header as auto",
        "zip_with_backslashes as auto",
    )
]
"""An archive of every kind. Its files are prepared by what prepares them in the plain loop, which reads them all."""


@pytest.fixture(scope="module")
def night(real_data: Path, s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Night]:
    """Index and score these cases with `--max-failed-fraction 1`, and the bad folder without it, in one session."""
    folder, place = tmp_path_factory.mktemp("night"), "s3://everything-bad/night"
    shutil.copytree(real_data / "bad", folder / "data" / "bad")
    for case in UNDER_RAY:
        shutil.copytree(real_data / case.folder, folder / "data" / case.folder)
    shutil.copytree(real_data / "bad", folder / "data" / AMONG_GOOD.folder)
    for name, film in _good_films():
        (folder / "data" / AMONG_GOOD.folder / name).write_bytes(film)
    model = classifier(folder / "model", architecture="smallcnn", side_px=16).url
    with pytest.MonkeyPatch.context() as patched:
        s3_server.boto().create_bucket(Bucket="everything-bad")
        for name, value in s3_server.env().items():
            patched.setenv(name, value)
        storage.upload(folder, place)
        (folder / "commands.json").write_text(json.dumps(dict(_commands(place, model))))
        job = start("tests/helpers/many_jobs.py", f"{folder}/commands.json", f"{folder}/statuses.json")
        status, output = finish(job, timeout=900)
        assert status == 0, output[-3000:]
        terminal = dict(part.split("\n", 1) for part in output.split("==== ")[1:])
        yield Night(place, json.loads((folder / "statuses.json").read_text()), terminal)


def _good_films() -> Iterator[tuple[str, bytes]]:
    """Ten drawn films, many times: what is told of them does not matter."""
    import numpy as np

    films = [png(phantom.radiograph(np.random.default_rng(number), side_px=64).pixels) for number in range(10)]
    for number in range(GOOD):
        yield f"film{number:03}.png", films[number % 10]


def _commands(place: str, model: str) -> Iterator[tuple[str, list[str]]]:
    for case in (*UNDER_RAY, AMONG_GOOD):
        table, out = f"{place}/{case.name}/table/studies.parquet", f"{place}/{case.name}/out"
        archive = f"{place}/data/{case.archive}"
        yield f"index {case.name}", ["index", f"--archive={archive}", f"--layout={case.layout}", f"--out={table}"]
        score = ["score", f"--studies={table}", f"--models={model}", f"--out={out}"]
        yield f"score {case.name}", score if case is AMONG_GOOD else [*score, "--max-failed-fraction=1"]
    unguarded = ["score", f"--archive={place}/data/bad", "--layout=images", f"--models={model}"]
    yield "score bad without the flag", [*unguarded, f"--out={place}/refused"]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("case", UNDER_RAY, ids=[case.name for case in UNDER_RAY])
def test_every_file_has_the_reason_listed_under_ray(night: Night, case: Case) -> None:
    if case.may_refuse and night.statuses[f"index {case.name}"] == 2:
        *_, refusal = night.terminal[f"index {case.name}"].strip().splitlines()
        assert _shows_why(case, refusal), refusal
        return
    assert night.statuses[f"score {case.name}"] == 0, night.terminal[f"score {case.name}"]
    hold_to_account(case, f"{night.place}/data/{case.archive}", night.table(case), night.out(case))


@pytest.mark.slow
@pytest.mark.ray
def test_bad_files_among_many_good_ones_are_rows_and_the_night_is_done(night: Night) -> None:
    """About one percent fails, which is less than `--max-failed-fraction` allows: exit status 0."""
    assert night.statuses[f"score {AMONG_GOOD.name}"] == 0, night.terminal[f"score {AMONG_GOOD.name}"]
    table, out = night.table(AMONG_GOOD), night.out(AMONG_GOOD)
    hold_to_account(AMONG_GOOD, f"{night.place}/data/{AMONG_GOOD.folder}", table, out)
    assert sum(row["status"] == "ok" for row in read_scores(out).to_pylist()) == GOOD + 1


@pytest.mark.slow
@pytest.mark.ray
def test_a_folder_of_bad_files_is_refused_in_one_line_before_anything_is_written(night: Night) -> None:
    said = night.terminal["score bad without the flag"].strip().splitlines()
    assert night.statuses["score bad without the flag"] == 1
    assert sum(line.startswith("cxrpipe score: ") for line in said) == 1
    assert "studies tried at random cannot be read, so nothing was started" in said[-1]
    assert list(storage.listing(f"{night.place}/refused")) == []


@pytest.mark.slow
@pytest.mark.ray
def test_no_command_shows_a_traceback(night: Night) -> None:
    assert [name for name, printed in night.terminal.items() if "Traceback" in printed] == []

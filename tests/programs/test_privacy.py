"""What a DICOM says of a patient stays in it: nothing of it in outputs, logs or checkpoints. Nor do credentials.

Every text element of the data dictionary holds a planted name, date or address.
"""

import contextlib
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pydicom.datadict
import pytest
import readings
from builders import FINDINGS, small_classifier
from dicoms import dataset, saved

from cxrpipe import cli
from cxrpipe.models.folder import ModelFolder
from cxrpipe.on_ray import score as on_ray
from cxrpipe.records import read_scores
from cxrpipe.records.verdicts import Verdict
from cxrpipe.runs.engine import loop
from cxrpipe.runs.reading_lists import draw_list
from cxrpipe.runs.reviews import Reviews
from cxrpipe.runs.root import ScoreRoot

pytestmark = pytest.mark.slow

TEXT = {"PN": "Quastenflosser^Zenobia", "LO": "Qx7 Street", "SH": "Qx7 ward", "LT": "Qx7 story", "ST": "Qx7 note"}
TEXT |= {"UT": "Qx7 essay", "UC": "Qx7 words", "AE": "QX7", "CS": "QX7", "DA": "19370213", "TM": "031415.926"}
TEXT |= {"DT": "19370213031415", "AS": "083Y", "UR": "http://qx7.example/home"}
NEEDED = {"Modality", "BodyPartExamined", "ViewPosition", "PhotometricInterpretation", "SpecificCharacterSet"}
"""Without them it is no radiograph of a chest."""
HEADERS = re.compile(r"quastenflosser|zenobia|qx7|19370213|1937-02-13|031415", re.IGNORECASE)
IDS_AND_PATHS = re.compile(r"P4711|1\.2\.826\.77|hornhecht", re.IGNORECASE)
SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIAPLANTED0PLANTED0",
    "AWS_SECRET_ACCESS_KEY": "planted/secret+key",
    "AWS_SESSION_TOKEN": "planted-session-token",
}


def planted(number: int) -> bytes:
    """A chest radiograph with something personal in every text element, public and private; repeating groups apart."""
    made = dataset(np.arange(48 * 48, dtype=np.uint16).reshape(48, 48) + number, bits=12)
    for tag, (kind, _, _, _, keyword) in pydicom.datadict.DicomDictionary.items():
        if kind in TEXT and keyword not in NEEDED and tag >= 0x0008_0000:
            made.add_new(tag, kind, TEXT[kind])
    made.PatientID = f"P4711{number}"
    made.StudyInstanceUID, made.SOPInstanceUID = f"1.2.826.77.{number}", f"1.2.826.77.{number}.1"
    made.IssuerOfPatientID = None  # it is part of the patient's id
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    made.private_block(0x0011, "Quastenflosser", create=True).add_new(1, "LO", "Quastenflosser Zenobia")
    return saved(made)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five radiographs, one of them cut short; the folder's name is a patient's."""
    home = tmp_path_factory.mktemp("archive") / "Hornhecht"
    home.mkdir()
    for number in range(5):
        (home / f"hornhecht{number}.dcm").write_bytes(planted(number)[: -900 if number == 4 else None])
    return home


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return small_classifier(tmp_path_factory.mktemp("model") / "model", thresholds=dict.fromkeys(FINDINGS, 0.0))


def read_by_a_person(root: str) -> None:
    """Ada agrees with the answer on every study of a reading list."""
    place = ScoreRoot.at(root)
    drawn = draw_list(place, place.complete_runs().of(None), 3, "random")
    listed = set(drawn.studies["study_id"].to_pylist())
    rows = [row for row in read_scores(root).to_pylist() if row["study_id"] in listed]
    said = {"verdict_id": "submission-1", "reader": "Ada", "time": readings.MORNING}
    Reviews(place, allow_notes=False).write([Verdict.on(row, FINDINGS[0], "agree", **said) for row in rows])


class Traces(NamedTuple):
    folder: Path
    """All that was written, but for the archive and the model."""
    said: str
    """On stdout and stderr."""


def traces(folder: Path, archive: Path, model: ModelFolder, *pseudonymise: object) -> Traces:
    """Index, score with heat maps, score again, retry, a night, evaluate, verdicts on a list, export, forget."""
    said = io.StringIO()

    def program(name: str, *words: object) -> int:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), pytest.raises(SystemExit) as ended:
            cli.main(name, [str(word) for word in words])
        return int(ended.value.code or 0)

    table, root = folder / "tables" / "studies.parquet", folder / "root"
    models = ["--models", model.url, "--out", root]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(on_ray, "engine", loop)
        patched.setenv("CXRPIPE_LOG", "json")
        for name, secret in SECRETS.items():
            patched.setenv(name, secret)
        assert program("index", "--archive", archive, "--out", table, *pseudonymise) == 0
        for more in (["--explain"], ["--explain"], ["--explain", "--retry", "truncated"]):
            assert program("score", "--studies", table, *models, *more) == 0
        nightly = ["--archive", archive, "--studies", table, "--out", folder / "nights", *pseudonymise]
        assert program("nightly", *nightly, "--models", model.url) == 0
        assert program("evaluate", "--scores", root, "--studies", table, "--out", folder / "figures") == 2  # no label
        read_by_a_person(str(root))
        reviewed = ["--labels", "reviews", "--split", "all", "--out", folder / "reviewed", "--resamples", "9"]
        assert program("evaluate", "--scores", root, "--studies", table, *reviewed) == 0
        assert program("export", root, "--csv", folder / "scores.csv") == 0
        patient = pq.read_table(table)["patient_id"][0].as_py()
        assert program("forget", "--patient", patient, "--out", root) == 0
    return Traces(folder, said.getvalue())


@pytest.fixture(scope="module")
def plain(archive: Path, model: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> Traces:
    return traces(tmp_path_factory.mktemp("plain"), archive, model)


@pytest.fixture(scope="module")
def private(archive: Path, model: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> Traces:
    """Under pseudonyms."""
    key = tmp_path_factory.mktemp("key") / "key"
    key.write_bytes(bytes(range(32)))
    key.chmod(0o600)
    return traces(tmp_path_factory.mktemp("private"), archive, model, "--pseudonymise", key)


def told_by(folder: Path) -> Iterator[tuple[Path, str]]:
    """Every file of a folder with its content, Parquet decoded too."""
    for path in folder.rglob("*"):
        if path.is_file():
            yield path, path.read_bytes().decode("latin-1")
            if path.suffix == ".parquet":
                table = pq.read_table(path)
                yield path, f"{table.schema.metadata} {table.to_pylist()}"


def test_nothing_that_a_header_says_leaves_it_but_ids_age_and_sex(plain):
    assert not HEADERS.findall(plain.said)
    told = list(told_by(plain.folder))
    assert {"studies.parquet", "files.parquet", "plan.json", "run.json"} <= {path.name for path, _ in told}
    for path, content in told:
        assert not HEADERS.findall(content), path
    rows = [row for path in plain.folder.glob("root/scores/*/*") for row in pq.read_table(path).to_pylist()]
    assert sum(bool(maps) for row in rows for maps in row["heatmaps"] or ()) >= 3


def test_under_pseudonyms_neither_ids_nor_places_leave_the_study_table(private):
    assert not HEADERS.findall(private.said)
    assert not IDS_AND_PATHS.findall(private.said)
    for name in ("root", "nights"):
        for path, content in told_by(private.folder / name):
            assert not IDS_AND_PATHS.findall(content) + HEADERS.findall(content), path
    for path, content in told_by(private.folder / "tables"):
        assert not re.findall(r"P4711|1\.2\.826\.77", content) + HEADERS.findall(content), path


def test_credentials_are_nowhere(plain, private):
    for each in (plain, private):
        told = [each.said, *(content for _, content in told_by(each.folder))]
        for secret in SECRETS.values():
            assert not [content for content in told if secret in content]

"""Under pseudonyms the ids of an archive are told by its key alone, and a score root names nothing of it."""

import hashlib
import hmac
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from builders import zipped
from catalogued import NIH_ROWS, nih, put
from dicoms import dicom

from cxrpipe.archives.index import index
from cxrpipe.config import IndexConfig, ScoreConfig
from cxrpipe.errors import ConfigError
from cxrpipe.programs.index import run
from cxrpipe.programs.score import score_archive
from cxrpipe.records.pseudonyms import read_key
from cxrpipe.records.study_table import StudyTable
from cxrpipe.runs.engine import loop

pytestmark = pytest.mark.usefixtures("scored_here")
RAMP = np.arange(1024, dtype=np.uint16).reshape(32, 32)
PLANTED = ["PATIENT4711", "1.2.826.77", "Mustermann", "00000013", "00000001", "images_001"]
"""Parts of the ids, paths and entries of the two archives."""


def key(folder: Path, name: str = "key", data: bytes = bytes(range(32)), mode: int = 0o600) -> str:
    path = folder / name
    path.write_bytes(data)
    path.chmod(mode)
    return str(path)


def dicoms(folder: Path) -> str:
    def instance(study: int, number: int) -> bytes:
        uid = f"1.2.826.77.{study}"
        tags = {"StudyInstanceUID": uid, "SOPInstanceUID": f"{uid}.{number}", "PatientID": f"PATIENT4711{study % 3}"}
        return dicom(RAMP, bits=10, **tags)

    put(str(folder), "Mustermann/IM1.dcm", content=instance(1, 1))
    put(str(folder), "Mustermann/IM2.dcm", content=instance(1, 2))
    put(str(folder), "Mustermann/cut.dcm", content=instance(2, 1)[:-500])
    put(str(folder), "Mustermann.zip", content=zipped({f"Mustermann/{n}.dcm": instance(n, 1) for n in range(3, 9)}))
    return str(folder)


ARCHIVES = {"dicom": dicoms, "nih": lambda folder: nih(str(folder), images=list(NIH_ROWS)[:3])}


@pytest.fixture(params=ARCHIVES)
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return ARCHIVES[request.param](tmp_path / "Mustermann")


def table(archive: str, out: Path, **settings: str | None) -> StudyTable:
    index(archive, str(out / "studies.parquet"), **settings)
    return StudyTable(str(out / "studies.parquet"))


def test_ids_are_keyed_hashes_and_all_else_stays(archive, tmp_path):
    def of(text: str | None) -> str | None:
        return text and hmac.new(bytes(range(32)), text.encode(), hashlib.sha256).hexdigest()[:32]

    plain = list(table(archive, tmp_path / "plain").studies())
    hidden = list(table(archive, tmp_path / "hidden", pseudonymise=key(tmp_path)).studies())
    assert [(s.study_id, s.patient_id, s.study_digest, s.split, s.labels, s.patient_age) for s in hidden] == [
        (of(s.study_id), of(s.patient_id), of(s.study_digest), s.split, s.labels, s.patient_age) for s in plain
    ]
    assert [[(v.url, v.sop_instance_uid) for v in s.views] for s in hidden] == [
        [(v.url, of(v.sop_instance_uid)) for v in s.views] for s in plain
    ]


def test_the_metadata_tell_the_key_from_others_and_not_the_key(archive, tmp_path):
    keys = [key(tmp_path), key(tmp_path, "other", bytes(40))]
    told = [table(archive, tmp_path / str(n), pseudonymise=k).metadata["pseudonymised"] for n, k in enumerate(keys)]
    assert [len(key_id) for key_id in told] == [8, 8]
    assert told[0] != told[1]
    assert bytes(range(32)).hex() not in str(told)


def test_what_is_kept_of_headers_holds_no_id(tmp_path):
    table(dicoms(tmp_path / "a"), tmp_path / "out", pseudonymise=key(tmp_path))
    facts = str(pq.read_table(tmp_path / "out" / "files.parquet")["facts"].to_pylist())
    assert "CHEST" not in facts
    assert not [planted for planted in PLANTED if planted in facts]


def test_a_later_index_under_the_same_key_is_a_fresh_one(archive, tmp_path):
    secret = key(tmp_path)
    table(archive, tmp_path / "before", pseudonymise=secret)
    put(archive, "new/00000013_005.png", content=dicom(RAMP, bits=10, StudyInstanceUID="1.2.826.77.99"))
    previous = str(tmp_path / "before" / "studies.parquet")
    fresh = table(archive, tmp_path / "fresh", pseudonymise=secret)
    assert list(table(archive, tmp_path / "later", pseudonymise=secret, previous=previous).studies()) == list(
        fresh.studies()
    )


@pytest.mark.parametrize(("first", "then"), [("key", "other"), ("key", None), (None, "key")])
def test_a_previous_table_under_another_key_is_refused(archive, tmp_path, first, then):
    keys = {"key": key(tmp_path), "other": key(tmp_path, "other", bytes(40)), None: None}
    table(archive, tmp_path / "before", pseudonymise=keys[first])
    previous = str(tmp_path / "before" / "studies.parquet")
    with pytest.raises(ConfigError, match=r"previous table has pseudonymised by .*; expected by "):
        table(archive, tmp_path / "later", pseudonymise=keys[then], previous=previous)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"data": b""}, "a key of 0 bytes; expected at least 32"),
        ({"data": bytes(31)}, "a key of 31 bytes"),
        ({"mode": 0o644}, "everybody may read this key; expected a secret: chmod 600"),
    ],
)
def test_a_key_that_is_no_secret_is_refused(tmp_path, settings, complaint):
    with pytest.raises(ConfigError, match=complaint):
        read_key(key(tmp_path, **settings), split_seed=0)


def test_a_key_that_is_not_there_is_refused_with_how_to_make_one(tmp_path):
    with pytest.raises(ConfigError, match="no such key file; make one"):
        read_key(str(tmp_path / "absent"), split_seed=0)


def told_by(folder: Path) -> Iterator[tuple[str, str]]:
    """Every file of a folder: its name and its content, Parquet decoded too."""
    for path in folder.rglob("*"):
        if path.is_file():
            yield path.name, path.read_bytes().decode("latin-1")
            if path.suffix == ".parquet":
                kept = pq.read_table(path)
                yield path.name, f"{kept.schema.metadata} {kept.to_pylist()}"


def test_a_score_root_names_nothing_of_the_archive(archive, tmp_path, small):
    out = tmp_path / "tables" / "studies.parquet"
    assert run(IndexConfig(archive=archive, out=str(out), pseudonymise=key(tmp_path))) == 0
    root = tmp_path / "root"
    config = ScoreConfig(studies=str(out), models=(small.url,), out=str(root))
    assert score_archive(config, loop) == 0
    told = list(told_by(root))
    assert {"plan.json", "run.json", "scores-00000.parquet"} <= {name for name, _ in told}
    for name, content in told:
        assert not [planted for planted in (*PLANTED, str(out)) if planted in content], name
    views = [
        view for path in root.rglob("scores-*") for views in pq.read_table(path)["views"].to_pylist() for view in views
    ]
    assert {(view["url"], view["entry"], view["sha256"]) for view in views} == {(None, None, None)}
    assert [path.name for path in (tmp_path / "tables" / "frozen").iterdir()] == [
        f"{path.name}.parquet" for path in (root / "runs").iterdir()
    ]
    assert score_archive(config, loop) == 0  # and it knows that it is done

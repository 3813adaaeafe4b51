"""DICOM in any tree: the header says what a file is, and only as much of a file is read as holds it."""

from pathlib import Path

import numpy as np
import pytest
from builders import tar_gz, zipped
from catalogued import found, put, rest, studies, why
from dicoms import dicom

from cxrpipe import storage
from cxrpipe.archives.layouts.base import Skipped
from cxrpipe.archives.layouts.dicom import view_position

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def instance(study: str, number: int, **tags: object) -> bytes:
    return dicom(RAMP, StudyInstanceUID=study, SOPInstanceUID=f"{study}.{number}", **tags)


def reasons(archive: str) -> dict[str, str]:
    return {each.url.rpartition("/")[2]: each.reason for each in rest(archive, "dicom") if isinstance(each, Skipped)}


def test_a_study_is_what_shares_its_uid_wherever_the_files_lie(anywhere):
    put(anywhere, "a/x/IM1", content=instance("1.2", 1))
    put(anywhere, "b/IM2.DCM", content=instance("1.3", 1))
    put(anywhere, "c", content=instance("1.2", 2, ViewPosition="LL"))
    every = studies(anywhere)
    assert {study_id: len(study.views) for study_id, study in every.items()} == {"1.2": 2, "1.3": 1}
    assert [view.view_position for view in every["1.2"].views] == ["PA", "LL"]
    assert [view.sop_instance_uid for view in every["1.2"].views] == ["1.2.1", "1.2.2"]


@pytest.mark.parametrize("pack", [tar_gz, zipped])
def test_dicom_files_in_a_container_are_read_where_they_lie(anywhere, pack):
    files = {"p/IM1": instance("1.2", 1), "p/IM2": instance("1.3", 1)}
    put(anywhere, "batch.zip" if pack is zipped else "batch.tar.gz", content=pack(files))
    assert why(anywhere) == ("dicom", "2 of 2 files that were looked into begin as DICOM")
    assert set(studies(anywhere)) == {"1.2", "1.3"}


def test_auto_goes_by_names_first_and_looks_into_few_files_where_those_say_nothing(tmp_path, monkeypatch):
    put(str(tmp_path / "named"), *(f"{n}.dicom" for n in range(3)), content=instance("1.2", 1))
    put(str(tmp_path / "named"), "train.csv", content=b"")
    assert why(str(tmp_path / "named")) == ("dicom", "3 of 4 files are named as DICOM")
    put(str(tmp_path / "bare"), *(f"IM{n:04}" for n in range(50)), content=instance("1.2", 1))
    sizes = []
    read = storage.read
    monkeypatch.setattr(storage, "read", lambda *where: sizes.append(where[2]) or read(*where))
    assert why(str(tmp_path / "bare"))[0] == "dicom"
    assert sizes == [256] * 8


def test_only_the_first_bytes_of_a_file_are_read(tmp_path, monkeypatch):
    large = dicom(np.zeros((1000, 1000), np.uint16), bits=12)
    put(str(tmp_path), "IM1", content=large)
    read, total = storage.read, []
    monkeypatch.setattr(storage, "read", lambda *where: total.append(len(read(*where))) or read(*where))
    assert studies(str(tmp_path), "dicom")
    assert sum(total) == 16 << 10 < len(large) / 100


def test_a_header_longer_than_the_first_bytes_is_read_whole(tmp_path):
    data = instance("1.2", 1, PatientComments="x" * 10_000, AdditionalPatientHistory="y" * 10_000)
    put(str(tmp_path), "IM1", content=data)
    assert studies(str(tmp_path), "dicom")["1.2"].views[0].sop_instance_uid == "1.2.1"


def test_a_patient_id_counts_with_its_issuer(tmp_path):
    put(str(tmp_path), "IM1", content=instance("1.2", 1, IssuerOfPatientID="HOSPITAL"))
    put(str(tmp_path), "IM2", content=instance("1.3", 1))
    put(str(tmp_path), "IM3", content=instance("1.4", 1, PatientID=""))
    assert [study.patient_id for study in studies(str(tmp_path)).values()] == ["4711^^^HOSPITAL", "4711", None]


def test_age_and_sex_are_those_of_the_header(tmp_path):
    put(str(tmp_path), "IM1", content=instance("1.2", 1, PatientAge="006M", PatientSex="F"))
    put(str(tmp_path), "IM2", content=instance("1.3", 1))
    first, second = studies(str(tmp_path)).values()
    assert (first.patient_age, first.patient_sex) == (0.5, "F")
    assert (second.patient_age, second.patient_sex) == (None, None)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"PixelSpacing": [0.2, 0.1]}, (0.2, 0.1)),
        ({"PixelSpacing": [0, 0], "ImagerPixelSpacing": [0.14, 0.14]}, (0.14, 0.14)),
        ({"ImagerPixelSpacing": [0.14, 0.14]}, (0.14, 0.14)),
        ({"PixelSpacing": [0.2, 0.1], "ImagerPixelSpacing": [0.14, 0.14]}, (0.2, 0.1)),
        ({}, None),
    ],
)
def test_the_spacing_of_the_detector_counts_where_there_is_no_other(tmp_path, tags, expected):
    put(str(tmp_path), "IM1", content=instance("1.2", 1, **tags))
    assert studies(str(tmp_path))["1.2"].views[0].pixel_spacing_mm == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("PA", "PA"),
        ("AP SUPINE", "AP"),
        ("LL", "LL"),
        ("RL", "RL"),
        ("LATERAL", "LATERAL"),
        ("LARGE LATERAL", "LATERAL"),
        ("L", "LATERAL"),
        ("RLD", None),
        (None, None),
    ],
)
def test_view_positions_are_those_of_the_study_table(text, expected):
    assert view_position(text) == expected


def test_what_is_no_radiograph_is_skipped_with_a_reason(tmp_path):
    put(str(tmp_path), "good", content=instance("1.2", 1))
    put(str(tmp_path), "ct", content=instance("1.3", 1, Modality="CT"))
    put(str(tmp_path), "mr", content=instance("1.3", 2, Modality="MR"))
    put(str(tmp_path), "report", content=dicom(Modality="SR", SOPInstanceUID="1.3.3"))
    put(str(tmp_path), "pixelless", content=dicom(SOPInstanceUID="1.3.4"))
    put(str(tmp_path), "nameless", content=dicom(RAMP, StudyInstanceUID=None, SOPInstanceUID="1.3.5"))
    put(str(tmp_path), "copy", content=instance("1.2", 1, ViewPosition="AP"))
    put(str(tmp_path), "readme.txt", content=b"These are radiographs.")
    put(str(tmp_path), "nothing", content=b"")
    put(str(tmp_path), "IM2.dcm.part", ".azDownload-1-IM3", ".DS_Store", content=instance("1.4", 1))
    assert reasons(str(tmp_path)) == {
        "ct": "not_chest",
        "mr": "not_chest",
        "report": "not_chest",
        "pixelless": "no_pixel_data",
        "nameless": "no Study Instance UID (0020,000D)",
        "good": "duplicate_instance",
        "readme.txt": "not DICOM",
        "nothing": "empty",
        "IM2.dcm.part": "unfinished download",
    }
    assert studies(str(tmp_path), "dicom")["1.2"].views[0].url.endswith("/copy")


def test_of_one_instance_the_first_by_name_stays(anywhere):
    for name in ("b", "a/z", "c"):
        put(anywhere, name, content=instance("1.2", 1))
    [study] = studies(anywhere).values()
    assert [view.url.removeprefix(anywhere) for view in study.views] == ["/a/z"]


def test_another_body_part_is_catalogued_for_scoring_to_reject(tmp_path):
    put(str(tmp_path), "IM1", content=instance("1.2", 1, BodyPartExamined="HAND"))
    assert set(studies(str(tmp_path))) == {"1.2"}


def test_the_real_dicom_files_are_four_studies_and_one_ct(real_data: Path):
    archive = str(real_data / "dicom")
    every = studies(archive)
    assert len(every) == 4
    assert sorted(len(study.views) for study in every.values()) == [1, 1, 1, 2]
    assert reasons(archive) == {"CT1_J2KR": "not_chest", "Fake_MONOHR1.dcm": "duplicate_instance"}
    assert why(archive)[0] == "dicom"
    assert len(found(archive)) == 6


@pytest.mark.parametrize("name", ["no_pixels.dcm", "truncated.dcm", "not_dicom.dcm"])
def test_a_real_bad_file_is_no_study(real_data: Path, tmp_path: Path, name):
    """An RT plan, an MR slice, 300 zeros."""
    put(str(tmp_path), "good", content=instance("1.2", 1))
    put(str(tmp_path), name, content=(real_data / "bad" / name).read_bytes())
    assert set(studies(str(tmp_path), "dicom")) == {"1.2"}
    assert name in reasons(str(tmp_path))

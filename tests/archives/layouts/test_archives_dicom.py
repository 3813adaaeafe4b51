"""DICOM in any tree: the header says what a file is, and only as much of a file is read as holds it."""

from pathlib import Path

import numpy as np
import pytest
from builders import tar_gz, zipped
from catalogued import found, put, rest, studies, why
from dicoms import dicom
from pydicom.dataset import Dataset

from cxrpipe import storage
from cxrpipe.archives.index import index
from cxrpipe.archives.layouts.base import Remark, Skipped
from cxrpipe.records.study_table import StudyTable

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


def code(value: str, scheme: str, meaning: str) -> list[Dataset]:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return [item]


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"ViewPosition": "AP SUPINE"}, "AP"),
        ({"ViewPosition": "SEITLICH"}, "LATERAL"),
        ({"ViewPosition": "RLD"}, None),
        ({"ViewPosition": None}, None),
        ({"ViewPosition": "", "ViewCodeSequence": code("399173006", "SCT", "von links")}, "LL"),
        ({"ViewPosition": "", "ViewCodeSequence": code("R-10206", "SNM3", "")}, "AP"),
        ({"ViewPosition": None, "ViewCodeSequence": code("7", "99MINE", "Postero-anterior")}, "PA"),
        ({"ViewPosition": "PA", "ViewCodeSequence": code("399173006", "SCT", "left lateral")}, "PA"),
        ({"ViewPosition": "", "PatientOrientation": ["A", "F"]}, "LATERAL"),
        ({"ViewPosition": "", "PatientOrientation": ["F", "P"]}, "LATERAL"),
        ({"ViewPosition": "", "PatientOrientation": ["L", "F"], "SeriesDescription": "Thorax lateral"}, None),
        ({"ViewPosition": "", "SeriesDescription": "Thorax lateral"}, "LATERAL"),
        ({"ViewPosition": "", "SeriesDescription": "CHEST PA AND LATERAL"}, None),
    ],
)
def test_a_view_is_where_the_header_names_it(tmp_path, tags, expected):
    put(str(tmp_path), "IM1", content=instance("1.2", 1, **tags))
    assert studies(str(tmp_path))["1.2"].views[0].view_position == expected


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
        "IM2.dcm.part": "unfinished_download",
        ".azDownload-1-IM3": "hidden",
        ".DS_Store": "hidden",
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


def patients(folder: str, *tags: dict[str, object], same_instance: bool = False) -> str:
    """Files that share a Study Instance UID; `same_instance`: and the SOP Instance UID."""
    for number, each in enumerate(tags):
        put(folder, f"IM{number}", content=instance("1.2", 1 if same_instance else number, **each))
    return folder


@pytest.mark.parametrize("same_instance", [False, True])
def test_patients_who_share_a_study_uid_are_kept_apart_and_named(anywhere, same_instance):
    tags = [{"PatientID": "A"}, {"PatientID": "B", "PatientSex": "M"}, {"PatientID": "A", "ViewPosition": "AP"}]
    archive = patients(anywhere, *tags, {"PatientID": None}, same_instance=same_instance)
    every = {name: (s.patient_id, len(s.views)) for name, s in studies(archive).items()}
    assert every == {"1.2/A": ("A", 1 if same_instance else 2), "1.2/B": ("B", 1), "1.2/-": (None, 1)}
    assert sorted(remark.example for remark in rest(archive) if isinstance(remark, Remark)) == [
        "1.2/-",
        "1.2/A",
        "1.2/B",
    ]


@pytest.mark.parametrize(
    "other",
    [{"PatientSex": "M"}, {"PatientBirthDate": "19700101"}, {"PatientAge": "020Y"}],
    ids=["sex", "birth date", "age"],
)
@pytest.mark.parametrize("patient", ["ANON", None])
def test_people_who_share_a_study_uid_and_a_patient_id_are_kept_apart(tmp_path, patient, other):
    person = {"PatientID": patient, "PatientSex": "F", "PatientBirthDate": "19500101", "PatientAge": "070Y"}
    archive = patients(str(tmp_path), person, person | other, person, same_instance=False)
    every = studies(archive)
    assert sorted(len(study.views) for study in every.values()) == [1, 2]
    assert all(name.startswith(f"1.2/{patient or '-'}/") for name in every)
    assert "19500101" not in str(every)


def test_what_a_header_leaves_out_contradicts_nothing(tmp_path):
    tags = [{"PatientSex": "F", "PatientAge": "050Y"}, {"PatientAge": "051Y"}, {"PatientID": None}, {"PatientSex": "O"}]
    [study] = studies(patients(str(tmp_path), *tags)).values()
    assert (study.study_id, study.patient_id, study.patient_sex, len(study.views)) == ("1.2", "4711", "F", 4)


@pytest.mark.parametrize("hidden", [False, True], ids=["plain", "pseudonyms"])
def test_studies_kept_apart_are_the_same_in_a_later_index(tmp_path, hidden):
    archive = patients(
        str(tmp_path / "a"), {"PatientID": "A"}, {"PatientID": "B"}, {"PatientID": "B", "PatientSex": "M"}
    )
    secret = tmp_path / "key"
    secret.write_bytes(bytes(range(32)))
    secret.chmod(0o600)
    settings = {"pseudonymise": str(secret)} if hidden else {}
    index(archive, str(tmp_path / "first" / "studies.parquet"), **settings)
    put(archive, "IM9", content=instance("1.2", 9, PatientID="B", PatientSex="F"))
    previous = str(tmp_path / "first" / "studies.parquet")
    index(archive, str(tmp_path / "later" / "studies.parquet"), previous=previous, **settings)
    index(archive, str(tmp_path / "fresh" / "studies.parquet"), **settings)
    later, fresh = (list(StudyTable(str(tmp_path / n / "studies.parquet")).studies()) for n in ("later", "fresh"))
    assert later == fresh
    assert len({study.study_id for study in later}) == 4  # of patient B a woman, a man, and a film without a sex
    assert any("1.2/A" in study.study_id for study in later) is not hidden


def test_a_raw_exposure_beside_its_finished_film_is_skipped(tmp_path):
    put(str(tmp_path), "finished", content=instance("1.2", 1, PresentationIntentType="FOR PRESENTATION"))
    put(str(tmp_path), "raw", content=instance("1.2", 2, PresentationIntentType="FOR PROCESSING"))
    put(str(tmp_path), "class", content=instance("1.2", 3, SOPClassUID="1.2.840.10008.5.1.4.1.1.1.1.1"))
    put(
        str(tmp_path), "lateral", content=instance("1.2", 4, PresentationIntentType="FOR PROCESSING", ViewPosition="LL")
    )
    [study] = studies(str(tmp_path)).values()
    assert [view.url.rpartition("/")[2] for view in study.views] == ["finished", "lateral"]
    assert reasons(str(tmp_path)) == {"raw": "for_processing", "class": "for_processing"}
    assert [remark.example for remark in rest(str(tmp_path)) if isinstance(remark, Remark)] == ["1.2"]


@pytest.mark.parametrize(
    ("tags", "is_study"),
    [
        ({"Modality": ["CR", "DX"]}, True),
        ({"Modality": "DR"}, True),
        ({"Modality": ""}, True),
        ({"Modality": None, "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1"}, True),
        ({"Modality": "", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, True),
        ({"Modality": "OT"}, True),
        ({"Modality": "", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}, False),
        ({"Modality": "OT", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, False),
        ({"Modality": "MG"}, False),
    ],
)
def test_a_radiograph_is_known_by_its_modality_or_else_by_its_class(tmp_path, tags, is_study):
    put(str(tmp_path), "IM1", content=instance("1.2", 1, **tags))
    assert ("1.2" in studies(str(tmp_path), "dicom")) is is_study


def test_a_modality_in_small_letters_is_the_same(tmp_path):
    small = instance("1.2", 1).replace(b"CS\x02\x00CR", b"CS\x02\x00cr")
    assert b"cr" in small
    assert set(studies(put(str(tmp_path), "IM1", content=small), "dicom")) == {"1.2"}


def test_few_dicom_files_without_suffix_are_found_among_others(tmp_path):
    put(str(tmp_path), "a/IM1", content=instance("1.2", 1))
    put(str(tmp_path), *(f"a/{n}.xml" for n in range(40)), *(f"a/{n}.jpg" for n in range(3)), content=b"<x/>")
    assert why(str(tmp_path)) == ("dicom", "1 of 1 files that were looked into begin as DICOM")


def test_an_impossible_age_is_unknown_and_counted(tmp_path):
    put(str(tmp_path), "IM1", content=instance("1.2", 1, PatientAge="999Y"))
    assert studies(str(tmp_path))["1.2"].patient_age is None
    assert [each.example for each in rest(str(tmp_path))] == ["1.2"]


def test_a_frontal_and_a_lateral_film_of_one_sop_uid_are_two_views(tmp_path):
    [study] = studies(patients(str(tmp_path), {}, {"ViewPosition": "LL"}, {}, same_instance=True)).values()
    assert [view.view_position for view in study.views] == ["PA", "LL"]

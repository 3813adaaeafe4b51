"""NIH ChestX-ray14: labels, patients and splits as its own table and lists say."""

import csv
from collections import Counter
from pathlib import Path

import pytest
from builders import tar
from catalogued import IMAGE, NIH_ROWS, found, nih, put, rest, splits_of_patients, studies

from cxrpipe import storage
from cxrpipe.archives.layouts.base import CONTRADICTION, Remark, Skipped, Unmatched
from cxrpipe.errors import ConfigError
from cxrpipe.storage import join


def test_nih_studies_are_named_by_their_images(anywhere):
    assert list(studies(nih(anywhere))) == [name.removesuffix(".png") for name in NIH_ROWS]


def test_nih_patients_are_the_first_eight_digits(anywhere):
    patients = [study.patient_id for study in studies(nih(anywhere)).values()]
    assert patients == ["00000001", "00000001", "00000002", "00000013"]


def test_nih_labels_are_those_of_the_table(tmp_path):
    present = {
        study_id: {finding for finding, label in study.labels.items() if label}
        for study_id, study in studies(nih(str(tmp_path))).items()
    }
    assert present == {
        "00000001_000": {"Cardiomegaly"},
        "00000001_001": {"Cardiomegaly", "Emphysema"},
        "00000002_000": set(),
        "00000013_005": {"Pleural_Thickening"},
    }


def test_nih_studies_have_all_fourteen_findings_and_no_other(tmp_path):
    for study in studies(nih(str(tmp_path))).values():
        assert len(study.labels) == 14
        assert set(study.labels.values()) <= {0.0, 1.0}


def test_nih_age_sex_and_view_are_read(tmp_path):
    facts = [(s.patient_age, s.patient_sex, s.views[0].view_position) for s in studies(nih(str(tmp_path))).values()]
    assert facts == [(58, "M", "PA"), (59, "M", "PA"), (81, "F", "AP"), (0.5, "F", None)]


def test_an_nih_image_without_a_row_is_a_study_of_which_nothing_is_known(tmp_path):
    study = studies(nih(str(tmp_path), images=["00000099_000.png"]))["00000099_000"]
    assert set(study.labels.values()) == {None}
    assert (study.patient_id, study.patient_age) == ("00000099", None)


def test_nih_rows_without_an_image_are_labels_without_a_file(tmp_path):
    assert rest(nih(str(tmp_path), images=["00000002_000.png"])) == [
        Unmatched("00000001_000"),
        Unmatched("00000001_001"),
        Unmatched("00000013_005"),
    ]


def test_a_foreign_png_in_an_nih_archive_is_skipped(tmp_path):
    [skipped] = rest(nih(str(tmp_path), images=[*NIH_ROWS, "montage.png"]))
    assert isinstance(skipped, Skipped)
    assert skipped.entry == "images/montage.png"


def test_the_second_of_two_equal_names_is_skipped(tmp_path):
    put(nih(str(tmp_path)), "images_002.tar", content=tar({"images/00000002_000.png": IMAGE}))
    [skipped] = rest(str(tmp_path))
    assert skipped == Skipped(str(tmp_path / "images_002.tar"), "images/00000002_000.png", "duplicate_instance")


def test_the_official_lists_are_kept_and_valid_is_cut_out_of_train_by_patient(tmp_path):
    names = [f"{patient:08}_{visit:03}.png" for patient in range(1, 81) for visit in range(2)]
    lists = {"train_val_list": names[:120], "test_list": names[120:]}
    parts = splits_of_patients(nih(str(tmp_path), images=names, rows=dict.fromkeys(names, "Mass,0,1,1,F,PA"), **lists))
    assert all(len(part) == 1 for part in parts.values())
    assert {patient for patient, part in parts.items() if part == {"test"}} == {f"{n:08}" for n in range(61, 81)}
    assert 1 <= sum(part == {"valid"} for part in parts.values()) <= 20


def test_an_image_that_no_official_list_names_goes_with_its_patient(tmp_path):
    archive = nih(str(tmp_path), test_list=["00000001_000.png"], train_val_list=["00000002_000.png"])
    assert studies(archive)["00000001_001"].split == "test"


def test_without_lists_patients_are_split_by_hash(tmp_path):
    names = [f"{patient:08}_{visit:03}.png" for patient in range(1, 61) for visit in range(2)]
    archive = nih(str(tmp_path), images=names, rows=dict.fromkeys(names, "Mass,0,1,1,F,PA"))
    parts = splits_of_patients(archive)
    assert all(len(part) == 1 for part in parts.values())
    assert Counter(next(iter(part)) for part in parts.values()).keys() == {"train", "valid", "test"}
    assert parts != splits_of_patients(archive, seed=1)


def test_the_unpacked_nih_archive_is_the_same(anywhere):
    """As Kaggle has it: images_001/images/*.png."""
    packed = studies(nih(join(anywhere, "packed")))
    storage.delete(join(nih(join(anywhere, "unpacked")), "images_001.tar.gz"))
    put(join(anywhere, "unpacked"), *(f"images_00{number}/images/{name}" for number, name in enumerate(NIH_ROWS)))
    unpacked = studies(join(anywhere, "unpacked"))
    assert list(unpacked) == list(packed)
    assert [(s.labels, s.split, s.patient_id) for s in unpacked.values()] == [
        (s.labels, s.split, s.patient_id) for s in packed.values()
    ]
    assert {study.views[0].entry for study in unpacked.values()} == {None}


def test_rows_of_one_image_that_disagree_are_unknown_where_they_do(tmp_path):
    archive = nih(str(tmp_path))
    table = join(archive, "Data_Entry_2017_v2020.csv")
    storage.write(table, storage.read(table) + b"\n00000001_000.png,Cardiomegaly|Mass,0,1,40,M,PA,,,,")
    study = studies(archive)["00000001_000"]
    assert (study.labels["Cardiomegaly"], study.labels["Mass"], study.labels["Edema"]) == (1, None, 0)
    assert (study.patient_age, study.patient_sex) == (None, "M")
    assert rest(archive) == [Remark(CONTRADICTION, "00000001_000")]


def test_an_age_that_nobody_reaches_is_unknown_and_counted(tmp_path):
    archive = nih(str(tmp_path), rows={"00000001_000.png": "Mass,0,1,411Y,M,PA"}, images=["00000001_000.png"])
    assert studies(archive)["00000001_000"].patient_age is None
    assert rest(archive) == [Remark("ages below 0 or above 120 years: taken as unknown", "00000001_000")]


@pytest.mark.parametrize(
    "listed",
    [
        b"\xef\xbb\xbf00000001_000.png\r\n00000001_001.png\r\n",
        b"00000001_000.png\r00000001_001.png",
        "00000001_000.png\n00000001_001.png\n".encode("utf-16"),
        b'"images\\00000001_000.png","images\\00000001_001.png"',
        b"00000001_000\n00000001_001\n",
    ],
    ids=["BOM", "CR", "UTF-16", "Windows", "stems"],
)
def test_a_list_is_read_as_editors_write_it(tmp_path, listed):
    put(nih(str(tmp_path)), "test_list.txt", content=listed)
    assert {studies(str(tmp_path), seed=seed)["00000001_001"].split for seed in range(6)} == {"test"}


@pytest.mark.parametrize(
    ("listed", "message"), [(b"", "it is empty"), (b"Image Index\n", "'Image'; expected names like")]
)
def test_a_list_of_no_images_is_refused(tmp_path, listed, message):
    put(nih(str(tmp_path)), "test_list.txt", content=listed)
    with pytest.raises(ConfigError, match=message):
        found(str(tmp_path))


def test_a_patient_in_both_lists_is_in_test(tmp_path):
    archive = nih(str(tmp_path), test_list=["00000001_000.png"], train_val_list=["00000001_001.png"])
    assert splits_of_patients(archive)["00000001"] == {"test"}
    assert Remark("patients stand in both lists: taken as test", "00000001") in rest(archive)


def test_an_nih_table_with_another_finding_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="Broken_Rib"):
        found(nih(str(tmp_path), rows={"00000001_000.png": "Broken_Rib,0,1,1,F,PA"}))


def test_an_nih_table_with_other_columns_is_refused(tmp_path):
    put(str(tmp_path), "Data_Entry_2017.csv", content=b"id,labels\n1,Mass\n")
    with pytest.raises(
        ConfigError, match="no column Image Index and no column Finding Labels; the header in line 1 reads 'id,labels'"
    ):
        found(put(str(tmp_path), "00000001_000.png"))


def test_nih_asked_for_without_its_table_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"no Data_Entry_2017\*\.csv"):
        found(put(str(tmp_path), "images/00000001_000.png"), "nih")


@pytest.mark.slow
def test_the_real_nih_archive(real_data: Path):
    every = studies(str(real_data / "nih"))
    assert len(every) == 220
    assert len({study.patient_id for study in every.values()}) == 141
    with (real_data / "nih" / "Data_Entry_2017_v2020.csv").open(newline="") as file:
        rows = {row["Image Index"]: row for row in csv.DictReader(file)}
    for study_id, study in every.items():
        row = rows[f"{study_id}.png"]
        present = [name for name, label in study.labels.items() if label]
        names = row["Finding Labels"].replace("Effusion", "Pleural_Effusion").split("|")
        assert sorted(present) == sorted(set(names) - {"No Finding"})
        assert int(study.patient_id or 0) == int(row["Patient ID"])
    tested = (real_data / "nih" / "test_list.txt").read_text().split()
    assert {f"{s}.png" for s, study in every.items() if study.split == "test"} == set(tested)

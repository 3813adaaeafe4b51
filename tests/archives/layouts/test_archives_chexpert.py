"""CheXpert: several views are one study, and a study's labels are those of its own rows."""

import csv
import io

import pytest
from builders import zipped
from catalogued import IMAGE, found, put, rest, splits_of_patients, studies

from cxrpipe.archives.layouts.base import CONTRADICTION, Remark, Skipped, Unmatched
from cxrpipe.archives.layouts.chexpert import COLUMNS
from cxrpipe.errors import ConfigError
from cxrpipe.storage import join

HEADER = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", "No Finding", *COLUMNS]
SMALL = "CheXpert-v1.0-small"
PATIENT_1 = "train/patient00001/study1/view1_frontal.jpg"
TRAIN = {
    PATIENT_1: "Female,68,Frontal,AP,1.0,,,,,,,,,0.0,,,,1.0",
    "train/patient00002/study1/view1_frontal.jpg": "Male,87,Frontal,PA,,,-1.0,1.0,,-1.0,-1.0,,-1.0,,-1.0,,1.0,",
    "train/patient00002/study1/view2_lateral.jpg": "Male,87,Lateral,,,,-1.0,1.0,,-1.0,-1.0,,-1.0,,-1.0,,1.0,",
    "train/patient00002/study2/view1_frontal.jpg": "Male,83,Frontal,LL,,,,1.0,,,-1.0,,,,,,1.0,",
    "train/patient00003/study1/view1_frontal.jpg": "Unknown,0,Frontal,RL,,,,,,1.0,,,,0.0,,,,",
    "train/patient00004/study1/view1_lateral.jpg": "Female,90,Lateral,,1.0" + ",0.0" * 13,
}
VALID = {
    "valid/patient64541/study1/view1_frontal.jpg": "Male,73,Frontal,AP,0,1,1,1,0,0,0,0,0,0,0,0,0,0",
    "valid/patient64542/study1/view1_frontal.jpg": "Male,70,Frontal,PA,0,0,0,0,0,0,0,0,0,0,0,0,0,1",
    "valid/patient64542/study1/view2_lateral.jpg": "Male,70,Lateral,,0,0,0,0,0,0,0,0,0,0,0,0,0,1",
}


def table(rows: dict[str, str], prefix: str = SMALL) -> bytes:
    return "\n".join([",".join(HEADER), *(f"{prefix}/{path},{row}" for path, row in rows.items())]).encode()


def small(folder: str, *, train: dict[str, str] = TRAIN, images: list[str] | None = None) -> str:
    """The url of CheXpert-v1.0-small.zip, as it is published."""
    files = {f"{SMALL}/{name}": IMAGE for name in (images or [*train, *VALID])}
    files |= {f"{SMALL}/train.csv": table(train), f"{SMALL}/valid.csv": table(VALID)}
    return join(put(folder, f"{SMALL}.zip", content=zipped(files)), f"{SMALL}.zip")


def full(folder: str) -> str:
    """The four zips of AIMI; the tables lie in the first, and the parts of train have no folder of that name."""
    batches = ["batch 1 (validate & csv)", "batch 2 (train 1)", "batch 3 (train 2)", "batch 4 (train 3)"]
    files: dict[str, dict[str, bytes]] = {f"CheXpert-v1.0 {batch}": {} for batch in batches}
    first, *rest = files
    files[first] = {f"{first}/{name}": IMAGE for name in VALID}
    files[first] |= {f"{first}/train.csv": table(TRAIN, "CheXpert-v1.0"), f"{first}/valid.csv": table(VALID, "any")}
    for number, name in enumerate(TRAIN):
        batch = rest[number * len(rest) // len(TRAIN)]
        files[batch][f"{batch}/{name.removeprefix('train/')}"] = IMAGE
    for batch, entries in files.items():
        put(folder, f"{batch}.zip", content=zipped(entries))
    return folder


def facts(archive: str) -> list[tuple]:
    return [
        (s.study_id, s.patient_id, s.split, s.labels, s.patient_age, [view.view_position for view in s.views])
        for _, s in sorted(studies(archive).items())
    ]


def test_several_views_are_one_study_of_one_patient(anywhere):
    every = studies(small(anywhere))
    assert {study_id: len(study.views) for study_id, study in every.items()} == {
        "patient00001/study1": 1,
        "patient00002/study1": 2,
        "patient00002/study2": 1,
        "patient00003/study1": 1,
        "patient00004/study1": 1,
        "patient64541/study1": 1,
        "patient64542/study1": 2,
    }
    assert every["patient00002/study2"].patient_id == "patient00002"


def test_the_four_zips_of_the_full_set_hold_the_same_studies(tmp_path):
    assert facts(full(str(tmp_path / "full"))) == facts(small(str(tmp_path / "small")))
    assert rest(str(tmp_path / "full")) == []


def test_labels_are_kept_raw_and_no_finding_is_none(tmp_path):
    every = studies(small(str(tmp_path)))
    assert every["patient00002/study1"].labels == {
        "Enlarged_Cardiomediastinum": None,
        "Cardiomegaly": -1,
        "Lung_Opacity": 1,
        "Lung_Lesion": None,
        "Edema": -1,
        "Consolidation": -1,
        "Pneumonia": None,
        "Atelectasis": -1,
        "Pneumothorax": None,
        "Pleural_Effusion": -1,
        "Pleural_Other": None,
        "Fracture": 1,
        "Support_Devices": None,
    }
    assert set(every["patient00004/study1"].labels.values()) == {0.0}
    assert every["patient64541/study1"].labels["Cardiomegaly"] == 1


def test_a_study_has_the_labels_of_its_own_rows_and_of_no_other_study(tmp_path):
    """torchxrayvision joins a patient's studies: 18.7% of its rows have labels that no study has."""
    rows = list(csv.DictReader(io.StringIO((table(TRAIN) + b"\n" + table(VALID).partition(b"\n")[2]).decode())))
    every = studies(small(str(tmp_path)))
    for row in rows:
        study_id = "/".join(row["Path"].split("/")[2:4])
        raw = {name.replace(" ", "_"): float(row[name]) if row[name] else None for name in COLUMNS}
        assert every[study_id].labels == raw


def test_laterals_and_rare_codes_are_told_apart(tmp_path):
    positions = {
        study_id: [view.view_position for view in s.views] for study_id, s in studies(small(str(tmp_path))).items()
    }
    assert positions["patient00001/study1"] == ["AP"]
    assert positions["patient00002/study1"] == ["PA", "LATERAL"]
    assert positions["patient00002/study2"] == ["LL"]
    assert positions["patient00003/study1"] == ["RL"]
    assert positions["patient00004/study1"] == ["LATERAL"]


def test_ages_are_raw_and_an_unknown_sex_is_unknown(tmp_path):
    people = {study_id: (s.patient_age, s.patient_sex) for study_id, s in studies(small(str(tmp_path))).items()}
    assert people["patient00001/study1"] == (68, "F")
    assert people["patient00003/study1"] == (0, None)
    assert people["patient00004/study1"] == (90, "F")
    assert people["patient64541/study1"] == (73, "M")


def test_the_two_parts_are_kept_as_published_whatever_the_seed(tmp_path):
    parts = splits_of_patients(small(str(tmp_path)), seed=5)
    assert parts == {
        **{f"patient0000{number}": {"train"} for number in range(1, 5)},
        "patient64541": {"valid"},
        "patient64542": {"valid"},
    }


def test_the_test_part_that_was_published_later_is_the_test_part(tmp_path):
    test = "test/patient64741/study1/view1_frontal.jpg"
    put(str(tmp_path), "test.csv", content=f"Path,Pneumonia\n{test},1".encode())
    study = studies(put(str(tmp_path), test))["patient64741/study1"]
    assert (study.split, study.labels["Pneumonia"], study.labels["Edema"]) == ("test", 1, None)


def test_images_without_tables_go_by_their_folders(tmp_path):
    every = studies(put(str(tmp_path), *TRAIN, *VALID))
    assert (every["patient64541/study1"].split, every["patient00001/study1"].split) == ("valid", "train")
    assert set(every["patient00001/study1"].labels.values()) == {None}
    assert [view.view_position for view in every["patient00002/study1"].views] == [None, "LATERAL"]


def test_a_study_without_a_row_goes_with_its_patient(tmp_path):
    study = studies(small(str(tmp_path), images=[*VALID, "patient64541/study2/view1_frontal.jpg"]))[
        "patient64541/study2"
    ]
    assert study.split == "valid"
    assert set(study.labels.values()) == {None}


def test_rows_without_an_image_are_labels_without_a_file(tmp_path):
    left = rest(small(str(tmp_path), images=[*VALID, PATIENT_1]))
    assert left == [Unmatched(f"patient0000{name}") for name in ("2/study1", "2/study2", "3/study1", "4/study1")]


def test_a_view_that_is_there_twice_is_skipped(tmp_path):
    """As where the small and the full set lie side by side."""
    small(str(tmp_path))
    full(str(tmp_path))
    assert len(studies(str(tmp_path))) == 7
    assert [skipped.reason for skipped in rest(str(tmp_path)) if isinstance(skipped, Skipped)] == [
        "duplicate_instance"
    ] * 9 + ["not_an_image_file"] * 2


def test_another_picture_in_the_archive_is_skipped(tmp_path):
    [skipped] = rest(small(str(tmp_path), images=[*TRAIN, *VALID, "figure.png"]))
    assert skipped == Skipped(str(tmp_path / f"{SMALL}.zip"), f"{SMALL}/figure.png", "not named as a CheXpert image")


def test_what_the_rows_of_a_study_disagree_on_is_unknown_and_counted(tmp_path):
    rows = {
        "train/patient00002/study1/view1_frontal.jpg": "Male,87,Frontal,PA,,,-1.0,1.0,,,,,,,,,,",
        "train/patient00002/study1/view2_lateral.jpg": "Male,57,Lateral,,,,0.0,1.0,,,,,,,,,,",
    }
    archive = small(str(tmp_path), train=TRAIN | rows)
    study = studies(archive)["patient00002/study1"]
    assert {name: label for name, label in study.labels.items() if label is not None} == {"Lung_Opacity": 1}
    assert (study.patient_age, study.patient_sex) == (None, "M")
    assert rest(archive) == [Remark(CONTRADICTION, "patient00002/study1")]


def test_a_patient_in_two_tables_is_held_out_of_training(tmp_path):
    again = {"train/patient64541/study2/view1_frontal.jpg": "Male,73,Frontal,AP" + ",0" * 14}
    assert splits_of_patients(small(str(tmp_path), train=TRAIN | again))["patient64541"] == {"valid"}


def test_a_table_of_another_program_is_read(tmp_path):
    header, _, rows = table(TRAIN).decode().partition("\n")
    text = "\r\n".join([f" {header.upper()}", *rows.splitlines()]).replace(",", ";")
    put(str(tmp_path), "train.csv", content=text.encode("utf-16"))
    every = studies(put(str(tmp_path), *TRAIN))
    assert every["patient00002/study1"].labels["Cardiomegaly"] == -1
    assert (every["patient00001/study1"].patient_age, every["patient00001/study1"].patient_sex) == (68, "F")


def test_paths_of_windows_are_read(tmp_path):
    put(
        str(tmp_path),
        "train.csv",
        content=rb"Path,Pneumonia" + b"\r\n" + rb"D:\CheXpert\train\patient00001\study1\view1_frontal.jpg,1",
    )
    assert studies(put(str(tmp_path), PATIENT_1))["patient00001/study1"].labels["Pneumonia"] == 1


@pytest.mark.parametrize(
    ("path", "row", "message"),
    [
        ("somewhere/else.jpg", TRAIN[PATIENT_1], "expected …/patient00001/study1/view1_frontal"),
        (PATIENT_1, TRAIN[PATIENT_1].replace("1.0", "2.0"), "label '2.0'; expected 1, 0, -1"),
    ],
)
def test_a_table_that_cannot_be_chexperts_is_refused(tmp_path, path, row, message):
    with pytest.raises(ConfigError, match=message):
        found(small(str(tmp_path), train=TRAIN | {path: row}))

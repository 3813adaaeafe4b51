"""Class folders: the folder is the label, and a patient stays in one split."""

from collections import Counter, defaultdict
from pathlib import Path

import pytest
from builders import zipped
from catalogued import IMAGE, KERMANY, found, kermany, put, rest, splits_of_patients, studies

from cxrpipe.errors import ConfigError
from cxrpipe.storage import join


def test_normal_and_pneumonia_are_one_finding(anywhere):
    labels = [study.labels for study in studies(put(anywhere, *kermany("train"))).values()]
    assert labels == [{"Pneumonia": float(label)} for label in (0, 0, 1, 1, 1)]


def test_kermany_patients_are_numbered_apart_for_bacteria_and_virus(tmp_path):
    patients = [study.patient_id for study in studies(put(str(tmp_path), *kermany("train"))).values()]
    assert patients == ["IM-0115", "IM-0116", "person12_bacteria", "person12_bacteria", "person12_virus"]


def test_a_study_of_a_class_folder_is_named_by_its_path(tmp_path):
    names = ["a/NORMAL/x.png", "a/PNEUMONIA/x.png"]
    assert list(studies(put(str(tmp_path), *names))) == ["a/NORMAL/x", "a/PNEUMONIA/x"]


def test_an_archive_in_a_zip_is_the_same_archive(anywhere):
    put(join(anywhere, "tree"), *kermany("train", "test"))
    put(anywhere, "x.zip", content=zipped(dict.fromkeys(sorted(kermany("train", "test")), IMAGE)))
    tree, packed = studies(join(anywhere, "tree")), studies(join(anywhere, "x.zip"))
    assert [(s.study_id, s.labels, s.split) for s in packed.values()] == [
        (s.study_id, s.labels, s.split) for s in tree.values()
    ]


def test_an_official_test_folder_is_kept_and_valid_is_cut_out_of_train(tmp_path):
    put(str(tmp_path), *kermany("train", "TEST"))
    put(str(tmp_path), *(f"chest_xray/train/NORMAL/IM-{number:04}-0001.jpeg" for number in range(200, 280)))
    counts = Counter((name.split("/")[1], study.split) for name, study in studies(str(tmp_path)).items())
    assert set(counts) == {("train", "train"), ("train", "valid"), ("TEST", "test")}


def test_official_train_val_and_test_folders_are_the_splits(tmp_path):
    every = studies(put(str(tmp_path), *kermany("train", "val", "test")))
    splits = {(name.split("/")[1], study.split) for name, study in every.items()}
    assert splits == {("train", "train"), ("val", "valid"), ("test", "test")}


def test_a_train_folder_alone_is_split_by_patient(tmp_path):
    names = [f"train/PNEUMONIA/person{n}_virus_{image}.jpeg" for n in range(60) for image in range(2)]
    parts = splits_of_patients(put(str(tmp_path), "train/NORMAL/IM-0001.jpeg", *names))
    assert all(len(part) == 1 for part in parts.values())
    assert set().union(*parts.values()) == {"train", "valid", "test"}


def test_an_image_outside_the_class_folders_has_no_label(tmp_path):
    every = studies(put(str(tmp_path), *kermany("train"), "cover.png", "train/unread.png"))
    assert every["cover"].labels == every["train/unread"].labels == {"Pneumonia": None}


def test_what_macos_and_editors_leave_behind_is_no_study(tmp_path):
    litter = ["__MACOSX/chest_xray/train/NORMAL/._IM-0115-0001.jpeg", "chest_xray/train/NORMAL/._x.png", ".cache/x.png"]
    names = dict.fromkeys([*litter, ".DS_Store", *kermany("train")], IMAGE)
    put(str(tmp_path), *litter, *kermany("train"))
    put(str(tmp_path), "more/in.zip", content=zipped(names))
    assert len(studies(str(tmp_path))) == 2 * len(KERMANY)
    assert {each.reason for each in rest(str(tmp_path))} == {"hidden", "system_file"}


def test_folders_without_a_finding_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="no class folders with images"):
        found(put(str(tmp_path), "NORMAL/a.png"), "folders")


@pytest.mark.slow
def test_the_real_kermany_zip(real_data: Path):
    every = studies(str(real_data / "ChestXRay2017.zip"))
    assert len(every) == 5216
    assert Counter(study.labels["Pneumonia"] for study in every.values()) == {0.0: 1341, 1.0: 3875}
    assert None not in {study.patient_id for study in every.values()}
    assert all(len(part) == 1 for part in splits_of_patients(str(real_data / "ChestXRay2017.zip")).values())
    same = defaultdict(set)  # size and CRC → splits
    for study in every.values():
        same[study.views[0].length, study.views[0].version].add(study.split)
    assert len(every) - len(same) == 26  # 24 groups of byte-identical files, 50 files
    assert all(len(splits) == 1 for splits in same.values())


def test_mendeley_patients_count_within_a_disease(tmp_path):
    names = ["NORMAL/NORMAL-1000001-0002.jpeg", "P/BACTERIA-1000001-0001.jpeg", "P/BACTERIA-1000001-0002.jpeg"]
    every = studies(put(str(tmp_path), *names, "P/VIRUS-1000001-0001.jpeg"))
    assert [study.patient_id for study in every.values()] == [
        "NORMAL-1000001",
        "BACTERIA-1000001",
        "BACTERIA-1000001",
        "VIRUS-1000001",
    ]


def test_folders_of_images_and_masks_are_no_classes(tmp_path):
    archive = put(
        str(tmp_path), *(f"{part}/{folder}/1.png" for part in ("train", "test") for folder in ("images", "masks"))
    )
    with pytest.raises(
        ConfigError, match=r"no known layout .*; for images with masks such as test/masks/1.png write a "
    ):
        found(archive)
    with pytest.raises(ConfigError, match="no class folders with images"):
        found(archive, "folders")


def test_a_class_may_lie_above_the_folder_of_its_images(tmp_path):
    """As in the COVID-19 Radiography Database, which has masks beside the images of every class."""
    archive = put(
        str(tmp_path), *(f"{name}/{folder}/1.png" for name in ("COVID", "Normal") for folder in ("images", "masks"))
    )
    assert {name: study.labels for name, study in studies(archive).items()} == {
        "COVID/images/1": {"Covid": 1.0},
        "Normal/images/1": {"Covid": 0.0},
    }
    assert {each.entry or each.url.removeprefix(f"{archive}/") for each in rest(archive)} == {
        "COVID/masks/1.png",
        "Normal/masks/1.png",
    }

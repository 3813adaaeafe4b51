"""MIMIC-CXR-JPG: a tree of patients and studies, and its gzipped tables."""

import gzip

import pytest
from catalogued import found, put, rest, studies

from cxrpipe.archives.layouts.base import CONTRADICTION, Remark, Skipped, Unmatched
from cxrpipe.errors import ConfigError

IMAGES = {
    "files/p10/p10000032/s50414267/02aa804e-bde0afdd-112c0b34-7bc16630-4e384014.jpg": "PA",
    "files/p10/p10000032/s50414267/174413ec-4ec4c1f7-34ea26b7-c5f994f8-79ef1962.jpg": "LATERAL",
    "files/p10/p10000032/s53189527/2a2277a9-b0ded155-c0de8eb9-c124d10e-82c5caab.jpg": "",
    "files/p11/p11000011/s51029426/ba34ec1a-0f2bb2e9-8a7fbcd0-a2db3fd2-1f5ab5a3.jpg": "AP",
    "files/p12/p12000012/s52000000/0123abcd-0f2bb2e9-8a7fbcd0-a2db3fd2-1f5ab5a3.jpg": "XTABLE LATERAL",
    "files/p12/p12000012/s52000001/0123abce-0f2bb2e9-8a7fbcd0-a2db3fd2-1f5ab5a3.jpg": "LL",
}
LABELS = """subject_id,study_id,Atelectasis,Cardiomegaly,No Finding,Pleural Effusion
10000032,50414267,,,1.0,
10000032,53189527,-1.0,0.0,,1.0
11000011,51029426,,1.0,,
12000012,59999999,,1.0,,"""
SPLITS = {"10000032": "train", "11000011": "validate", "12000012": "test"}


def ids(name: str) -> tuple[str, str, str]:
    _, _, patient, study, image = name.split("/")
    return patient[1:], study[1:], image.removesuffix(".jpg")


def mimic(folder: str, *, version: str = "2.0.0", **tables: str) -> str:
    put(folder, *IMAGES)
    texts = {
        "metadata": "\n".join(
            ["dicom_id,subject_id,study_id,ViewPosition,Rows"]
            + [f"{ids(name)[2]},{ids(name)[0]},{ids(name)[1]},{position},3056" for name, position in IMAGES.items()]
        ),
        "chexpert": LABELS,
        "split": "\n".join(
            ["dicom_id,study_id,subject_id,split"]
            + [f"{ids(name)[2]},{ids(name)[1]},{ids(name)[0]},{SPLITS[ids(name)[0]]}" for name in IMAGES]
        ),
    } | tables
    for name, text in texts.items():
        put(folder, f"mimic-cxr-{version}-{name}.csv.gz", content=gzip.compress(text.encode()))
    return folder


@pytest.mark.parametrize("version", ["2.0.0", "2.1.0"])
def test_a_study_is_a_folder_of_views(anywhere, version):
    every = studies(mimic(anywhere, version=version))
    assert {study_id: (s.patient_id, len(s.views)) for study_id, s in every.items()} == {
        "50414267": ("10000032", 2),
        "53189527": ("10000032", 1),
        "51029426": ("11000011", 1),
        "52000000": ("12000012", 1),
        "52000001": ("12000012", 1),
    }


def test_a_blank_view_position_is_none(tmp_path):
    assert {
        study_id: [view.view_position for view in study.views]
        for study_id, study in studies(mimic(str(tmp_path))).items()
    } == {
        "50414267": ["PA", "LATERAL"],
        "53189527": [None],
        "51029426": ["AP"],
        "52000000": ["LATERAL"],
        "52000001": ["LL"],
    }


def test_labels_are_raw_and_a_study_without_a_row_has_none(tmp_path):
    every = studies(mimic(str(tmp_path)))
    known = {
        study_id: {name: label for name, label in study.labels.items() if label is not None}
        for study_id, study in every.items()
    }
    assert known == {
        "50414267": {},
        "53189527": {"Atelectasis": -1, "Cardiomegaly": 0, "Pleural_Effusion": 1},
        "51029426": {"Cardiomegaly": 1},
        "52000000": {},
        "52000001": {},
    }
    assert {len(study.labels) for study in every.values()} == {13}


def test_the_official_parts_are_kept(tmp_path):
    assert {s.patient_id: s.split for s in studies(mimic(str(tmp_path)), seed=3).values()} == {
        "10000032": "train",
        "11000011": "valid",
        "12000012": "test",
    }


def test_the_hand_read_test_labels_stand_for_the_labelers_as_a_whole(tmp_path):
    put(
        mimic(str(tmp_path)),
        "mimic-cxr-2.1.0-test-set-labeled.csv",
        content=b"study_id,Airspace Opacity,Atelectasis\n51029426,1,-1\n",
    )
    labels = studies(str(tmp_path))["51029426"].labels
    assert {name: label for name, label in labels.items() if label is not None} == {
        "Lung_Opacity": 1,
        "Atelectasis": -1,
    }


def test_what_has_no_place_is_accounted_for(tmp_path):
    assert rest(put(mimic(str(tmp_path)), "files/figure.jpg")) == [
        Skipped(str(tmp_path / "files/figure.jpg"), None, "not named as a MIMIC-CXR-JPG image"),
        Unmatched("59999999"),
    ]


def test_a_study_of_two_patients_is_kept_apart(tmp_path):
    other = "files/p13/p13000013/s51029426/ba34ec1a-0f2bb2e9-8a7fbcd0-a2db3fd2-1f5ab5a4.jpg"
    every = studies(put(mimic(str(tmp_path)), other))
    assert {study_id for study_id in every if study_id.startswith("51029426")} == {
        "51029426/11000011",
        "51029426/13000013",
    }
    assert every["51029426/11000011"].patient_id == "11000011"


def test_labels_that_rows_of_a_study_disagree_on_are_unknown_and_counted(tmp_path):
    archive = mimic(str(tmp_path), chexpert=LABELS + "\n11000011,51029426,0.0,0.0,,")
    assert set(studies(archive)["51029426"].labels.values()) == {None}
    assert Remark(CONTRADICTION, "51029426") in rest(archive)


@pytest.mark.parametrize(
    ("table", "text", "message"),
    [
        ("split", "dicom_id,study_id,subject_id,split\na,1,2,holdout", "split 'holdout'; expected train, validate"),
        ("metadata", "dicom_id,Rows\na,1", "no column ViewPosition; the header in line 1 reads 'dicom_id,Rows'"),
        ("chexpert", "study_id,Edema\n1,maybe", "study 1: label 'maybe'"),
    ],
)
def test_a_table_that_cannot_be_mimics_is_refused(tmp_path, table, text, message):
    with pytest.raises(ConfigError, match=message):
        found(mimic(str(tmp_path), **{table: text}))


def test_mimic_asked_for_without_its_table_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="needs it for view positions"):
        found(put(str(tmp_path), *IMAGES), "mimic-cxr-jpg")

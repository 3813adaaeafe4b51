"""PadChest: labels are matched whole, and images are joined to studies by the table."""

import csv
import gzip
import io

import pytest
from builders import png, radiograph, zipped
from catalogued import IMAGE, found, put, rest, splits_of_patients, studies

from cxrpipe.archives.layouts.base import CONTRADICTION, KEPT_APART, Remark, Skipped, Unmatched
from cxrpipe.errors import ConfigError

TABLE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
COLUMNS = [
    "",
    "ImageID",
    "ImageDir",
    "StudyDate_DICOM",
    "StudyID",
    "PatientID",
    "PatientBirth",
    "PatientSex_DICOM",
    "Projection",
    "MethodProjection",
    "Report",
    "MethodLabel",
    "Labels",
]
DEEP = png(radiograph(rows=20, columns=20).astype("uint16") * 257)
ROWS = {
    "1_00-001.png": (0, "s1", "p1", "PA", "['pneumonia', ' unchanged', 'subcutaneous emphysema']"),
    "1_00-002.png": (0, "s1", "p1", "L", "['pneumonia', ' unchanged', 'subcutaneous emphysema']"),
    "2_00-001.png": (1, "s2", "p1", "AP_horizontal", "['normal']"),
    "3_00-001.png": (50, "s3", "p2", "AP", "[' pericardial effusion', 'pseudonodule', 'NSG tube', '']"),
    "4_00-001.png": (54, "s4", "p3", "COSTAL", "['rib fracture']"),
    "5_00-001.png": (54, "s5", "p4", "PA", ""),
    "6_00-001.png": (54, "s6", "p5", "PA", "['suboptimal study']"),
    "7_00-001.png": (54, "s7", "p6", "UNK", "['exclude', 'pneumonia']"),
    "8_00-001.png": (54, "s8", "p7", "PA", "['normal', 'suboptimal study']"),
}
Rows = dict[str, tuple[int, str, str, str, str]]


def table(rows: Rows) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for number, (name, (folder, study, patient, projection, labels)) in enumerate(rows.items()):
        facts = [number, name, folder, 20140915, study, patient, "1938.0", "F", projection, "Manual"]
        writer.writerow([*facts, "torax, \n normal", "Physician", labels])
    return text.getvalue().encode()


def padchest(folder: str, *, rows: Rows = ROWS, images: list[str] | None = None, zip_csv: bool = False) -> str:
    packed = gzip.compress(table(rows)) if zip_csv else table(rows)
    put(folder, TABLE + ".gz" * zip_csv, content=packed)
    for number in {row[0] for row in rows.values()}:
        names = [name for name in (images or rows) if rows.get(name, (0,))[0] == number]
        put(folder, f"{number}.zip", content=zipped(dict.fromkeys(names, DEEP)))
    return folder


def present(archive: str) -> dict[str, set[str] | None]:
    return {
        study_id: None if None in study.labels.values() else {name for name, label in study.labels.items() if label}
        for study_id, study in studies(archive).items()
    }


@pytest.mark.parametrize("zip_csv", [False, True], ids=["csv", "csv.gz"])
def test_padchest_studies_come_from_the_table(anywhere, zip_csv):
    every = studies(padchest(anywhere, zip_csv=zip_csv))
    assert {study_id: (s.patient_id, len(s.views)) for study_id, s in every.items()} == {
        "s1": ("p1", 2),
        "s2": ("p1", 1),
        "s3": ("p2", 1),
        "s5": ("p4", 1),
        "s6": ("p5", 1),
        "s7": ("p6", 1),
        "s8": ("p7", 1),
    }


def test_labels_are_matched_whole(tmp_path):
    """torchxrayvision takes `subcutaneous emphysema` for emphysema and `pseudonodule` for a nodule."""
    assert present(padchest(str(tmp_path))) == {
        "s1": {"Pneumonia", "Subcutaneous_Emphysema"},
        "s2": set(),
        "s3": {"Pericardial_Effusion", "Pseudonodule", "NSG_Tube"},
        "s5": None,
        "s6": None,
        "s7": None,
        "s8": set(),
    }


def test_the_findings_are_those_that_occur_and_no_remarks(tmp_path):
    assert list(studies(padchest(str(tmp_path)))["s1"].labels) == [
        "NSG_Tube",
        "Pericardial_Effusion",
        "Pneumonia",
        "Pseudonodule",
        "Rib_Fracture",
        "Subcutaneous_Emphysema",
    ]


def test_projections_become_view_positions_and_ribs_are_skipped(tmp_path):
    every = studies(padchest(str(tmp_path)))
    assert [[view.view_position for view in every[name].views] for name in ("s1", "s2", "s3", "s7")] == [
        ["PA", "LATERAL"],
        ["AP"],
        ["AP"],
        [None],
    ]
    assert rest(str(tmp_path)) == [
        Skipped(str(tmp_path / "54.zip"), "4_00-001.png", "projection COSTAL: not a chest radiograph")
    ]


def test_a_view_without_labels_has_those_of_its_study(tmp_path):
    rows = {name: (0, "s", "p", "PA", labels) for name, labels in (("1.png", ""), ("2.png", "['edema']"))}
    assert present(padchest(str(tmp_path), rows=rows)) == {"s": {"Edema"}}


def test_labels_that_rows_of_a_study_disagree_on_are_unknown_and_counted(tmp_path):
    labels_of = {"1.png": "['edema', 'nodule']", "2.png": "['mass', 'nodule']"}
    rows = {name: (0, "s", "p", "PA", labels) for name, labels in labels_of.items()}
    archive = padchest(str(tmp_path), rows=rows)
    assert studies(archive)["s"].labels == {"Edema": None, "Mass": None, "Nodule": 1}
    assert rest(archive) == [Remark(CONTRADICTION, "s")]


def test_a_study_id_of_two_patients_is_kept_apart(tmp_path):
    rows = {f"{n}.png": (0, "s", f"p{n}", "PA", f"['{label}']") for n, label in enumerate(("edema", "mass"))}
    archive = padchest(str(tmp_path), rows=rows)
    assert present(archive) == {"s/p0": {"Edema"}, "s/p1": {"Mass"}}
    assert rest(archive) == [Remark(KEPT_APART, "s/p0"), Remark(KEPT_APART, "s/p1")]


def test_age_is_between_two_years(tmp_path):
    study = studies(padchest(str(tmp_path)))["s1"]
    assert (study.patient_age, study.patient_sex) == (76, "F")


def test_patients_are_split_by_hash(tmp_path):
    rows = {f"{n}.png": (0, f"s{n}", f"p{n // 2}", "PA", "['edema']") for n in range(120)}
    parts = splits_of_patients(padchest(str(tmp_path), rows=rows))
    assert {len(part) for part in parts.values()} == {1}
    assert set.union(*parts.values()) == {"train", "valid", "test"}


def test_an_image_without_a_row_is_skipped_and_a_row_without_an_image_is_counted(tmp_path):
    assert rest(padchest(str(tmp_path), images=["2_00-001.png", "9.png"])) == [
        Skipped(str(tmp_path / "0.zip"), "9.png", "no row in the table of PadChest"),
        *(Unmatched(name) for name in ("s1", "s3", "s4", "s5", "s6", "s7", "s8")),
    ]


@pytest.mark.parametrize("labels", ["pneumonia", "__import__('os')", "['pneumonia'", "7", "[1]"])
def test_labels_that_are_no_list_are_refused(tmp_path, labels):
    with pytest.raises(ConfigError, match=r"1\.png: Labels .*expected a list"):
        found(padchest(str(tmp_path), rows={"1.png": (0, "s", "p", "PA", labels)}))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (TABLE, b"ImageID,Labels\n1.png,[]\n", "no column StudyID and no column PatientID"),
        (TABLE + ".gz", gzip.compress(table(ROWS))[:-20], "not a CSV file"),
        (TABLE + ".gz", table(ROWS), "not a CSV file"),
    ],
)
def test_a_table_that_cannot_be_padchests_is_refused(tmp_path, name, content, message):
    put(str(tmp_path), "0.zip", content=zipped({"1.png": IMAGE}))
    with pytest.raises(ConfigError, match=message):
        found(put(str(tmp_path), name, content=content))

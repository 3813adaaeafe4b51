"""Shenzhen: the name tells tuberculosis, the reading age and sex, and some images have a mask."""

import pytest
from builders import zipped
from catalogued import IMAGE, found, put, rest, studies

from cxrpipe.archives.layouts.base import Skipped, Unmatched
from cxrpipe.errors import ConfigError
from cxrpipe.storage import join

NAMES = ["CHNCXR_0001_0", "CHNCXR_0327_1", "CHNCXR_0662_1"]


def shenzhen(folder: str, readings: dict[str, str] | None = None, masks: tuple[str, ...] = ()) -> str:
    put(folder, *(f"ChinaSet_AllFiles/CXR_png/{name}.png" for name in NAMES))
    for name, text in (readings or {}).items():
        put(folder, f"ChinaSet_AllFiles/ClinicalReadings/{name}.txt", content=text.encode())
    return put(folder, *(f"mask/{name}_mask.png" for name in masks))


def test_the_last_figure_of_a_shenzhen_name_is_tuberculosis(anywhere):
    labels = {study_id: study.labels for study_id, study in studies(shenzhen(anywhere)).items()}
    assert labels == {name: {"Tuberculosis": float(name[-1])} for name in NAMES}


def test_the_zip_as_published_is_the_same(tmp_path):
    files = {f"ChinaSet_AllFiles/CXR_png/{name}.png": IMAGE for name in NAMES}
    put(str(tmp_path), "ChinaSet_AllFiles.zip", content=zipped(files | {"ChinaSet_AllFiles/NLM.pdf": b"read me"}))
    assert list(studies(join(str(tmp_path), "ChinaSet_AllFiles.zip"))) == NAMES


def test_one_mask_holds_both_lungs_and_some_have_none(tmp_path):
    every = studies(shenzhen(str(tmp_path), masks=(NAMES[1],)))
    assert [len(every[name].mask_views) for name in NAMES] == [0, 1, 0]
    assert every[NAMES[1]].mask_views[0].url.endswith(f"mask/{NAMES[1]}_mask.png")


@pytest.mark.parametrize(
    ("text", "age", "sex"),
    [
        ("male 45yrs\nnormal", 45, "M"),
        ("Female, 32 yrs\n\nPTB in the left upper field", 32, "F"),
        ("male 8 months\nnormal", 8 / 12, "M"),
        ("female\nnormal", None, "F"),
        ("normal, male wards", None, None),
        ("", None, None),
    ],
)
def test_readings_tell_age_and_sex_and_nothing_else(tmp_path, text, age, sex):
    study = studies(shenzhen(str(tmp_path), {NAMES[0]: text}))[NAMES[0]]
    assert (study.patient_age, study.patient_sex) == (age, sex)
    assert "PTB" not in str(study)


def test_what_belongs_to_no_image_is_accounted_for(tmp_path):
    archive = shenzhen(str(tmp_path), {"CHNCXR_0400_1": "male"}, masks=("CHNCXR_0500_1",))
    assert rest(put(archive, "montage.png")) == [
        Skipped(str(tmp_path / "montage.png"), None, "not named as a Shenzhen image"),
        Unmatched("CHNCXR_0500_1"),
        Unmatched("CHNCXR_0400_1"),
        Skipped(f"{archive}/ChinaSet_AllFiles/ClinicalReadings/CHNCXR_0400_1.txt", None, "not_an_image_file"),
        Skipped(f"{archive}/mask/CHNCXR_0500_1_mask.png", None, "not_in_layout"),
    ]


def test_shenzhen_asked_for_without_its_images_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"no CHNCXR_\*\.png"):
        found(put(str(tmp_path), "a.png"), "shenzhen")

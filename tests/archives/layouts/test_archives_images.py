"""Any prefix of images: what `auto` takes where nothing else is there."""

import pytest
from builders import tar, zipped
from catalogued import IMAGE, put, rest, studies, why

from cxrpipe.archives.layouts.base import Skipped
from cxrpipe.errors import ConfigError


def test_a_study_is_named_by_its_path_without_the_suffix(anywhere):
    every = studies(put(anywhere, "2024/may/a.png", "2024/may/b.v2.JPG", "c.jpeg"))
    assert list(every) == ["2024/may/a", "2024/may/b.v2", "c"]
    assert {(study.patient_id, len(study.views), len(study.labels)) for study in every.values()} == {(None, 1, 0)}
    assert {study.split for study in every.values()} <= {"train", "valid", "test"}


@pytest.mark.parametrize(("name", "hold"), [("a.tar", tar), ("a.zip", zipped)])
def test_images_in_containers_are_found_too(tmp_path, name, hold):
    put(str(tmp_path), name, content=hold({"x/1.png": IMAGE, "x/2.png": IMAGE}))
    assert list(studies(str(tmp_path))) == [f"{name}/x/1", f"{name}/x/2"]
    assert why(str(tmp_path)) == ("images", "only images are there")


def test_asked_for_by_name_other_files_are_skipped_with_a_reason(tmp_path):
    put(str(tmp_path), "a.png", "labels.csv")
    assert rest(str(tmp_path), "images") == [Skipped(str(tmp_path / "labels.csv"), None, "not_an_image_file")]


@pytest.mark.parametrize("other", ["labels.csv", "scan.dcm", "masks/a.png"])
def test_auto_does_not_take_an_archive_with_more_than_images_for_one(tmp_path, other):
    with pytest.raises(ConfigError, match="no known layout"):
        why(put(str(tmp_path), "a.png", other))

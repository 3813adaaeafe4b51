"""Montgomery County: every image with the masks that lie beside it."""

from pathlib import Path

from catalogued import montgomery, put, rest, studies

from cxrpipe.archives.layouts.base import Skipped, Unmatched


def test_a_montgomery_study_has_the_masks_of_both_lungs(anywhere):
    study = studies(montgomery(anywhere, *[["MCUCXR_0001_0"]] * 3))["MCUCXR_0001_0"]
    assert [mask.url.rpartition("ManualMask/")[2] for mask in study.mask_views] == [
        "leftMask/MCUCXR_0001_0.png",
        "rightMask/MCUCXR_0001_0.png",
    ]
    assert {mask.view for mask in study.mask_views} == {0}


def test_the_last_figure_of_a_montgomery_name_is_tuberculosis(tmp_path):
    names = ["MCUCXR_0001_0", "MCUCXR_0104_1", "another"]
    labels = [study.labels["Tuberculosis"] for study in studies(montgomery(str(tmp_path), *[names] * 3)).values()]
    assert labels == [0, 1, None]


def test_an_image_with_fewer_masks_is_a_study_all_the_same(tmp_path):
    every = studies(montgomery(str(tmp_path), ["a", "b", "c"], ["a", "b"], ["a"]))
    assert [len(study.mask_views) for study in every.values()] == [2, 1, 0]


def test_a_mask_without_an_image_is_a_label_without_a_file(tmp_path):
    unmatched, *masks = rest(montgomery(str(tmp_path), ["a"], ["a", "b"], ["a", "b"]))
    assert unmatched == Unmatched("b")
    assert [(mask.url.rpartition("/")[2], mask.reason) for mask in masks] == [("b.png", "not_in_layout")] * 2


def test_an_image_beside_the_montgomery_folders_is_skipped(tmp_path):
    [skipped] = rest(put(montgomery(str(tmp_path), *[["a"]] * 3), "MontgomerySet/montage.png"))
    assert isinstance(skipped, Skipped)


def test_the_real_masks(real_data: Path):
    every = studies(str(real_data / "montgomery"))
    assert len(every) == 72
    assert {len(study.mask_views) for study in every.values()} == {2}

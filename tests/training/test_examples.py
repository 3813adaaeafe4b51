"""Studies → training examples: targets, masks, and what is left out."""

from collections.abc import Sequence
from pathlib import Path

import builders
import cv2
import numpy as np
import pytest

from cxrpipe.archives.reader import Reader
from cxrpipe.archives.truth import truth_mask
from cxrpipe.errors import ConfigError, StudyError
from cxrpipe.images import letterbox
from cxrpipe.images.letterbox import Preparation
from cxrpipe.images.radiographs import Radiograph
from cxrpipe.images.squares import decode_view
from cxrpipe.records import MaskView, Study, View
from cxrpipe.training.examples import Example, ExampleSpec, check_masks, examples

SIDE_PX = 32
FINDINGS = ("Effusion", "Mass")
CLASSIFY = ExampleSpec(Preparation("voi", SIDE_PX), FINDINGS)
SEGMENT = ExampleSpec(Preparation("voi", SIDE_PX), ())
LABELS = {"Effusion": 1.0, "Mass": 0.0}
READER = Reader(seek_points="")


def image(folder: Path, name: str, pixels: np.ndarray | None = None) -> str:
    pixels = builders.radiograph() if pixels is None else pixels
    (folder / name).write_bytes(builders.png(pixels))
    return str(folder / name)


def half(rows: int = 80, columns: int = 64, *, left: bool) -> np.ndarray:
    """(rows, columns) uint8: 255 on one half."""
    mask = np.zeros((rows, columns), np.uint8)
    mask[:, slice(None, columns // 2) if left else slice(columns // 2, None)] = 255
    return mask


def lung_study(folder: Path, masks: Sequence[np.ndarray]) -> Study:
    """One view with these masks."""
    view = View(url=image(folder, "view.png"), view_position="PA")
    drawn = tuple(MaskView(url=image(folder, f"mask{n}.png", mask), view=0) for n, mask in enumerate(masks))
    return Study(study_id="s", views=(view,), mask_views=drawn)


def made(study: Study, spec: ExampleSpec) -> list[Example]:
    return list(examples(study, READER, spec))


def test_labels_become_targets_and_uncertain_and_null_ones_are_ignored():
    study = Study(study_id="s", labels={"A": 1.0, "B": 0.0, "C": -1.0, "D": None})
    targets = ExampleSpec(Preparation("voi", SIDE_PX), ("D", "C", "B", "A", "Unheard of")).targets(study)
    assert targets.dtype == np.float32
    np.testing.assert_array_equal(targets, [np.nan, np.nan, 0, 1, np.nan])


def test_an_example_is_the_view_as_scoring_prepares_it(tmp_path):
    study = Study(study_id="s", views=(View(url=image(tmp_path, "a.png"), view_position="AP"),), labels=LABELS)
    (example,) = made(study, CLASSIFY)
    np.testing.assert_array_equal(example.pixels, letterbox.prepare(Radiograph(builders.radiograph()), SIDE_PX))
    np.testing.assert_array_equal(example.target, [1, 0])
    assert example.problem == ""


def test_laterals_are_left_out_and_views_of_unknown_position_are_not(tmp_path):
    names = ("PA", "LATERAL", None, "LL", "AP")
    views = tuple(
        View(url=image(tmp_path, f"{number}.png", builders.radiograph(number)), view_position=name)
        for number, name in enumerate(names)
    )
    kept = [letterbox.prepare(Radiograph(builders.radiograph(number)), SIDE_PX).tolist() for number in (0, 2, 4)]
    study = Study(study_id="s", views=views, labels=LABELS)
    assert [example.pixels.tolist() for example in made(study, CLASSIFY)] == kept


@pytest.mark.parametrize("spec", [CLASSIFY, SEGMENT])
def test_a_file_that_cannot_be_read_becomes_a_problem_and_the_next_view_an_example(spec, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    urls = str(tmp_path / "gone.png"), str(tmp_path / "broken.png"), image(tmp_path, "whole.png")
    masks = tuple(MaskView(url=image(tmp_path, "mask.png", half(left=True)), view=number) for number in range(3))
    study = Study(study_id="s", views=tuple(View(url=url) for url in urls), mask_views=masks, labels=LABELS)
    gone, broken, whole = made(study, spec)
    assert "gone.png" in gone.problem
    assert "broken.png" in broken.problem
    assert [(len(example.pixels), len(example.target)) for example in (gone, broken)] == [(0, 0), (0, 0)]
    assert whole.problem == ""


def test_the_target_of_a_segmenter_is_the_union_of_the_views_masks_in_its_frame(tmp_path):
    left, right = half(left=True), half(left=False)
    right[:40] = 0
    (example,) = made(lung_study(tmp_path, [left, right]), SEGMENT)
    united = letterbox.prepare_mask((left > 0) | (right > 0), SIDE_PX)
    assert example.target.dtype == np.uint8
    np.testing.assert_array_equal(example.target, united)
    assert 0.3 < example.target.mean() < 0.9


def test_a_view_without_a_mask_teaches_a_segmenter_nothing(tmp_path):
    views = View(url=image(tmp_path, "a.png")), View(url=image(tmp_path, "b.png"))
    mask = MaskView(url=image(tmp_path, "mask.png", half(left=True)), view=1)
    assert len(made(Study(study_id="s", views=views, mask_views=(mask,)), SEGMENT)) == 1


@pytest.mark.parametrize(("rows", "columns"), [(40, 32), (160, 128), (27, 21)])
def test_a_mask_of_the_same_shape_is_scaled_to_its_view(rows, columns, tmp_path):
    (whole,) = made(lung_study(tmp_path, [half(left=True)]), SEGMENT)
    (example,) = made(lung_study(tmp_path, [half(rows, columns, left=True)]), SEGMENT)
    assert np.mean(example.target != whole.target) <= 1 / SIDE_PX  # a column, where a side was rounded


def test_masks_of_a_view_may_differ_in_size(tmp_path):
    (example,) = made(lung_study(tmp_path, [half(left=True), half(40, 32, left=False)]), SEGMENT)
    inside = letterbox.Letterbox.of(80, 64, SIDE_PX).inside
    assert example.target[inside].all()


def test_a_mask_of_another_shape_than_its_view_is_a_problem_that_names_both_sizes(tmp_path):
    (example,) = made(lung_study(tmp_path, [half(64, 80, left=True)]), SEGMENT)
    assert "mask0.png: the mask has 64x80 pixels, its image 80x64" in example.problem


def test_a_training_whose_masks_have_another_shape_is_refused_before_it_is_set_up(tmp_path):
    study = lung_study(tmp_path, [half(64, 80, left=True)])
    with pytest.raises(ConfigError, match=r"none of 3 studies tried has a mask that can be used: .*64x80"):
        check_masks([study] * 3, READER, SEGMENT, decode_view)


def test_one_mask_that_can_be_used_is_enough_to_set_up_a_training(tmp_path):
    (tmp_path / "good").mkdir()
    bad, good = lung_study(tmp_path, [half(64, 80, left=True)]), lung_study(tmp_path / "good", [half(left=True)])
    check_masks([bad, good], READER, SEGMENT, decode_view)


def test_a_mask_of_a_view_that_has_none_is_missing(tmp_path):
    with pytest.raises(StudyError, match="no mask of view 1") as missing:
        truth_mask(lung_study(tmp_path, [half(left=True)]), 1, READER, (80, 64))
    assert missing.value.reason == "missing"


@pytest.mark.parametrize(("spec", "shape"), [(CLASSIFY, (0, 2)), (SEGMENT, (0, SIDE_PX, SIDE_PX))])
def test_no_example_has_the_shape_of_examples(spec, shape):
    pixels, targets = spec.empty
    assert pixels.shape == (0, SIDE_PX, SIDE_PX)
    assert targets.shape == shape


def test_the_mask_lies_on_the_lungs_of_the_prepared_view(tmp_path):
    pixels = np.full((80, 64), 30, np.uint8)
    cv2.circle(pixels, (20, 40), 12, 200, -1)
    view = View(url=image(tmp_path, "view.png", pixels))
    mask = MaskView(url=image(tmp_path, "mask.png", (pixels > 100).astype(np.uint8)), view=0)  # 0 and 1, as some are
    (example,) = made(Study(study_id="s", views=(view,), mask_views=(mask,)), SEGMENT)
    assert np.mean((example.pixels > 115) == (example.target == 1)) > 0.99

"""Model folders: what a card says, what it refuses, and what its fingerprint covers."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from builders import FINDINGS
from hypothesis import given
from hypothesis import strategies as st

from cxrpipe.errors import ConfigError
from cxrpipe.images import letterbox
from cxrpipe.images.letterbox import Preparation
from cxrpipe.models.card import Card, Crop, Embedding
from cxrpipe.models.ensemble import Ensemble, open_ensemble
from cxrpipe.models.folder import CARD, WEIGHTS, ModelFolder, model_folders, open_model, save_model

CLASSIFIER = Card(
    task="classify",
    architecture="resnet18",
    side_px=32,
    mean=0.5,
    std=0.25,
    findings=FINDINGS,
    views="frontal",
    aggregation={"Pneumonia": "mean"},
    thresholds={"Pneumonia": 0.3},
    calibration={"Cardiomegaly": (1.5, -0.25)},
    weights_sha256="0" * 64,
)
SEGMENTER = Card(task="segment", architecture="unet-resnet18", side_px=32, mean=0.5, std=0.25, views="all")


def ensemble(*cards: Card, segmenter: Card | None = None) -> Ensemble:
    """Members that have no weights: enough for what only reads cards."""
    folders = tuple(ModelFolder(f"/models/{number}", card) for number, card in enumerate(cards))
    return Ensemble(folders, (ModelFolder("/models/lungs", segmenter),) if segmenter else ())


def edit(folder: ModelFolder, to: Path, **changes: object) -> str:
    """A copy of a model folder whose card says something else."""
    shutil.copytree(folder.url, to)
    card = json.loads((to / CARD).read_text()) | changes
    (to / CARD).write_text(json.dumps(card))
    return str(to)


# ---- a card ---------------------------------------------------------------------------------------------------


@given(
    mean=st.floats(0, 1),
    thresholds=st.dictionaries(st.sampled_from(FINDINGS), st.floats(0, 1)),
    calibration=st.dictionaries(st.sampled_from(FINDINGS), st.tuples(st.floats(0.1, 9), st.floats(-9, 9))),
    facts=st.dictionaries(st.text(max_size=3), st.none() | st.integers() | st.text(max_size=3), max_size=3),
)
def test_a_card_is_the_same_after_json(mean, thresholds, calibration, facts):
    card = replace(CLASSIFIER, mean=mean, thresholds=thresholds, calibration=calibration, facts=facts)
    assert Card.from_json(card.to_json(), "here") == card


def test_findings_without_a_word_on_them_get_the_defaults():
    card = replace(CLASSIFIER, aggregation={}, thresholds={}, calibration={})
    assert card.rules == ("max", "max")
    assert card.operating_points.tolist() == [0.5, 0.5]
    assert [column.tolist() for column in card.platt] == [[1.0, 1.0], [0.0, 0.0]]


def test_rules_thresholds_and_calibration_come_in_the_order_of_the_findings():
    assert CLASSIFIER.rules == ("mean", "max")
    assert CLASSIFIER.operating_points.tolist() == [np.float32(0.3), 0.5]
    assert [column.tolist() for column in CLASSIFIER.platt] == [[1.0, 1.5], [0.0, -0.25]]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"task": "guess"}, "task 'guess'"),
        ({"recipe": "bright"}, "recipe 'bright'"),
        ({"views": "lateral"}, "views 'lateral'"),
        ({"aggregation": {"Pneumonia": "median"}}, "'median'"),
        ({"thresholds": {"Pnuemonia": 0.1}}, "Pnuemonia"),
        ({"calibration": {"Mass": [1, 0]}}, "Mass"),
        ({"findings": []}, "findings"),
        ({"colour": "blue"}, "colour"),
        ({"calibration": 3}, "not a model card"),
        ({"crop_fraction": 1.5}, "crop_fraction 1.5"),
        ({"crop": ["5" * 64, 0.1], "fit": "squash"}, "fit 'squash' with a crop"),
        ({"task": "segment", "findings": [], "structures": ["heart"]}, "expected left_lung and right_lung"),
    ],
)
def test_a_card_that_cannot_be_meant_is_refused_with_its_place(changes, named):
    values = json.loads(CLASSIFIER.to_json()) | {"aggregation": {}, "thresholds": {}, "calibration": {}} | changes
    with pytest.raises(ConfigError, match=named) as refused:
        Card.from_json(json.dumps(values).encode(), "/models/x")
    assert "/models/x" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_intensity_of_a_card_keeps_its_old_key_in_files_and_in_the_hashed_fields():
    card = replace(CLASSIFIER, intensity="nih")
    for values in (json.loads(card.to_json()), card.inference_fields()):
        assert values["recipe"] == "nih"
        assert "intensity" not in values
    assert [*json.loads(card.to_json())][:5] == ["task", "architecture", "head", "side_px", "recipe"]
    values = json.loads(card.to_json())
    values["intensity"] = values.pop("recipe")
    with pytest.raises(ConfigError, match=r"unknown fields .'intensity'."):
        Card.from_json(json.dumps(values).encode(), "/models/x")


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"3", b"{}", b"\xff\xfe", b'"card"'])
def test_what_is_no_card_is_refused(data):
    with pytest.raises(ConfigError, match=r"/models/x: not a model card"):
        Card.from_json(data, "/models/x")


# ---- a folder -------------------------------------------------------------------------------------------------


def test_a_saved_model_is_opened_as_it_was_saved(tmp_path):
    saved = save_model(str(tmp_path / "m"), CLASSIFIER, b"weights", {"archive": "s3://cxr"})
    opened = open_model(str(tmp_path / "m"), "classify")
    assert opened == saved
    assert opened.read_weights() == b"weights"
    assert opened.card.facts == {"archive": "s3://cxr"}


def test_a_folder_that_is_not_a_model_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"not a model folder"):
        open_model(str(tmp_path), "classify")


def test_a_file_is_not_a_model_folder(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"pickle")
    with pytest.raises(ConfigError, match=r"model.pt: not a model folder"):
        open_model(str(tmp_path / "model.pt"), "classify")


def test_a_card_without_weights_is_refused_before_anything_is_read(tmp_path):
    save_model(str(tmp_path / "m"), CLASSIFIER, b"weights", {})
    (tmp_path / "m" / WEIGHTS).unlink()
    with pytest.raises(ConfigError, match=rf"m: a card without {WEIGHTS}"):
        open_model(str(tmp_path / "m"), "classify")


def test_weights_that_changed_are_refused(tmp_path):
    save_model(str(tmp_path / "m"), CLASSIFIER, b"weights", {})
    (tmp_path / "m" / WEIGHTS).write_bytes(b"weightz")
    with pytest.raises(ConfigError, match="not the weights its card was written for"):
        open_model(str(tmp_path / "m"), "classify").read_weights()


@pytest.mark.parametrize(
    ("card", "asked", "flag"), [(CLASSIFIER, "segment", "--models"), (SEGMENTER, "classify", "--segmenter")]
)
def test_a_model_of_the_other_task_is_refused_and_its_flag_named(tmp_path, card, asked, flag):
    save_model(str(tmp_path / "m"), card, b"weights", {})
    with pytest.raises(ConfigError, match=flag):
        open_model(str(tmp_path / "m"), asked)


def test_a_threshold_that_is_no_number_is_refused():
    """It would make every tie of an ensemble a no."""
    with pytest.raises(ConfigError, match="the threshold of Pneumonia is nan; leave it out"):
        replace(CLASSIFIER, thresholds={"Pneumonia": math.nan})


# ---- an ensemble ----------------------------------------------------------------------------------------------


def test_members_that_score_other_views_are_refused_and_the_message_says_where(tmp_path):
    save_model(str(tmp_path / "one"), CLASSIFIER, b"1", {})
    save_model(str(tmp_path / "other"), replace(CLASSIFIER, views="all"), b"2", {})
    with pytest.raises(ConfigError) as refused:
        open_ensemble([str(tmp_path / "one"), str(tmp_path / "other")])
    message = str(refused.value)
    assert f"{tmp_path}/one and {tmp_path}/other differ in views: frontal against all" in message
    assert "\n" not in message


def test_the_findings_are_those_of_all_members_in_the_order_in_which_they_appear():
    other = replace(CLASSIFIER, findings=("Mass", *reversed(FINDINGS)), thresholds={"Mass": 0.25})
    mixed = ensemble(replace(CLASSIFIER, thresholds={FINDINGS[0]: 0.75}), other)
    assert mixed.findings == (*FINDINGS, "Mass")
    assert mixed.places == ([0, 1], [2, 1, 0])
    np.testing.assert_array_equal(mixed.thresholds, np.array([[0.75, 0.5, np.nan], [0.5, 0.5, 0.25]], np.float32))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("Lung_Opacity", "lung_opacity"), ("Lung_Opacity", "Lung Opacity"), ("Pleural_Effusion", "Effusion")],
)
def test_a_finding_in_two_spellings_is_refused_and_both_are_named(tmp_path, ours, theirs):
    bare = replace(CLASSIFIER, aggregation={}, thresholds={}, calibration={})
    save_model(str(tmp_path / "one"), replace(bare, findings=(ours,)), b"1", {})
    save_model(str(tmp_path / "other"), replace(bare, findings=("Mass", theirs)), b"2", {})
    with pytest.raises(ConfigError, match=f"/one has the finding {ours!r}, .*/other {theirs!r}: one finding in two"):
        open_ensemble([str(tmp_path / "one"), str(tmp_path / "other")])


def test_members_may_differ_in_architecture_side_and_thresholds():
    other = replace(CLASSIFIER, architecture="densenet121", side_px=64, thresholds={}, mean=0.1)
    assert ensemble(CLASSIFIER, other).findings == FINDINGS


def test_a_member_that_looks_at_the_lungs_wants_the_segmenter_it_was_trained_with():
    crops = replace(CLASSIFIER, crop=Crop("5" * 64, 0.1))
    assert ensemble(crops, segmenter=replace(SEGMENTER, weights_sha256="5" * 64)).preparations[0].side_px == 48
    for other in (None, SEGMENTER):
        with pytest.raises(ConfigError, match=r"/models/0: .* name that one with --segmenter .*555555555555…"):
            ensemble(crops, segmenter=other)


def test_a_member_that_looks_at_the_lungs_wants_them_in_a_letterbox():
    squashed = replace(SEGMENTER, weights_sha256="5" * 64, fit="squash")
    with pytest.raises(ConfigError, match=r"/models/lungs: fit squash; .*/models/0.* letterbox"):
        ensemble(replace(CLASSIFIER, crop=Crop("5" * 64, 0.1)), segmenter=squashed)


def test_an_ensemble_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="nothing to score with"):
        open_ensemble([])


def test_what_several_models_want_alike_is_prepared_once():
    made = ensemble(CLASSIFIER, replace(CLASSIFIER, side_px=64), CLASSIFIER, segmenter=SEGMENTER)
    assert made.preparations == (Preparation("voi", 32), Preparation("voi", 64))


def test_a_segmenter_alone_has_no_findings_and_sees_the_views_of_its_card():
    alone = ensemble(segmenter=SEGMENTER)
    assert (alone.findings, alone.view_filter) == ((), "all")
    assert ensemble(segmenter=replace(SEGMENTER, views="frontal")).view_filter == "frontal"


# ---- the fingerprint ------------------------------------------------------------------------------------------

CHANGES = {
    "architecture": "resnet34",
    "side_px": 64,
    "mean": 0.4,
    "std": 0.3,
    "findings": ("Pneumonia", "Cardiomegaly", "Mass"),
    "views": "all",
    "aggregation": {"Pneumonia": "min"},
    "thresholds": {"Pneumonia": 0.31},
    "calibration": {"Cardiomegaly": (1.5, 0.0)},
    "crop": Crop(SEGMENTER.weights_sha256, 0.1),
    "embedding": Embedding((0.1, 0.2), (1.0, 2.0), 3.0),
    "weights_sha256": "1" * 64,
}
YOUNGER = {"samplewise": True, "channels": 3, "output": "softmax"}
"""Fields that a fingerprint holds only where they differ from what the first models did."""
ONLY_ONE_VALUE = {"task", "recipe"}  # of a member: there is one intensity so far


@pytest.mark.parametrize("field", [*CHANGES, *YOUNGER])
def test_the_fingerprint_changes_with(field):
    changed = replace(CLASSIFIER, **{field: (CHANGES | YOUNGER)[field]})
    assert ensemble(changed, segmenter=SEGMENTER).fingerprint != ensemble(CLASSIFIER, segmenter=SEGMENTER).fingerprint


def test_no_inference_field_is_left_out_above():
    assert {*CHANGES, *ONLY_ONE_VALUE} == {*CLASSIFIER.inference_fields()}


def test_the_fingerprint_does_not_change_with_facts_or_the_folder():
    told = replace(CLASSIFIER, facts={"auroc": 0.9})
    moved = Ensemble((ModelFolder("s3://elsewhere", told),))
    assert moved.fingerprint == ensemble(CLASSIFIER).fingerprint


def test_the_fingerprint_covers_the_segmenter_the_members_and_their_order():
    other = replace(CLASSIFIER, side_px=64)
    fingerprints = {
        ensemble(CLASSIFIER).fingerprint,
        ensemble(CLASSIFIER, segmenter=SEGMENTER).fingerprint,
        ensemble(CLASSIFIER, segmenter=replace(SEGMENTER, side_px=64)).fingerprint,
        ensemble(CLASSIFIER, other).fingerprint,
        ensemble(other, CLASSIFIER).fingerprint,
        ensemble(CLASSIFIER, CLASSIFIER).fingerprint,
    }
    assert len(fingerprints) == 6


def test_explanation_and_variants_enter_the_fingerprint():
    plain = ensemble(CLASSIFIER)
    asked = [replace(plain, explain=True), replace(plain, tta=True), replace(plain, explain=True, tta=True)]
    assert len({plain.fingerprint, *(each.fingerprint for each in asked)}) == 4


@pytest.mark.parametrize("name", ["EXPLANATION_VERSION", "FLAGS_VERSION"])
def test_the_fingerprint_changes_with_the_version_of(name, monkeypatch):
    asked = replace(ensemble(CLASSIFIER), explain=True)
    before = asked.fingerprint
    monkeypatch.setattr(f"cxrpipe.models.ensemble.{name}", 99)
    assert replace(asked).fingerprint != before


def test_crop_and_embedding_come_back_from_their_card():
    told = replace(CLASSIFIER, crop=Crop("0" * 64, 0.1), embedding=Embedding((0.5, 1.0), (1.0, 2.0), 3.0))
    assert Card.from_json(told.to_json(), "here") == told


def test_the_fingerprint_changes_with_the_preparation_version(monkeypatch):
    before = ensemble(CLASSIFIER).fingerprint
    monkeypatch.setattr("cxrpipe.models.ensemble.PREPARATION_VERSION", letterbox.PREPARATION_VERSION + 1)
    assert ensemble(CLASSIFIER).fingerprint != before


def test_the_fingerprint_is_the_same_once_the_cards_have_been_saved_and_opened(tmp_path):
    saved = save_model(str(tmp_path / "m"), CLASSIFIER, b"weights", {})
    assert open_ensemble([saved.url]).fingerprint == Ensemble((saved,)).fingerprint


def test_a_folder_of_models_stands_for_them_in_the_order_of_their_names(tmp_path, small, capsys):
    for name in ("b", "a", "a10"):
        shutil.copytree(small.url, tmp_path / "models" / name)
    (tmp_path / "models" / "empty").mkdir()
    expected = tuple(str(tmp_path / "models" / name) for name in ("a", "a10", "b"))
    assert model_folders([str(tmp_path / "models")]) == expected
    assert "in this order: a, a10, b" in capsys.readouterr().err
    assert model_folders([small.url, str(tmp_path / "models")]) == (small.url, *expected)
    assert tuple(model.url for model in open_ensemble([str(tmp_path / "models")]).members) == expected


def test_a_folder_without_models_is_refused_as_before(tmp_path):
    (tmp_path / "models" / "empty").mkdir(parents=True)
    with pytest.raises(ConfigError, match="models: not a model folder"):
        open_ensemble([str(tmp_path / "models")])

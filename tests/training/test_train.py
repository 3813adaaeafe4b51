"""The program `train` below Ray: what is learned from which studies, when it is refused, and what the card says."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import builders
import pytest
import torch

from cxrpipe.config import TrainConfig
from cxrpipe.config.train_sections import CropConfig, LossConfig, TrainResources
from cxrpipe.errors import ConfigError
from cxrpipe.models.folder import save_model
from cxrpipe.models.normalise import normalise
from cxrpipe.models.weights import load, weights_bytes
from cxrpipe.records import MaskView, Study, View
from cxrpipe.records.study_table import StudyTable
from cxrpipe.training.epochs import Epoch, describe
from cxrpipe.training.model_folder import facts
from cxrpipe.training.plan import already_trained, plan_training
from cxrpipe.training.settings import settings_of

SMALL = "shufflenet_v2_x0_5"
EPOCH = Epoch(
    epoch=1,
    train_loss=0.5,
    valid_loss=0.4,
    score=0.9,
    per_finding={"A": 0.9},
    learning_rate=1e-3,
    seconds=1.0,
)


def study(number: int, split: str, labels: Mapping[str, float | None], **fields: Any) -> Study:
    """One frontal view with a mask, of a patient of its own."""
    place = {
        "views": (View(url=f"/{number}.png", view_position="PA"),),
        "mask_views": (MaskView(url=f"/{number}_mask.png", view=0),),
        "patient_id": f"patient{number}",
    }
    return Study(study_id=f"study{number}", split=split, labels=dict(labels), **place | fields)


def studies(**of_split: Sequence[Mapping[str, float | None]]) -> list[Study]:
    """One study for every set of labels: `studies(train=[{"A": 1.0}, {"A": 0.0}], valid=[{"A": 1.0}])`."""
    flat = [(split, labels) for split, all_ in of_split.items() for labels in all_]
    return [study(number, split, labels) for number, (split, labels) in enumerate(flat)]


BOTH_KINDS = [{"A": 1.0, "B": 0.0}, {"A": 0.0, "B": 1.0}]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> StudyTable:
    """Two findings, both ways in every split."""
    own = studies(train=BOTH_KINDS * 2, valid=BOTH_KINDS, test=BOTH_KINDS)
    return builders.table_of(tmp_path_factory.mktemp("table"), own)


def config(task: str = "classify", **settings: Any) -> TrainConfig:
    arch = SMALL if task == "classify" else "unet-resnet18"
    return TrainConfig(**{"task": task, "archive": "a", "out": "o", "arch": arch, "side_px": 32} | settings)


def refusal(found: list[Study], folder: Path, **settings: Any) -> str:
    """What plan_training says when it refuses."""
    with pytest.raises(ConfigError) as refused:
        plan_training(config(**settings), builders.table_of(folder, found))
    return str(refused.value)


# ---- the plan -------------------------------------------------------------------------------------------------


def test_a_classifier_learns_all_findings_from_the_train_and_valid_splits(table):
    plan, found = plan_training(config(), table)
    assert plan.card.findings == plan.spec.findings == ("A", "B")
    assert sorted({one.split for one in found}) == ["train", "valid"]
    assert len(found) == 6


def test_findings_asked_for_are_learned_in_that_order(table):
    assert plan_training(config(findings=("B", "A")), table)[0].card.findings == ("B", "A")


def test_a_segmenter_learns_from_studies_with_masks_alone(tmp_path):
    found = studies(train=[{}] * 3, valid=[{}] * 2)
    found[0] = study(0, "train", {}, mask_views=())
    plan, wanted = plan_training(config("segment"), builders.table_of(tmp_path, found))
    assert [one.study_id for one in wanted] == ["study1", "study2", "study3", "study4"]
    assert plan.card.findings == ()
    empty = torch.zeros(1, 1, 8, 8)
    assert float(plan.loss()(empty - 50, empty)) == pytest.approx(0, abs=1e-6)


def test_findings_without_examples_of_both_kinds_are_left_out_and_named(tmp_path, capsys):
    labels = [{"A": 1.0, "B": 0.0, "C": 1.0, "D": -1.0}, {"A": 0.0, "B": 0.0, "C": None, "D": 1.0}]
    plan, _ = plan_training(config(), builders.table_of(tmp_path, studies(train=labels, valid=labels)))
    assert plan.card.findings == ("A",)
    assert (
        "findings left out, because the train split lacks positive or negative examples: B, C, D"
        in capsys.readouterr().err
    )


def test_a_finding_asked_for_without_examples_of_both_kinds_is_refused(tmp_path):
    found = studies(train=[{"A": 1.0, "B": 0.0}, {"A": 0.0, "B": 0.0}], valid=BOTH_KINDS)
    assert "the train split lacks positive or negative examples of B" in refusal(found, tmp_path, findings=("A", "B"))


def test_a_finding_that_only_laterals_show_is_left_out(tmp_path):
    found = studies(train=[*BOTH_KINDS, {"A": 0.0, "B": 0.0}], valid=BOTH_KINDS)
    found[1] = study(1, "train", BOTH_KINDS[1], views=(View(url="/1.png", view_position="LATERAL"),))
    plan, wanted = plan_training(config(), builders.table_of(tmp_path, found))
    assert plan.card.findings == ("A",)
    assert "study1" not in {one.study_id for one in wanted}


def test_a_finding_that_the_table_does_not_label_is_refused_with_those_it_does(table):
    with pytest.raises(ConfigError, match=r"findings Mass are not labelled in .*it has A, B"):
        plan_training(config(findings=("A", "Mass")), table)


def test_a_table_without_labels_cannot_teach_a_classifier(tmp_path):
    assert "no labels" in refusal(studies(train=[{}], valid=[{}]), tmp_path)


def test_a_train_split_of_one_kind_is_refused(tmp_path):
    assert "lacks positive or negative examples of" in refusal(
        studies(train=[{"A": 0.0}] * 3, valid=[{"A": 1.0}]), tmp_path
    )


@pytest.mark.parametrize("missing", ["train", "valid"])
@pytest.mark.parametrize("task", ["classify", "segment"])
def test_a_split_without_studies_is_refused(task, missing, tmp_path):
    splits = {split: BOTH_KINDS for split in ("train", "valid", "test") if split != missing}
    assert f"in the {missing} split; training needs train and valid" in refusal(studies(**splits), tmp_path, task=task)


def test_a_valid_split_that_says_nothing_of_the_findings_is_refused(tmp_path):
    found = studies(train=BOTH_KINDS, valid=[{"A": None, "B": -1.0}])
    assert "no study with a frontal view and a label in the valid split" in refusal(found, tmp_path)


def test_patients_in_two_splits_are_refused_by_name(tmp_path):
    found = studies(train=BOTH_KINDS, valid=BOTH_KINDS, test=BOTH_KINDS)
    found += [study(7, "test", BOTH_KINDS[0], patient_id="patient0"), study(8, "train", {"A": 1.0}, patient_id=None)]
    found += [study(9, "test", BOTH_KINDS[0], patient_id=None)]  # unknown patients are no leak
    said = refusal(found, tmp_path)
    assert "1 patients are in more than one split (patient0); split by patient" in said


@pytest.mark.parametrize("settings", [{"arch": "resnet19"}, {"arch": "unet-resnet18"}, {"arch": "alexnet"}])
def test_an_architecture_that_cannot_do_it_is_refused(settings, table):
    with pytest.raises(ConfigError, match=f"arch '?{settings['arch']}"):
        plan_training(config(**settings), table)


def test_a_segmenter_of_another_fit_finds_no_lungs_to_crop_to(table, tmp_path):
    squashed = builders.segmenter(tmp_path, fit="squash")
    with pytest.raises(
        ConfigError, match=r"--crop.segmenter .*: fit squash; .* expected a segmenter of the fit letterbox"
    ):
        plan_training(config(crop=CropConfig(segmenter=squashed.url)), table)


def test_views_are_cropped_to_the_lungs_of_one_segmenter_and_of_no_vote(table, tmp_path):
    one = builders.segmenter(tmp_path / "lungs" / "a")
    plan, _ = plan_training(config(crop=CropConfig(segmenter=str(tmp_path / "lungs"))), table)
    assert plan.card.crop.segmenter_sha256 == one.card.weights_sha256
    builders.segmenter(tmp_path / "lungs" / "b", seed=1)
    with pytest.raises(ConfigError, match=r"--crop.segmenter .*lungs: holds 2 models; .* name one of them, .*lungs/a"):
        plan_training(config(crop=CropConfig(segmenter=str(tmp_path / "lungs"))), table)


@pytest.mark.parametrize(("present", "absent", "weight"), [(2, 6, 3.0), (4, 2, 0.5), (1, 50, 20.0), (50, 1, 1 / 20)])
def test_a_rare_kind_weighs_more_within_bounds(present, absent, weight, tmp_path):
    labels = [{"A": 1.0}] * present + [{"A": 0.0}] * absent + [{"A": -1.0}, {"A": None}]
    plan, _ = plan_training(config(), builders.table_of(tmp_path, studies(train=labels, valid=[{"A": 1.0}])))
    assert plan.ratios == pytest.approx((weight,))
    logits, positive = torch.zeros(1, 1), torch.ones(1, 1)
    assert float(plan.loss()(logits, positive)) == pytest.approx(weight * math.log(2))


def test_every_worker_starts_from_the_same_network_and_another_seed_from_another(table):
    plan, _ = plan_training(config(seed=3), table)
    other, _ = plan_training(config(seed=4), table)
    assert weights_bytes(plan.network()) == weights_bytes(plan.network())
    assert weights_bytes(plan.network()) != weights_bytes(other.network())


def test_a_training_can_start_from_a_model_and_wants_pixels_as_that_one_did(table, tmp_path):
    first, _ = plan_training(config(seed=3), table)
    weights = weights_bytes(first.network())
    model = save_model(str(tmp_path / "model"), first.card, weights, facts={})
    second, _ = plan_training(config(seed=4, weights=model.url), table)
    assert weights_bytes(second.network()) == weights
    assert (second.card.mean, second.card.std) == (first.card.mean, first.card.std)


# ---- what labels mean -----------------------------------------------------------------------------------------

UNSURE = [{"A": 1.0, "B": -1.0}, {"A": 0.0, "B": None}, {"A": -1.0, "B": 0.0}, {"A": None, "B": 1.0}]


def targets(folder: Path, split: str, **loss: Any) -> list[list[float]]:
    """Of every study of a split, A and B, as a training with these settings reads them; nan as None."""
    found = studies(train=UNSURE, valid=UNSURE)
    plan, found = plan_training(config(loss=LossConfig(**loss)), builders.table_of(folder, found))
    assert plan.card.findings == ("A", "B")
    rows = [plan.spec.targets(one) for one in found if one.split == split]
    return [[None if math.isnan(cell) else round(float(cell), 6) for cell in row] for row in rows]


@pytest.mark.parametrize(
    ("policy", "becomes"), [("ignore", None), ("ones", 1.0), ("zeros", 0.0), ("smooth", 0.7), ("multi-class", -1.0)]
)
def test_uncertain_labels_of_the_train_split_become_what_the_policy_says_cell_by_cell(policy, becomes, tmp_path):
    assert targets(tmp_path, "train", uncertain=policy) == [[1, becomes], [0, None], [becomes, 0], [None, 1]]
    assert targets(tmp_path / "v", "valid", uncertain=policy) == [[1, None], [0, None], [None, 0], [None, 1]]


def test_a_finding_may_have_a_policy_of_its_own(tmp_path):
    own = targets(tmp_path, "train", uncertain="ones", uncertain_of=("B=zeros",))
    assert own == [[1, 0], [0, None], [1, 0], [None, 1]]


@pytest.mark.parametrize("split", ["train", "valid"])
def test_blank_labels_become_zeros_in_every_split_where_that_is_asked_for(split, tmp_path):
    assert targets(tmp_path, split, blank="zeros") == [[1, None], [0, 0], [None, 0], [0, 1]]


def test_a_policy_for_a_finding_that_is_not_labelled_is_refused(table):
    with pytest.raises(ConfigError, match="findings Mass are not labelled"):
        plan_training(config(loss=LossConfig(uncertain_of=("Mass=ones",))), table)


def test_cross_entropy_has_no_third_kind(table):
    with pytest.raises(ConfigError, match="cross-entropy has no class for uncertain labels"):
        plan_training(config(loss=LossConfig(name="cross-entropy", uncertain="multi-class")), table)


def test_the_outputs_of_a_third_kind_stay_out_of_the_model_and_change_nothing_in_it(tmp_path):
    settings = config(arch="smallcnn", loss=LossConfig(uncertain_of=("B=multi-class",)))
    plan, _ = plan_training(settings, builders.table_of(tmp_path, studies(train=UNSURE, valid=UNSURE)))
    network, pixels = plan.network().eval(), torch.rand(2, 1, 32, 32)
    weights = plan.for_scoring(weights_bytes(network))
    scoring = load(save_model(str(tmp_path / "model"), plan.card, weights, facts={}))
    assert network(pixels).shape == (2, 3)
    assert torch.equal(scoring(pixels), network(pixels)[:, :2])


def test_a_teacher_decides_uncertain_cells_of_its_findings_and_no_others(tmp_path):
    teacher = builders.small_classifier(tmp_path / "teacher", findings=("B", "A"))
    settings = config(loss=LossConfig(uncertain_of=("B=self-trained",), teacher=teacher.url))
    own = builders.table_of(tmp_path, studies(train=UNSURE, valid=UNSURE))
    plan, _ = plan_training(settings, own)
    pixels = torch.randint(0, 256, (2, 1, 32, 32), dtype=torch.uint8)
    known = torch.tensor([[1.0, -1.0], [math.nan, 0.0]])
    taught = plan.teacher().teach(pixels, known)
    said = load(teacher)(normalise(pixels, teacher.card)).sigmoid()[0, 0].detach()
    assert float(taught[0, 1]) == pytest.approx(float(said), abs=1e-6)
    torch.testing.assert_close(taught[[0, 1, 1], [0, 0, 1]], known[[0, 1, 1], [0, 0, 1]], equal_nan=True)


def test_a_teacher_of_another_side_is_refused(table, tmp_path):
    teacher = builders.small_classifier(tmp_path, findings=("A", "B"), side_px=64)
    plan, _ = plan_training(config(loss=LossConfig(uncertain="self-trained", teacher=teacher.url)), table)
    with pytest.raises(ConfigError, match=r"side_px=64.*train it alike"):
        plan.teacher()


@pytest.mark.parametrize(
    ("balance", "weight", "copies"), [("weights", 3.0, ()), ("sampling", 1.0, (3.0,)), ("none", 1.0, ())]
)
def test_imbalance_is_met_once_by_weights_by_sampling_or_not_at_all(balance, weight, copies, tmp_path):
    labels = [{"A": 1.0}] * 2 + [{"A": 0.0}] * 6
    own = builders.table_of(tmp_path, studies(train=labels, valid=[{"A": 1.0}]))
    plan, _ = plan_training(config(loss=LossConfig(balance=balance)), own)
    assert plan.copies == pytest.approx(copies)
    assert float(plan.loss()(torch.zeros(1, 1), torch.ones(1, 1))) == pytest.approx(weight * math.log(2))


def test_what_an_epoch_is_best_in_must_be_learned(table):
    assert plan_training(config(best="B"), table)[0].config.best == "B"
    with pytest.raises(ConfigError, match="--best 'Mass'; expected one of score, loss, accuracy, last, A, B"):
        plan_training(config(best="Mass"), table)
    with pytest.raises(ConfigError, match="--watch 'last'; expected one of score, loss, accuracy, A, B"):
        plan_training(config(watch="last"), table)


# ---- what was trained before ----------------------------------------------------------------------------------


def trained(folder: Path, **settings: Any) -> TrainConfig:
    """The settings of a model that lies in the folder."""
    own = config(out=str(folder), **settings)
    model = builders.small_classifier(folder)
    save_model(model.url, model.card, model.read_weights(), facts={"settings": settings_of(own)})
    return own


def test_an_empty_folder_holds_no_model(tmp_path):
    assert not already_trained(config(out=str(tmp_path / "model")))


def test_a_model_of_the_same_settings_is_known_again(tmp_path):
    assert already_trained(trained(tmp_path, findings=("A", "B")))


def test_a_model_that_is_older_than_a_setting_was_trained_with_its_default(tmp_path):
    own = trained(tmp_path)
    card = json.loads((tmp_path / "card.json").read_text())
    del card["facts"]["settings"]["folds_by"], card["facts"]["settings"]["augment"]["noise"]
    (tmp_path / "card.json").write_text(json.dumps(card))
    assert already_trained(own)
    with pytest.raises(ConfigError, match="other settings"):
        already_trained(replace(own, folds=2, folds_by="acquisition"))


@pytest.mark.parametrize("other", [{"seed": 1}, {"findings": ("B",)}, {"epochs": 11}, {"task": "segment"}])
def test_a_model_of_other_settings_is_not_overwritten(other, tmp_path):
    trained(tmp_path)
    with pytest.raises(ConfigError, match=f"{tmp_path}: holds a model trained with other settings"):
        already_trained(config(out=str(tmp_path), **other))


def test_a_model_is_not_written_over_a_file(tmp_path):
    (tmp_path / "model").touch()
    with pytest.raises(ConfigError, match="model: a file; expected a folder"):
        already_trained(config(out=str(tmp_path / "model")))


# ---- the card, and the log ------------------------------------------------------------------------------------


def test_the_facts_are_json_and_say_where_the_model_comes_from(tmp_path):
    people = [{"patient_age": age, "patient_sex": sex} for age, sex in ((20, "F"), (40, "M"), (60, "F"), (None, None))]
    found = [study(n, "train", BOTH_KINDS[n % 2], **person) for n, person in enumerate(people)]
    found += studies(test=[{}] * 4, valid=BOTH_KINDS)[4:]
    table = builders.table_of(tmp_path, found)
    plan, wanted = plan_training(config(seed=5), table)
    history = [replace(EPOCH, score=None), replace(EPOCH, epoch=2)]
    said = facts(plan, table, wanted, history)
    assert json.loads(json.dumps(said, allow_nan=False)) == said
    assert said["archive"] == str(tmp_path)
    assert (said["split_seed"], said["settings"]["seed"]) == (7, 5)
    assert said["population"]["train"] == {
        "studies": 4,
        "patients": 4,
        "age_quartiles": [30.0, 40.0, 50.0],
        "view_positions": {"PA": 4},
        "sex": {"F": 2, "M": 1, "unknown": 1},
        "present": {"A": 2, "B": 2},
    }
    assert said["population"]["valid"]["studies"] == 2
    assert (said["best_epoch"], said["valid"]["score"]) == (2, 0.9)
    assert [epoch["score"] for epoch in said["history"]] == [None, 0.9]


def test_an_epoch_is_told_in_one_line_whatever_it_lacks(table):
    card = plan_training(config(), table)[0].card
    assert describe(card, EPOCH) == "loss 0.5000, valid loss 0.4000, valid AUROC 0.9000"
    assert describe(card, replace(EPOCH, accuracy=0.75)).endswith("valid AUROC 0.9000, valid accuracy 0.7500")
    lacking = replace(EPOCH, train_loss=None, score=None)
    assert describe(card, lacking) == "loss not defined, valid loss 0.4000, valid AUROC not defined"


def test_a_training_on_other_machines_is_the_same_training(tmp_path):
    own = trained(tmp_path, findings=("A", "B"))
    assert already_trained(replace(own, use_gpu="on", resources=TrainResources(gpus=4, cpus=32, wait_s=60)))

"""A training that starts from an adopted model: it prepares films as that one did, and freezes its blocks."""

from dataclasses import replace
from pathlib import Path

import builders
import cv2
import numpy as np
import pytest
import torch
from test_train import BOTH_KINDS, config, studies

from cxrpipe.config.augment import AugmentConfig
from cxrpipe.config.train_sections import CropConfig, FreezeConfig
from cxrpipe.errors import ConfigError
from cxrpipe.images.squares import decode_view
from cxrpipe.models import architectures
from cxrpipe.models.card import Card
from cxrpipe.models.folder import ModelFolder, save_model
from cxrpipe.models.normalise import middle
from cxrpipe.models.weights import load, weights_bytes
from cxrpipe.records.study_table import StudyTable
from cxrpipe.training.plan import plan_training
from cxrpipe.training.start import check, origin, training_squares
from cxrpipe.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")
VIT = "timm:vit_tiny_patch16_224,depth=2,patch_size=14"
SIDE_PX = 28
ORIGIN = {"source": "hf:a/b", "licence": "MIT", "citation": None}
BACKBONE = Card(
    task="embed",
    architecture=VIT,
    side_px=SIDE_PX,
    channels=3,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    fit="center-crop",
    crop_fraction=0.875,
    resize="bicubic",
    intensity="nih",
)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> ModelFolder:
    """A bare backbone of three channels, for squares of two by two patches of 14 px."""
    torch.manual_seed(0)
    weights = weights_bytes(architectures.build_from_card(BACKBONE))
    return save_model(str(tmp_path_factory.mktemp("backbone")), BACKBONE, weights, ORIGIN)


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> StudyTable:
    own = studies(train=BOTH_KINDS * 4, valid=BOTH_KINDS * 2)
    return builders.table_of(tmp_path_factory.mktemp("table"), own)


def test_the_new_card_takes_architecture_and_preparation_from_the_model(backbone, table):
    plan, _ = plan_training(config(arch=None, weights=backbone.url, side_px=SIDE_PX), table)
    for name in ("architecture", "channels", "mean", "std", "intensity", "fit", "crop_fraction", "resize", "side_px"):
        assert getattr(plan.card, name) == getattr(BACKBONE, name), name
    assert (plan.card.task, plan.card.findings) == ("classify", ("A", "B"))
    assert plan.spec.preparation == BACKBONE.preparation


def test_the_weights_are_those_of_the_model_under_a_fresh_head(backbone, table):
    plan, _ = plan_training(config(arch=None, weights=backbone.url, side_px=SIDE_PX), table)
    network, source = plan.network(), load(backbone)
    assert network.head.out_features == 2
    for name, value in source.state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name


def test_source_licence_and_citation_go_on_to_the_model_that_is_trained(backbone):
    assert origin(config(weights=backbone.url)) == ORIGIN | {"started_from": backbone.card.weights_sha256}
    assert origin(config(weights="none")) == {}


@pytest.mark.parametrize("policy", ["partial", "last-1"])
def test_an_epoch_moves_the_later_blocks_of_a_transformer_and_leaves_the_others_to_the_bit(policy, backbone, table):
    freeze = FreezeConfig(policy=policy, fraction=0.75)
    settings = config(arch=None, weights=backbone.url, side_px=SIDE_PX, epochs=1, freeze=freeze)
    plan, _ = plan_training(settings, table)
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (8, 1, SIDE_PX, SIDE_PX), dtype=np.uint8))
    batch = [(pixels, torch.tensor([[1.0, 0.0], [0.0, 1.0]] * 4))]
    trainer = Trainer(settings, plan.card, plan.network(), plan.loss(), steps=1)
    (epoch,) = trainer.epochs(lambda number: batch, lambda: batch)
    assert np.isfinite(epoch.valid_loss)
    before, after = load(backbone).state_dict(), trainer.network.state_dict()
    moved = {
        name.rpartition(".")[0].partition(".norm")[0] for name in before if not torch.equal(before[name], after[name])
    }
    assert {name[:8] for name in moved if name} == {"blocks.1", "norm"}
    assert torch.equal(after["pos_embed"], before["pos_embed"])


def test_an_onnx_file_is_refused_with_the_reason(tmp_path):
    card = replace(BACKBONE, task="classify", findings=("A",), architecture="onnx")
    model = save_model(str(tmp_path / "m"), card, b"", facts={})
    with pytest.raises(
        ConfigError, match=r"an ONNX file computes and does not learn; adopt the network that it was exp"
    ):
        check(config(arch=None, weights=model.url))


def test_a_side_that_a_transformer_was_not_made_for_is_refused(backbone, table):
    plan, _ = plan_training(config(arch=None, weights=backbone.url, side_px=56), table)
    with pytest.raises(ConfigError, match=r"tensors of timm:vit_tiny.*\(a transformer's: of the same side_px\)"):
        plan.network()


@pytest.mark.parametrize("arch", ["smallcnn", "timm:resnet10t"])
def test_another_architecture_than_that_of_the_model_is_refused(arch, backbone, table):
    with pytest.raises(ConfigError):
        plan_training(config(arch=arch, weights=backbone.url, side_px=32), table)[0].network()


def test_a_segmenter_of_others_is_no_start_for_one_of_ours(tmp_path: Path):
    card = replace(BACKBONE, task="segment", architecture="unet-resnet18", channels=1, mean=0.5, std=0.5, side_px=32)
    model = save_model(str(tmp_path / "m"), card, b"", facts={})
    with pytest.raises(ConfigError, match="a training draws both lungs in the letterbox"):
        check(config("segment", weights=model.url))


def test_weights_at_a_relative_path_are_found_from_the_folder_of_a_worker(backbone, table, tmp_path, monkeypatch):
    monkeypatch.chdir(Path(backbone.url).parent)
    relative = config(arch=None, weights=Path(backbone.url).name, side_px=SIDE_PX)
    plan, _ = plan_training(relative, table)
    monkeypatch.chdir(tmp_path)
    state = plan.network().state_dict()
    assert all(torch.equal(state[name], value) for name, value in load(backbone).state_dict().items() if name in state)
    assert plan.config == relative  # the card tells the settings as they were given


# ---- squares for random crops ---------------------------------------------------------------------------------


@pytest.mark.parametrize("side_px", [32, 64, 96, 224])
@pytest.mark.parametrize("size", [(300, 417), (417, 300), (1001, 700), (90, 90), (513, 1024)])
def test_the_middle_of_a_square_for_random_crops_is_what_scoring_shows(side_px, size):
    settings = config(side_px=side_px, fit="center-crop", crop_fraction=0.875, augment=AugmentConfig(crop=0.08))
    card = check(settings)
    larger = training_squares(settings, card)
    edge_px = round(side_px / 0.875)
    assert edge_px - 4 <= larger.side_px < edge_px
    pixels = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    _, png = cv2.imencode(".png", pixels)
    squares = decode_view(png.tobytes(), "film.png", (larger, card.preparation)).squares
    middle_of_larger = middle(torch.from_numpy(squares[larger]), side_px).numpy()
    assert np.array_equal(middle_of_larger, squares[card.preparation])


@pytest.mark.parametrize("settings", [{}, {"fit": "squash"}, {"fit": "center-crop", "crop_fraction": 0.875}])
def test_without_random_crops_of_a_middle_views_are_prepared_as_for_scoring(settings):
    crop = 1.0 if "crop_fraction" in settings else 0.5
    own = config(augment=AugmentConfig(crop=crop), **settings)
    assert training_squares(own, check(own)) == check(own).preparation


def test_settings_that_name_a_fit_win_over_the_model_that_is_started_from(backbone, table):
    settings = {"arch": None, "weights": backbone.url, "side_px": SIDE_PX}
    plan, _ = plan_training(config(fit="letterbox", samplewise=True, **settings), table)
    assert (plan.card.fit, plan.card.crop_fraction, plan.card.samplewise) == ("letterbox", 1.0, True)
    assert plan.card.resize == BACKBONE.resize


def test_a_model_that_standardises_samplewise_hands_that_on(tmp_path, table):
    first, _ = plan_training(config(samplewise=True), table)
    model = save_model(str(tmp_path), first.card, weights_bytes(first.network()), {})
    assert plan_training(config(weights=model.url), table)[0].card.samplewise


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"crop_fraction": 0.875}, "crop-fraction 0.875 with --fit auto; it is for center-crop"),
        ({"fit": "center-crop", "crop_fraction": 0.0}, "crop-fraction must be more than 0"),
        ({"fit": "squash", "task": "segment", "arch": "unet-resnet18"}, "--fit squash with a segmenter"),
        ({"fit": "squash", "crop": CropConfig(segmenter="s")}, "--fit squash with --crop.segmenter"),
        ({"last_dropout": 0.3}, "last-dropout with the head linear"),
        ({"head": "mlp-8", "last_dropout": 1.0}, "last-dropout must be less than 1"),
        ({"best": "accuracy", "task": "segment", "arch": "unet-resnet18"}, "--best accuracy is for classifiers"),
        ({"freeze": FreezeConfig(early_stop="each")}, "early-stop each needs --stop-after"),
        ({"freeze": FreezeConfig(early_stop="each"), "stop_after": 1, "refit": ("a",)}, "--refit with --freeze.early"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        config(**settings)

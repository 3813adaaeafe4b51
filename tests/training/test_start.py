"""A training that starts from an adopted model: it prepares films as that one did, and freezes its blocks."""

from dataclasses import replace
from pathlib import Path

import builders
import numpy as np
import pytest
import torch
from test_train import BOTH_KINDS, config, studies

from cxrpipe.config.train_sections import FreezeConfig
from cxrpipe.errors import ConfigError
from cxrpipe.models import architectures
from cxrpipe.models.card import Card
from cxrpipe.models.folder import ModelFolder, save_model
from cxrpipe.models.weights import load, weights_bytes
from cxrpipe.records.study_table import StudyTable
from cxrpipe.training.plan import plan_training
from cxrpipe.training.start import check, origin
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

"""New heads on the networks of models: they answer to the feature vectors that the models had before."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import classifier, small_classifier

from cxrpipe.errors import ConfigError
from cxrpipe.models import architectures, weights
from cxrpipe.models.card import Card
from cxrpipe.models.features import with_features
from cxrpipe.models.folder import ModelFolder, save_model
from cxrpipe.models.heads import with_heads

pytestmark = pytest.mark.usefixtures("one_thread")

SIDE_PX = 32


def views() -> torch.Tensor:
    return torch.rand(4, 1, SIDE_PX, SIDE_PX, generator=torch.Generator().manual_seed(0))


def backbone(url: str, architecture: str) -> ModelFolder:
    """A network without a head."""
    card = Card(task="embed", architecture=architecture, side_px=SIDE_PX, mean=0.5, std=0.25)
    torch.manual_seed(0)
    return save_model(url, card, weights.weights_bytes(architectures.build_from_card(card)), {})


SOURCES = {
    "linear": lambda url: small_classifier(url),
    "mlp": lambda url: small_classifier(url, head="mlp-16"),
    "small cnn": lambda url: classifier(url, architecture="smallcnn"),
    "backbone": lambda url: backbone(str(url), "shufflenet_v2_x0_5"),
    "backbone of timm": lambda url: backbone(str(url), "timm:vit_tiny_patch16_224,depth=1"),
    "softmax": lambda url: small_classifier(
        url, findings=("Mass", "Edema"), output="softmax", outputs=("", "Mass", "", "Edema")
    ),
}


@pytest.mark.parametrize("source", [*SOURCES])
@torch.inference_mode()
def test_the_new_network_applies_the_head_to_the_vectors_of_the_source(tmp_path, source):
    model = SOURCES[source](tmp_path / "source")
    before = weights.load(model)
    vectors = before(views()) if model.card.task == "embed" else with_features(before, SIDE_PX)(views()).features
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(3, vectors.shape[1])).astype(np.float32), np.arange(3, dtype=np.float32)
    card, data = with_heads(model, ("Mass", "Edema", "Nodule"), weight, bias)
    assert (card.task, card.head, card.findings) == ("classify", "linear", ("Mass", "Edema", "Nodule"))
    assert card.backbone.weights_sha256 == model.card.weights_sha256
    new = weights.load(save_model(str(tmp_path / "new"), card, data, {}))
    torch.testing.assert_close(new(views()), vectors @ torch.from_numpy(weight).T + torch.from_numpy(bias))


def test_findings_keep_the_rules_of_the_source_and_nothing_that_was_fitted_for_it(tmp_path):
    fitted = {"thresholds": {"Pneumonia": 0.2}, "calibration": {"Pneumonia": (2.0, 1.0)}}
    model = small_classifier(tmp_path / "source", aggregation={"Pneumonia": "mean"}, **fitted)
    weight = np.zeros((2, 1024), np.float32)
    card, _ = with_heads(model, ("Mass", "Pneumonia"), weight, np.zeros(2, np.float32))
    assert card.aggregation == {"Mass": "max", "Pneumonia": "mean"}
    assert (card.thresholds, card.calibration, card.embedding) == ({}, {}, None)


def test_vectors_of_another_length_are_refused(tmp_path):
    model = small_classifier(tmp_path / "source")
    with pytest.raises(ConfigError, match="takes no head on these feature vectors"):
        with_heads(model, ("Mass",), np.zeros((1, 9), np.float32), np.zeros(1, np.float32))


def test_vectors_are_those_of_the_backbone_under_the_head(tmp_path):
    card = small_classifier(tmp_path / "source").card
    assert card.vectors_sha256 == card.weights_sha256
    head, _ = with_heads(
        ModelFolder(str(tmp_path / "source"), card), ("Mass",), np.zeros((1, 1024), np.float32), np.zeros(1, np.float32)
    )
    assert replace(head, weights_sha256="new").vectors_sha256 == card.weights_sha256

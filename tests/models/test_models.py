"""Architectures: what every one of them promises, and where their weights come from."""

import copy
import functools
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torchvision
from builders import FINDINGS
from segmentation_models_pytorch import Unet
from torch import nn

from cxrpipe.errors import ConfigError
from cxrpipe.models import architectures, weights
from cxrpipe.models.card import Card
from cxrpipe.models.folder import save_model

pytestmark = pytest.mark.usefixtures("one_thread")
SIDE_PX = 32
ARCHITECTURES = (
    "resnet18",
    "resnet50",
    "densenet121",
    "efficientnet_b0",
    "mobilenet_v3_small",
    "mobilenet_v3_small mlp-512",
    "smallcnn",
    "unet-resnet18",
    "unet-classic",
    "timm:vit_tiny_patch16_224,depth=2",
    pytest.param("vit_b_16", marks=pytest.mark.slow),  # 86 million parameters: building them takes 3 s, three times
)
"""With the head, where it is not linear."""


def build(architecture: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    name, _, head = architecture.partition(" ")
    return architectures.build(name, 1 if name.startswith("unet") else 3, SIDE_PX, head or "linear")


built = functools.cache(build)
"""For tests that leave the network as it is, or copy it: building takes up to half a second."""


def images(number: int = 2, side_px: int = SIDE_PX) -> torch.Tensor:
    """(N, 1, S, S)"""
    return torch.randn(number, 1, side_px, side_px, generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def answer(network: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    return network.eval()(pixels)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
class TestEveryArchitecture:
    def test_answers_a_logit_per_finding_or_per_pixel(self, architecture):
        expected = (2, 1, SIDE_PX, SIDE_PX) if architecture.startswith("unet") else (2, 3)
        assert answer(built(architecture), images()).shape == expected

    def test_looks_at_one_channel(self, architecture):
        first = next(module for module in built(architecture).modules() if isinstance(module, nn.Conv2d))
        assert first.in_channels == 1

    def test_starts_the_same_under_the_same_seed_and_else_not(self, architecture):
        first, same, other = (
            torch.cat([value.flatten() for value in network.parameters()])
            for network in (built(architecture), build(architecture), built(architecture, 1))
        )
        assert torch.equal(first, same)
        assert not torch.equal(first, other)

    def test_answers_the_same_after_its_weights_were_saved_and_loaded(self, architecture):
        state = safetensors.torch.load(weights.weights_bytes(built(architecture)))
        other = copy.deepcopy(built(architecture, 1))
        other.load_state_dict(state)
        assert torch.equal(answer(other, images()), answer(built(architecture), images()))

    def test_passes_gradients_to_every_parameter_while_it_trains(self, architecture):
        network = copy.deepcopy(built(architecture)).train()
        network(images(4)).square().sum().backward()
        without = [name for name, value in network.named_parameters() if value.grad is None or not value.grad.any()]
        assert without == []


@pytest.mark.parametrize("architecture", ["resnet18", "unet-resnet18", "timm:vit_tiny_patch16_224,depth=2"])
def test_a_network_may_take_three_channels(architecture):
    network = architectures.build(architecture, 2, SIDE_PX, channels=3)
    assert answer(network, torch.zeros(1, 3, SIDE_PX, SIDE_PX)).shape[:2] == (1, 2)


@pytest.mark.parametrize("architecture", ["resnet18", "timm:resnet10t", "timm:vit_tiny_patch16_224,depth=2"])
def test_a_bare_backbone_gives_what_the_head_of_a_classifier_takes(architecture):
    classifier, backbone = built(architecture), architectures.build(architecture, 0, SIDE_PX)
    name, head = architectures.head_of(classifier)
    assert architectures.head_of(backbone)[0] == name
    state = {key: value for key, value in classifier.state_dict().items() if not key.startswith(f"{name}.")}
    backbone.load_state_dict(state)
    assert torch.equal(answer(head, answer(backbone, images())), answer(classifier, images()))


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("timm:resnet19x", r"timm .* has no network 'resnet19x'; did you mean .*resnet"),
        ("timm:resnet10t,checkpoint_path=a.pth", "'checkpoint_path=a.pth'; expected NAME=VALUE with one of"),
        ("timm:resnet10t,mlp_ratio=4", "timm refuses an argument"),
        ("timm:resnetv2_18", "has a Conv2d as its classifier"),
        ("timm:levit_128", "has several classifiers"),
    ],
)
def test_a_network_of_timm_that_cannot_be_used_is_refused_in_one_line(architecture, message):
    with pytest.raises(ConfigError, match=message) as refused:
        architectures.check_architecture(architecture, "classify", SIDE_PX)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("depth", [34, 101, 152])  # the others are above
def test_every_resnet_takes_one_channel_and_answers_for_every_finding(depth):
    with torch.device("meta"):  # shapes without numbers
        assert answer(architectures.build(f"resnet{depth}", 3, 64), torch.zeros(2, 1, 64, 64)).shape == (2, 3)


def test_the_dense_head_has_the_layers_of_the_tutorials_in_their_order():
    name, head = architectures.head_of(built("mobilenet_v3_small mlp-512"))
    assert name == "classifier.3"
    kinds = nn.Dropout, nn.Linear, nn.ReLU, nn.BatchNorm1d, nn.Dropout, nn.Linear
    assert tuple(type(layer) for layer in head) == kinds
    assert (head[1].out_features, head[5].out_features) == (512, 3)


def test_a_dense_head_has_a_hidden_layer_and_drops_what_enters_the_logits():
    network = architectures.build("mobilenet_v3_small", 3, 64, "dense-1024", architectures.Dropouts(0.3))
    name, head = architectures.head_of(network)
    assert name == "classifier.3"
    assert tuple(type(layer) for layer in head) == (nn.Linear, nn.ReLU, nn.Dropout, nn.Linear)
    assert (head[0].out_features, head[2].p, head[3].out_features) == (1024, 0.3, 3)


@pytest.mark.parametrize(("last", "expected"), [(None, [0.5, 0.5]), (0.3, [0.5, 0.3])])
def test_an_mlp_head_may_drop_another_fraction_right_before_its_logits(last, expected):
    dropouts = architectures.Dropouts(0.5, last)
    _, head = architectures.head_of(architectures.build("mobilenet_v3_small", 3, 64, "mlp-16", dropouts))
    assert [layer.p for layer in head if isinstance(layer, nn.Dropout)] == expected


def test_the_classic_unet_goes_from_64_to_1024_channels_and_back():
    with torch.device("meta"):
        network = architectures.build("unet-classic", 1)
    assert [level[0].out_channels for level in network.encoder] == [64, 128, 256, 512, 1024]
    assert [step["up"].out_channels for step in network.decoder] == [512, 256, 128, 64]


def test_the_small_cnn_has_four_blocks_and_a_dense_layer_of_512():
    network = built("smallcnn")
    widths = [module.out_channels for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert (widths, network.dense.out_features) == ([32, 64, 128, 128], 512)


@pytest.mark.parametrize("architecture", ["smallcnn", "mobilenet_v3_small mlp-512", "mobilenet_v3_small dense-64"])
def test_outputs_that_training_alone_needed_are_dropped_and_the_others_stay(architecture):
    network = copy.deepcopy(built(architecture))
    before = answer(network, images())
    architectures.keep_outputs(network, 2)
    assert torch.equal(answer(network, images()), before[:, :2])


@pytest.mark.parametrize(
    ("head", "task"), [("mlp", "classify"), ("mlp-0", "classify"), ("dense-", "classify"), ("mlp-512", "segment")]
)
def test_a_head_that_is_none_is_refused_with_those_there_are(head, task):
    architecture = {"classify": "resnet18", "segment": "unet-resnet18"}[task]
    with pytest.raises(ConfigError, match=f"head '{head}'; to {task}, expected linear"):
        architectures.check_architecture(architecture, task, SIDE_PX, head)


def test_a_transformer_is_built_for_the_side_of_its_card():
    card = Card(task="classify", architecture="vit_b_16", side_px=96, mean=0, std=1, findings=FINDINGS)
    with torch.device("meta"):  # shapes without numbers: this one has 86 million
        assert answer(architectures.build_from_card(card), torch.zeros(1, 1, 96, 96)).shape == (1, 2)


def test_googlenet_answers_with_logits_alone_while_it_trains():
    assert architectures.build("googlenet", 2).train()(images()).shape == (2, 2)


@pytest.mark.parametrize(
    ("architecture", "task"),
    [
        ("resnet19", "classify"),
        ("unet-resnet18", "classify"),
        ("fcn_resnet50", "classify"),
        ("squeezenet1_1", "classify"),  # ends in a ReLU
        ("resnet18", "segment"),
        ("unet-resnet19", "segment"),
        ("smallcnn", "segment"),
        ("unet-classic", "classify"),
        ("xrv:PSPNet", "segment"),  # is scored, and not trained
    ],
)
def test_a_name_that_is_no_architecture_for_the_task_is_refused(architecture, task):
    with pytest.raises(ConfigError, match=f"{architecture}.*expected"):
        architectures.check_architecture(architecture, task, SIDE_PX)


@pytest.mark.parametrize(("architecture", "side_px"), [("maxvit_t", 64), ("alexnet", 32)])
def test_a_side_that_the_architecture_cannot_take_is_refused_in_one_line(architecture, side_px):
    with pytest.raises(ConfigError, match=rf"^arch {architecture} does not take .*side_px {side_px} ") as refused:
        architectures.check_architecture(architecture, "classify", side_px)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("architecture", "task"), [("resnet18", "classify"), ("unet-resnet18", "segment")])
def test_a_known_architecture_is_accepted(architecture, task):
    architectures.check_architecture(architecture, task, SIDE_PX)


# ---- weights to start from ------------------------------------------------------------------------------------


def test_without_weights_the_network_stays_as_it_is():
    network = build("resnet18")
    weights.start_weights(network, "resnet18", "none")
    assert torch.equal(network.conv1.weight, built("resnet18").conv1.weight)


def test_weights_come_from_a_model_folder_head_included(small):
    network = architectures.build(small.card.architecture, len(FINDINGS))
    weights.start_weights(network, small.card.architecture, small.url)
    assert torch.equal(answer(network, images()), answer(weights.load(small), images()))


def test_a_head_for_other_findings_keeps_its_fresh_weights(small):
    network = architectures.build(small.card.architecture, 3)
    fresh = network.fc.weight.clone()
    weights.start_weights(network, small.card.architecture, small.url)
    assert torch.equal(network.fc.weight, fresh)
    assert torch.equal(network.conv1[0].weight, weights.load(small).conv1[0].weight)


def colour_weights(network: nn.Module, folder: Path) -> str:
    """A .safetensors file of a network that takes three channels."""
    file = folder / "colour.safetensors"
    file.write_bytes(weights.weights_bytes(network))
    return str(file)


@pytest.mark.parametrize("architecture", ["mobilenet_v3_small", "unet-resnet18"])
def test_a_colour_networks_weights_answer_to_grey_as_the_colour_network_does(architecture, tmp_path):
    torch.manual_seed(5)
    if architecture.startswith("unet"):
        colour, outputs = Unet("resnet18", encoder_weights=None, in_channels=3), 1
    else:
        colour, outputs = torchvision.models.get_model(architecture, weights=None), 1000
    grey = architectures.build(architecture, outputs)
    weights.start_weights(grey, architecture, colour_weights(colour, tmp_path))
    shown = images()
    assert torch.allclose(answer(grey, shown), answer(colour, shown.repeat(1, 3, 1, 1)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ["shufflenet_v2_x1_0", "mobilenet_v3_small"])  # shares some tensors; none
def test_weights_of_another_architecture_are_refused_and_nothing_is_filled(architecture, small):
    network = build(architecture)
    before = weights.weights_bytes(network)
    with pytest.raises(ConfigError, match=rf"tensors of {architecture} .*expected weights of the same architecture"):
        weights.start_weights(network, architecture, small.url)
    assert weights.weights_bytes(network) == before


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_a_pickle_is_refused_whatever_it_is_called(name, tmp_path):
    torch.save(built("resnet18").state_dict(), tmp_path / name)
    with pytest.raises(ConfigError, match=r"safetensors file"):
        weights.start_weights(built("resnet18"), "resnet18", str(tmp_path / name))


def test_weights_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"no weights there; expected a model folder or a \.safetensors file"):
        weights.start_weights(built("resnet18"), "resnet18", str(tmp_path / "nowhere"))


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """No cache, and a proxy that nobody listens at."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    proxy = urllib.request.ProxyHandler({"https": "http://127.0.0.1:9", "http": "http://127.0.0.1:9"})
    monkeypatch.setattr(urllib.request, "_opener", urllib.request.build_opener(proxy))


def test_weights_of_timm_are_adopted_first():
    with pytest.raises(ConfigError, match="cxrpipe adopt timm:resnet10t --out MODEL, then --weights MODEL"):
        weights.start_weights(nn.Identity(), "timm:resnet10t", "imagenet")


@pytest.mark.parametrize("architecture", ["smallcnn", "unet-classic"])
def test_our_own_networks_have_no_imagenet_weights(architecture):
    with pytest.raises(ConfigError, match=f"there are none of {architecture}; train it with --weights none"):
        weights.start_weights(nn.Identity(), architecture, "imagenet")


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("architecture", ["resnet18", "unet-resnet18"])
def test_imagenet_without_a_network_is_refused_soon_with_what_to_do(architecture):
    started = time.monotonic()
    with pytest.raises(ConfigError, match=r"cannot be downloaded here .*--weights.*--weights none$"):
        weights.start_weights(built(architecture), architecture, "imagenet")
    assert time.monotonic() - started < 5


@pytest.mark.usefixtures("offline")
def test_an_encoder_without_imagenet_weights_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"none of unet-dpn92; it has imagenet\+5k"):
        weights.start_weights(nn.Identity(), "unet-dpn92", "imagenet")


# ---- model folders --------------------------------------------------------------------------------------------


def test_a_model_folder_is_loaded_ready_to_score(small):
    assert not weights.load(small).training


def test_a_model_with_a_dense_head_is_loaded_as_its_card_says(tmp_path):
    card = Card(
        task="classify", architecture="smallcnn", head="mlp-16", side_px=32, mean=0.5, std=0.25, findings=FINDINGS
    )
    network = architectures.build_from_card(card)
    model = save_model(str(tmp_path), card, weights.weights_bytes(network), facts={})
    assert torch.equal(answer(weights.load(model), images()), answer(network, images()))


def test_a_model_folder_whose_weights_are_of_another_architecture_is_refused(tmp_path):
    card = Card(task="classify", architecture="resnet18", side_px=32, mean=0.5, std=0.25, findings=FINDINGS)
    wrong = save_model(str(tmp_path), card, weights.weights_bytes(built("mobilenet_v3_small")), facts={})
    with pytest.raises(ConfigError, match=f"{tmp_path}: its weights do not fit resnet18") as refused:
        weights.load(wrong)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 500


def test_a_model_folder_of_an_unknown_architecture_is_refused(small):
    unknown = small._replace(card=replace(small.card, architecture="resnet19"))
    with pytest.raises(ConfigError, match="arch 'resnet19'"):
        weights.load(unknown)


# regnet and mit compute with values while they are built, which torch's device `meta` does not have
@pytest.mark.parametrize(
    "architecture",
    ["resnet18", "regnet_y_400mf", "swin_t", "unet-resnet18", "unet-mit_b0", "timm:vit_tiny_patch16_224,depth=2"],
)
def test_a_network_is_loaded_with_the_values_of_its_file_and_no_others(architecture, tmp_path):
    task, findings = ("segment", ()) if architecture.startswith("unet") else ("classify", ("Pneumonia",))
    card = Card(task=task, architecture=architecture, side_px=64, mean=0.5, std=0.25, findings=findings)
    torch.manual_seed(3)
    saved = architectures.build_from_card(card).eval()
    loaded = weights.load(save_model(str(tmp_path / "m"), card, weights.weights_bytes(saved), facts={}))
    assert not any(tensor.is_meta for tensor in (*loaded.parameters(), *loaded.buffers()))
    torch.testing.assert_close(loaded.state_dict(), saved.state_dict(), rtol=0, atol=0)
    shown = images(side_px=64)
    torch.testing.assert_close(answer(loaded, shown), answer(saved, shown))


@pytest.mark.slow  # the compiler takes seconds to import
def test_the_compiler_of_torch_is_imported_by_whoever_asks_it_and_not_before():
    code = """
import sys
from cxrpipe.models import architectures
from cxrpipe.models.libraries import smp, torchvision
architectures.build("resnet18", 1), architectures.build("unet-resnet18", 1)
assert "torch._dynamo" not in sys.modules
import torch
boxes = [torch.tensor([[0.0, 0.0, 4.0, 4.0]])]
assert torchvision.ops.roi_align(torch.ones(1, 1, 8, 8), boxes, 2).tolist() == [[[[1.0, 1.0], [1.0, 1.0]]]]
assert torch.compiler.disable(len)("abc") == 3
import torch._dynamo
assert torch._dynamo.config.recompile_limit
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

"""Heat maps against Grad-CAM written out with autograd, and what a network says of views unlike its training data."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import FINDINGS, classifier, small_classifier
from torch import Tensor, nn
from torch.nn import functional

from cxrpipe.images.letterbox import Preparation
from cxrpipe.models import architectures, execution, explain, out_of_distribution
from cxrpipe.models.card import Embedding
from cxrpipe.models.ensemble import Ensemble
from cxrpipe.models.weights import load
from cxrpipe.scoring.predict import Predictor

pytestmark = pytest.mark.usefixtures("one_thread")
SIDE_PX = 64
PLAN = execution.plan("cpu")


def network_of(architecture: str) -> nn.Module:
    torch.manual_seed(0)
    return architectures.build(architecture, 3, SIDE_PX).eval()


def views(number: int = 2) -> Tensor:
    return torch.rand(number, 1, SIDE_PX, SIDE_PX, generator=torch.Generator().manual_seed(1))


def grad_cam(network: nn.Module, layer: nn.Module, images: Tensor, *, rectified: bool = False) -> Tensor:
    """(N, F, h, w) as Selvaraju et al. (2017) define it: gradients averaged over places."""
    kept: list[Tensor] = []
    hook = layer.register_forward_hook(lambda module, given, output: kept.append(output) or output.clone())
    logits = network(images)
    hook.remove()
    features = kept[0].relu() if rectified else kept[0]
    maps = []
    for finding in range(logits.shape[1]):
        (gradient,) = torch.autograd.grad(logits[:, finding].sum(), kept[0], retain_graph=True)
        weights = gradient.mean((2, 3)) if not rectified else gradient.amax((2, 3))
        maps.append((weights[:, :, None, None] * features).sum(1).relu())
    return torch.stack(maps, 1).detach()


def in_own_scale(maps: Tensor) -> Tensor:
    return maps / maps.amax((2, 3), keepdim=True).clamp_min(1e-30)


@pytest.mark.parametrize(
    ("architecture", "layer"),
    [("resnet18", "layer4"), ("shufflenet_v2_x0_5", "conv5"), ("efficientnet_b0", "features")],
)
def test_the_closed_form_is_autograds_grad_cam_up_to_a_factor(architecture, layer):
    network = network_of(architecture)
    expected = grad_cam(network, network.get_submodule(layer), views())
    made = explain.explained(network, SIDE_PX)
    assert isinstance(made, explain.ClosedForm)
    found = made(views())
    assert found.maps.shape == expected.shape
    torch.testing.assert_close(in_own_scale(found.maps.detach()), in_own_scale(expected), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found.logits, network(views()))


def test_a_densenet_is_rectified_before_its_average():
    network = network_of("densenet121")
    made = explain.explained(network, SIDE_PX)
    assert isinstance(made, explain.ClosedForm)
    features = functional.relu(network.features(views()))
    expected = torch.einsum("nchw,fc->nfhw", features, network.classifier.weight).relu()
    torch.testing.assert_close(in_own_scale(made(views()).maps), in_own_scale(expected), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("architecture", "layer"), [("mobilenet_v3_small", "features"), ("convnext_tiny", "features")])
def test_any_other_head_is_explained_by_autograd(architecture, layer):
    network = network_of(architecture)
    expected = grad_cam(network, network.get_submodule(layer), views())
    logits = network(views()).detach()
    made = explain.explained(network, SIDE_PX)
    assert isinstance(made, explain.ByGradient)
    with torch.inference_mode():
        found = made(views())
    torch.testing.assert_close(in_own_scale(found.maps), in_own_scale(expected), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found.logits, logits)


def test_a_transformer_is_explained_on_the_grid_of_its_patches():
    network = network_of("timm:vit_tiny_patch16_224,depth=2,reg_tokens=4")
    tokens: list[Tensor] = []
    hook = network.blocks[1].norm1.register_forward_hook(lambda module, given, output: tokens.append(output))
    logits = network(views())
    hook.remove()
    expected = []
    for finding in range(3):
        (gradient,) = torch.autograd.grad(logits[:, finding].sum(), tokens[0], retain_graph=True)
        weights = gradient[:, 5:].mean(1)  # behind the class token and four registers
        expected.append((tokens[0][:, 5:] * weights[:, None]).sum(2).relu().reshape(2, 4, 4))
    made = explain.explained(network, SIDE_PX)
    with torch.inference_mode():
        found = made(views())
    assert found.maps.any()
    torch.testing.assert_close(in_own_scale(found.maps), in_own_scale(torch.stack(expected, 1).detach()))
    torch.testing.assert_close(found.logits, logits.detach())


def test_a_map_whose_channels_stand_last_is_turned():
    network = network_of("timm:swin_tiny_patch4_window7_224,depths=(1,1,1,1)")
    found = explain.explained(network, SIDE_PX)(views())
    assert found.maps.shape == (2, 3, 2, 2)
    assert found.embedding.shape == (2, 768)


def test_a_network_without_a_place_for_its_features_is_not_explained():
    assert explain.explained(network_of("timm:mixer_s32_224"), SIDE_PX) is None


def test_both_ways_give_maps_of_one_scale():
    """So that members of different architectures can be averaged."""
    closed = explain.explained(network_of("resnet18"), SIDE_PX)
    gradient = explain.ByGradient(network_of("resnet18"), "layer4", SIDE_PX)
    torch.testing.assert_close(closed(views()).maps, gradient(views()).maps, rtol=1e-3, atol=1e-6)


def test_an_explained_network_is_fused_and_says_the_same():
    made = explain.explained(network_of("resnet18"), SIDE_PX)
    with torch.inference_mode():
        expected = made(views())
        fast, kernels = execution.speed_up(made, SIDE_PX, PLAN)
        assert kernels == "fused"
        assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
        for one, other in zip(fast(views()), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Ensemble:
    """One member of either kind."""
    folder = tmp_path_factory.mktemp("mixed")
    return Ensemble(
        (
            small_classifier(folder / "a", side_px=SIDE_PX),
            classifier(folder / "b", side_px=SIDE_PX, architecture="mobilenet_v3_small"),
        ),
        explain=True,
    )


def test_explaining_changes_no_probability(mixed):
    pixels = {Preparation("voi", SIDE_PX): (views()[:, 0] * 255).numpy().astype(np.uint8)}
    explained, plain = (Predictor(each, "cpu").predict(pixels) for each in (mixed, replace(mixed, explain=False)))
    np.testing.assert_allclose(explained.probs, plain.probs, atol=1e-5)
    assert plain.maps is None
    assert [each.shape[:2] for each in explained.maps] == [(2, len(FINDINGS))] * 2
    assert all((each >= 0).all() for each in explained.maps)


@pytest.mark.parametrize("architecture", ["resnet18", "mobilenet_v3_small"])
def test_an_output_that_is_dropped_has_no_map(tmp_path, architecture):
    member = classifier(
        tmp_path,
        side_px=SIDE_PX,
        architecture=architecture,
        output="softmax",
        outputs=("", "Pneumonia", "Cardiomegaly"),
    )
    pixels = {Preparation("voi", SIDE_PX): (views()[:, 0] * 255).numpy().astype(np.uint8)}
    (maps,) = Predictor(Ensemble((member,), explain=True), "cpu").predict(pixels).maps
    films = (torch.from_numpy(pixels[Preparation("voi", SIDE_PX)])[:, None] / 255 - 0.5) / 0.25
    of_all = explain.explained(load(member), SIDE_PX)(films).maps.detach()
    assert maps.shape == (2, 2, *of_all.shape[2:])
    found, dropped = in_own_scale(torch.from_numpy(maps)), in_own_scale(of_all[:, :1])
    torch.testing.assert_close(found, in_own_scale(of_all[:, 1:]), rtol=1e-2, atol=1e-2)
    assert (found[:, :1] - dropped).abs().amax() > 0.1


# ---- unlike the training data ---------------------------------------------------------------------------------


def test_distance_counts_standard_deviations():
    known = Embedding((0.0, 10.0), (1.0, 5.0), 2.0)
    assert out_of_distribution.distance(np.array([[0.0, 10.0], [3.0, 25.0]]), known) == pytest.approx([0.0, 3.0])


def test_about_one_training_view_in_a_hundred_lies_beyond_the_limit():
    training = np.random.default_rng(0).normal(3, 2, (1000, 16))
    known = out_of_distribution.embedding_of(training)
    assert np.mean(out_of_distribution.distance(training, known) > known.limit) == pytest.approx(0.01, abs=0.002)
    assert (out_of_distribution.distance(training + 20, known) > known.limit).all()


def test_a_member_that_can_tell_finds_what_is_unlike_its_training_data(tmp_path):
    """Smooth films are its training data here; noise is not."""
    plain = small_classifier(tmp_path / "m", side_px=SIDE_PX)
    noise = np.random.default_rng(0).integers(0, 256, (8, SIDE_PX, SIDE_PX), dtype=np.uint8)
    smooth = np.stack([np.add.outer(np.arange(64), np.arange(64) * k / 40).astype(np.uint8) for k in range(40)])
    network = explain.explained(load(plain), SIDE_PX)
    with torch.inference_mode():
        training = network((torch.from_numpy(smooth)[:, None] / 255 - plain.card.mean) / plain.card.std).embedding
    telling = small_classifier(
        tmp_path / "m", side_px=SIDE_PX, embedding=out_of_distribution.embedding_of(training.numpy())
    )
    pixels = {Preparation("voi", SIDE_PX): np.concatenate([smooth[:8], noise])}
    unlike = Predictor(Ensemble((telling,)), "cpu").predict(pixels).out_of_distribution
    assert unlike[8:].all()
    assert not unlike[1:7].any()
    assert Predictor(Ensemble((plain,)), "cpu").predict(pixels).out_of_distribution is None

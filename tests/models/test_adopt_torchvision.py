"""State dicts of torchvision's networks, adopted: their logits are torchvision's own."""

import warnings
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn

from cxrpipe.config import AdoptConfig
from cxrpipe.errors import ConfigError
from cxrpipe.models import normalise
from cxrpipe.models.adopt import sources
from cxrpipe.models.adopt.adopted import Adopted

VIEWS = torch.randint(0, 256, (2, 1, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def resnet18(outputs: int = 2) -> nn.Module:
    torch.manual_seed(0)
    network: nn.Module = torchvision.models.resnet18(num_classes=outputs)
    return network.eval()


def adopt(weights: Path, architecture: str = "resnet18", **settings: object) -> Adopted:
    settings = {"findings": ("Pneumonia", "Mass"), "side_px": 64} | settings
    source = f"torchvision:{architecture}"
    return sources.adopt(AdoptConfig(source=source, weights=str(weights), dry_run=True, **settings))  # type: ignore[arg-type]


@torch.inference_mode()
def logits_of(adopted: Adopted) -> Tensor:
    assert isinstance(adopted.model, nn.Module)
    logits: Tensor = adopted.model.eval()(normalise.normalise(VIEWS, adopted.card))
    return logits


@torch.inference_mode()
def expected_of(network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    ready = torchvision.transforms.functional.normalize(VIEWS.repeat(1, 3, 1, 1) / 255, mean, std)
    logits: Tensor = network(ready)
    return logits


@pytest.mark.parametrize("shape", ["plain", "state_dict", "model", "lightning", "parallel", "safetensors"])
def test_checkpoints_of_every_usual_shape_give_the_same_logits(tmp_path, shape):
    network = resnet18()
    state = network.state_dict()
    file = tmp_path / ("net.safetensors" if shape == "safetensors" else "net.pth")
    contents = {
        "plain": state,
        "state_dict": {"state_dict": state, "epoch": 3, "optimizer": {"lr": 0.1}},
        "model": {"model": state},
        "lightning": {
            "state_dict": {f"net.{key}": value for key, value in state.items()} | {"loss.weight": torch.ones(2)},
            "hyper_parameters": {"lr": 0.1},
        },
        "parallel": {f"module.{key}": value for key, value in state.items()},
    }
    if shape == "safetensors":
        safetensors.torch.save_file(state, file)
    else:
        torch.save(contents[shape], file)
    adopted = adopt(file)
    expected = expected_of(network, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert adopted.card.channels == 3
    torch.testing.assert_close(logits_of(adopted), expected, atol=1e-4, rtol=0)


def test_three_channels_under_one_mean_and_std_become_one_channel_exactly(tmp_path):
    network = resnet18()
    torch.save(network.state_dict(), tmp_path / "net.pth")
    adopted = adopt(tmp_path / "net.pth", mean=(0.5,), std=(0.25, 0.25, 0.25))
    assert (adopted.card.channels, adopted.card.mean, adopted.card.std) == (1, 0.5, 0.25)
    expected = expected_of(network, (0.5,) * 3, (0.25,) * 3)
    torch.testing.assert_close(logits_of(adopted), expected, atol=1e-4, rtol=0)


def test_a_head_in_a_sequential_as_that_of_chexnet_is_found(tmp_path):
    torch.manual_seed(0)
    network = torchvision.models.densenet121(num_classes=2).eval()
    state = {key.replace("classifier.", "classifier.0."): value for key, value in network.state_dict().items()}
    torch.save(state, tmp_path / "net.pth")
    expected = expected_of(network, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    torch.testing.assert_close(logits_of(adopt(tmp_path / "net.pth", "densenet121")), expected, atol=1e-4, rtol=0)


def test_an_output_without_a_name_is_dropped_from_a_sigmoid_and_kept_in_a_softmax(tmp_path):
    network = resnet18(3)
    torch.save(network.state_dict(), tmp_path / "net.pth")
    findings = ("Mass", "", "Hernia")
    expected = expected_of(network, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    cut = adopt(tmp_path / "net.pth", findings=findings)
    assert (cut.card.findings, cut.card.outputs) == (("Mass", "Hernia"), ())
    torch.testing.assert_close(logits_of(cut), expected[:, [0, 2]], atol=1e-4, rtol=0)
    whole = adopt(tmp_path / "net.pth", findings=findings, output="softmax")
    assert (whole.card.findings, whole.card.outputs) == (("Mass", "Hernia"), findings)
    torch.testing.assert_close(logits_of(whole), expected, atol=1e-4, rtol=0)


def test_what_the_source_does_not_say_is_assumed_and_told(tmp_path):
    torch.save(resnet18().state_dict(), tmp_path / "net.pth")
    assert adopt(tmp_path / "net.pth", mean=(0.5,), fit="letterbox").assumed == (
        "--resize bilinear",
        "--intensity voi",
        "--output sigmoid",
        "--std 0.229,0.224,0.225",
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"architecture": "resnet50"}, r"no weights of resnet50 \(\d+ of its tensors are missing"),
        ({"findings": ("Mass",)}, "1 findings for 2 outputs"),
        ({"findings": ("Mass", "Mass")}, "two outputs named Mass"),
        ({"findings": ()}, "name --findings"),
        ({"architecture": "resnet19"}, "arch 'resnet19'; to classify, expected a torchvision classifier"),
        ({"weights": "nowhere.pth"}, "no such file"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, settings, said):
    torch.save(resnet18().state_dict(), tmp_path / "net.pth")
    with pytest.raises(ConfigError, match=said):
        adopt(**{"weights": tmp_path / "net.pth", **settings})


def test_a_larger_network_does_not_pass_for_a_smaller_one(tmp_path):
    torch.save(torchvision.models.resnet34(num_classes=2).state_dict(), tmp_path / "net.pth")
    with pytest.raises(ConfigError, match=r"tensors have no place in it, such as layer1\.2"):
        adopt(tmp_path / "net.pth")


@pytest.mark.slow
def test_a_pickled_module_is_opened_with_trust_and_gives_its_state(tmp_path):
    network = resnet18()
    torch.save(network, tmp_path / "net.pth")
    with pytest.raises(ConfigError, match="--trust-pickle"):
        adopt(tmp_path / "net.pth")
    expected = expected_of(network, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    adopted = adopt(tmp_path / "net.pth", trust_pickle=True)
    torch.testing.assert_close(logits_of(adopted), expected, atol=1e-4, rtol=0)


def test_files_that_are_code_are_refused_with_the_reason(tmp_path):
    network = nn.Linear(2, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(network), tmp_path / "script.pt")
    torch.export.save(torch.export.export(network, (torch.zeros(1, 2),)), tmp_path / "export.pt2")
    (tmp_path / "export.pt2").rename(tmp_path / "export.pt")
    for name in ("script.pt", "export.pt"):
        with pytest.raises(ConfigError, match="code that runs when it is loaded"):
            adopt(tmp_path / name)
    with pytest.raises(ConfigError, match="code that runs when they are loaded"):
        sources.adopt(AdoptConfig(source="net.pt2", dry_run=True))

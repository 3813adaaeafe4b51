"""Networks of timm, and folders that timm saved, against timm's forward pass on the same pixels."""

import pytest
import timm
import torch
from hub_folders import IMAGENET, SIDE_PX, hub_folder, ours, saved, theirs
from torch import nn

from cxrpipe.config import AdoptConfig
from cxrpipe.errors import ConfigError
from cxrpipe.models.adopt import hub_files
from cxrpipe.models.adopt.sources import adopt
from cxrpipe.programs import adopt as program

pytestmark = pytest.mark.usefixtures("one_thread")
VIT = "vit_tiny_patch16_224.augreg_in21k_ft_in1k,depth=2"
FINDINGS = ("Pneumonia", "Cardiomegaly")


def tiny_vit(outputs: int, **arguments: object) -> nn.Module:
    """The logits of fresh weights hardly differ between films, so the weights are scaled."""
    torch.manual_seed(0)
    network = timm.create_model("vit_tiny_patch16_224", depth=2, img_size=SIDE_PX, num_classes=outputs, **arguments)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3)
    return network.eval()


# ---- timm -----------------------------------------------------------------------------------------------------


def test_a_transformer_of_timm_answers_as_timm_does(tmp_path):
    network = tiny_vit(2)
    file = saved(network.state_dict(), tmp_path)
    card, logits = ours(f"timm:{VIT}", tmp_path / "m", weights=file, side_px=SIDE_PX, findings=FINDINGS)
    expected = theirs(network, (0.5,) * 3, (0.5,) * 3)
    assert logits.std() > 0.1
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    assert (card.architecture, card.findings) == ("timm:vit_tiny_patch16_224,depth=2", FINDINGS)
    assert (card.channels, card.mean, card.std) == (1, 0.5, 0.5)
    assert (card.fit, card.crop_fraction, card.resize, card.side_px) == ("center-crop", 224 / 248, "bicubic", SIDE_PX)
    assert card.facts["licence"] == "Apache-2.0"


def test_without_findings_a_network_of_timm_becomes_a_bare_backbone(tmp_path):
    network = tiny_vit(1000)
    file = saved(network.state_dict(), tmp_path)
    card, vectors = ours(f"timm:{VIT}", tmp_path / "m", weights=file, side_px=SIDE_PX)
    assert (card.task, card.findings) == ("embed", ())
    network.reset_classifier(0)
    torch.testing.assert_close(vectors, theirs(network, (0.5,) * 3, (0.5,) * 3), rtol=1e-4, atol=1e-4)


def test_a_name_of_timm_without_weights_on_the_hub_is_refused():
    with pytest.raises(
        ConfigError, match=r"timm:resnet10t\.none: timm knows no weights of this name; it knows resnet10t\.c3"
    ):
        adopt(AdoptConfig(source="timm:resnet10t.none", dry_run=True))


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """An empty cache of the hub, and a proxy that nobody listens at."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setattr("urllib.request._opener", None)


@pytest.mark.usefixtures("offline")
def test_offline_the_file_to_fetch_is_named_with_the_place_for_it():
    hub = "https://huggingface.co"
    for source, file, then in (
        ("timm:resnet10t", f"{hub}/timm/resnet10t.c3_in1k/resolve/main/model.safetensors", "--weights FILE"),
        (
            "hf:microsoft/rad-dino",
            f"{hub}/microsoft/rad-dino/resolve/main/config.json",
            "put it into a folder with config.json and model.safetensors, and adopt the folder",
        ),
    ):
        with pytest.raises(ConfigError) as refused:
            adopt(AdoptConfig(source=source, dry_run=True))
        assert str(refused.value).endswith(f"; fetch {file} elsewhere, then {then}")
        assert "\n" not in str(refused.value)


@pytest.mark.usefixtures("offline")
def test_a_file_in_the_cache_of_the_hub_is_taken_without_a_network(tmp_path):
    cached = tmp_path / "models--a--b" / "snapshots" / "1" / "config.json"
    cached.parent.mkdir(parents=True)
    cached.write_text("{}")
    (tmp_path / "models--a--b" / "refs").mkdir()
    (tmp_path / "models--a--b" / "refs" / "main").write_text("1")
    assert hub_files.local("a/b", "config.json", "") == str(cached)


# ---- folders of Hugging Face, saved by timm -------------------------------------------------------------------

OF_TIMM = {
    "architecture": "vit_tiny_patch16_224",
    "num_classes": 3,
    "label_names": ["No Finding", "Effusion", "Lung Opacity"],
    "model_args": {"depth": 2, "img_size": SIDE_PX},
    "pretrained_cfg": {"input_size": [3, SIDE_PX, SIDE_PX], "crop_pct": 1.0, "interpolation": "bilinear", **IMAGENET},
}


def test_a_folder_that_timm_saved_answers_as_timm_does_on_three_channels(tmp_path):
    network = tiny_vit(3)
    folder = hub_folder(tmp_path / "hub", OF_TIMM, network.state_dict())
    (tmp_path / "hub" / "README.md").write_text("---\nlicense: mit\ntags: [x]\n---\n# A model")
    card, logits = ours(folder, tmp_path / "m")
    torch.testing.assert_close(logits, theirs(network, *map(tuple, IMAGENET.values())), rtol=1e-4, atol=1e-4)
    assert (card.channels, card.mean, card.std) == (3, *map(tuple, IMAGENET.values()))
    assert (card.output, card.outputs) == (
        "softmax",
        ("", "Pleural_Effusion", "Lung_Opacity"),
    )  # one excludes the others
    assert card.facts["licence"] == "MIT"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (OF_TIMM | {"label_names": None}, "nobody says what its 3 outputs mean; name --findings"),
        (OF_TIMM | {"label_names": ["Mass"]}, "1 findings for 3 outputs"),
        (OF_TIMM | {"label_names": ["Mass", "mass", "Edema"]}, "two outputs named Mass"),
        (OF_TIMM | {"pretrained_cfg": {}}, "no input_size, mean, std"),
        (OF_TIMM | {"model_args": {"checkpoint_path": "x"}}, "checkpoint_path"),
        (OF_TIMM | {"model_args": {"depth": 3}}, "blocks.2"),
        ({"model_type": "swinv2"}, "model_type swinv2; expected dinov2, vit, resnet"),
        ({"model_type": "vit"}, "config.json or preprocessor_config.json lacks or garbles 'hidden_size'"),
        ({"architecture": 3, "pretrained_cfg": OF_TIMM["pretrained_cfg"]}, "lacks or garbles"),
        ({"hidden_size": 3}, "neither architecture .* nor model_type"),
    ],
)
def test_a_folder_that_cannot_be_adopted_is_refused_in_one_line_and_nothing_is_written(config, message, tmp_path):
    folder = hub_folder(tmp_path / "hub", config, tiny_vit(3).state_dict())
    with pytest.raises(ConfigError, match=message) as refused:
        program.run(AdoptConfig(source=folder, out=str(tmp_path / "m")))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "m").exists()

"""Networks of timm, and of Hugging Face, against the forward pass of their own library on the same pixels."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from cxrpipe.config import AdoptConfig
from cxrpipe.errors import ConfigError
from cxrpipe.models import weights
from cxrpipe.models.adopt.sources import adopt
from cxrpipe.models.card import Card
from cxrpipe.models.folder import open_model
from cxrpipe.models.normalise import normalise
from cxrpipe.programs import adopt as program

pytestmark = pytest.mark.usefixtures("one_thread")
SIDE_PX = 32
VIT = "vit_tiny_patch16_224.augreg_in21k_ft_in1k,depth=2"
FINDINGS = ("Pneumonia", "Cardiomegaly")


def saved(tensors: dict[str, Tensor], folder: Path) -> str:
    file = folder / "model.safetensors"
    safetensors.torch.save_file(tensors, file)
    return str(file)


def tiny_vit(outputs: int, **arguments: object) -> nn.Module:
    """The logits of fresh weights hardly differ between films, so the weights are scaled."""
    torch.manual_seed(0)
    network = timm.create_model("vit_tiny_patch16_224", depth=2, img_size=SIDE_PX, num_classes=outputs, **arguments)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3)
    return network.eval()


def views() -> Tensor:
    """(N, 1, S, S) uint8"""
    return torch.randint(
        0, 256, (3, 1, SIDE_PX, SIDE_PX), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


@torch.inference_mode()
def theirs(network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Their own road: grey on three channels, scaled, normalised."""
    pixels = (views() / 255).repeat(1, 3, 1, 1)
    return network((pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None])


@torch.inference_mode()
def ours(source: str, folder: Path, **settings: object) -> tuple[Card, Tensor]:
    """Adopt into a model folder, load it, and answer."""
    program.run(AdoptConfig(source=source, out=str(folder), **settings))  # type: ignore[arg-type]
    model = open_model(str(folder), "classify", "embed")
    return model.card, weights.load(model)(normalise(views(), model.card))


def hub_folder(folder: Path, config: dict[str, object], tensors: dict[str, Tensor], **files: object) -> str:
    folder.mkdir()
    saved({key: value.contiguous() for key, value in tensors.items()}, folder)
    (folder / "config.json").write_text(json.dumps(config))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return str(folder)


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


# ---- folders of Hugging Face, saved by timm -------------------------------------------------------------------

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
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


# ---- folders of Hugging Face, saved by transformers -----------------------------------------------------------

HIDDEN, HEADS, PATCH = 32, 4, 8
TOKENS = 1 + (SIDE_PX // PATCH) ** 2


def of_transformers(kind: str, outputs: int = 0) -> dict[str, Tensor]:
    """Tensors under the names of transformers, for two layers of 32 channels."""
    draw = torch.Generator().manual_seed(2)

    def tensor(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw) * 0.3

    def layer(name: str, rows: int, columns: int) -> dict[str, Tensor]:
        return {f"{name}.weight": tensor(rows, columns), f"{name}.bias": tensor(rows)}

    def norm(name: str) -> dict[str, Tensor]:
        return {f"{name}.weight": 1 + tensor(HIDDEN), f"{name}.bias": tensor(HIDDEN)}

    tensors = {
        "embeddings.cls_token": tensor(1, 1, HIDDEN),
        "embeddings.mask_token": tensor(1, HIDDEN),
        "embeddings.position_embeddings": tensor(1, TOKENS, HIDDEN),
        "embeddings.patch_embeddings.projection.weight": tensor(HIDDEN, 3, PATCH, PATCH),
        "embeddings.patch_embeddings.projection.bias": tensor(HIDDEN),
        **norm("layernorm"),
    }
    first, second, into, out = {
        "dinov2": ("norm1", "norm2", "mlp.fc1", "mlp.fc2"),
        "vit": ("layernorm_before", "layernorm_after", "intermediate.dense", "output.dense"),
    }[kind]
    for number in range(2):
        block = f"encoder.layer.{number}"
        for name in ("attention.attention.query", "attention.attention.key", "attention.attention.value"):
            tensors |= layer(f"{block}.{name}", HIDDEN, HIDDEN)
        tensors |= layer(f"{block}.attention.output.dense", HIDDEN, HIDDEN)
        tensors |= norm(f"{block}.{first}") | norm(f"{block}.{second}")
        tensors |= layer(f"{block}.{into}", 4 * HIDDEN, HIDDEN) | layer(f"{block}.{out}", HIDDEN, 4 * HIDDEN)
        if kind == "dinov2":
            tensors |= {f"{block}.layer_scale{n}.lambda1": tensor(HIDDEN) for n in (1, 2)}
    if not outputs:
        return tensors
    return {f"{kind}.{key}": value for key, value in tensors.items()} | layer("classifier", outputs, HIDDEN)


def forward(state: dict[str, Tensor], kind: str, pixels: Tensor) -> Tensor:
    """(N, D) class tokens: a pre-norm transformer written out from the papers, by the names of transformers."""
    state = {key.removeprefix(f"{kind}."): value for key, value in state.items()}

    def linear(name: str, tokens: Tensor) -> Tensor:
        return functional.linear(tokens, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(name: str, tokens: Tensor) -> Tensor:
        return functional.layer_norm(tokens, (HIDDEN,), state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)

    def attention(name: str, tokens: Tensor) -> Tensor:
        query, key, value = (
            linear(f"{name}.attention.{part}", tokens).unflatten(2, (HEADS, -1)).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        weight = (query @ key.transpose(2, 3) / (HIDDEN // HEADS) ** 0.5).softmax(3)
        return linear(f"{name}.output.dense", (weight @ value).transpose(1, 2).flatten(2))

    projection = "embeddings.patch_embeddings.projection"
    patches = functional.conv2d(pixels, state[f"{projection}.weight"], state[f"{projection}.bias"], PATCH)
    tokens = torch.cat([state["embeddings.cls_token"].expand(len(pixels), 1, -1), patches.flatten(2).mT], 1)
    tokens = tokens + state["embeddings.position_embeddings"]
    for number in range(2):
        block = f"encoder.layer.{number}"
        if kind == "dinov2":
            seen = attention(f"{block}.attention", norm(f"{block}.norm1", tokens))
            tokens = tokens + state[f"{block}.layer_scale1.lambda1"] * seen
            dense = functional.gelu(linear(f"{block}.mlp.fc1", norm(f"{block}.norm2", tokens)))
            tokens = tokens + state[f"{block}.layer_scale2.lambda1"] * linear(f"{block}.mlp.fc2", dense)
        else:
            tokens = tokens + attention(f"{block}.attention", norm(f"{block}.layernorm_before", tokens))
            dense = functional.gelu(linear(f"{block}.intermediate.dense", norm(f"{block}.layernorm_after", tokens)))
            tokens = tokens + linear(f"{block}.output.dense", dense)
    return norm("layernorm", tokens)[:, 0]


SIZES = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "image_size": SIDE_PX,
    "patch_size": PATCH,
}
RAD_DINO = {
    "crop_size": {"height": SIDE_PX, "width": SIDE_PX},
    "do_center_crop": True,
    "do_normalize": True,
    "image_mean": [0.5307] * 3,
    "image_std": [0.2583] * 3,
    "resample": 3,
    "size": {"shortest_edge": SIDE_PX + 4},
}


def test_a_dinov2_of_transformers_becomes_a_backbone_with_the_same_vectors(tmp_path):
    """As RAD-DINO is: one mean and std for all channels, so that one channel is enough."""
    state = of_transformers("dinov2")
    config = SIZES | {"model_type": "dinov2", "architectures": ["Dinov2Model"], "mlp_ratio": 4}
    folder = hub_folder(tmp_path / "hub", config, state, preprocessor_config=RAD_DINO)
    card, vectors = ours(folder, tmp_path / "m")
    expected = forward(state, "dinov2", ((views() / 255).repeat(1, 3, 1, 1) - 0.5307) / 0.2583)
    torch.testing.assert_close(vectors, expected, rtol=1e-4, atol=1e-4)
    assert (card.task, card.channels, card.mean, card.std) == ("embed", 1, 0.5307, 0.2583)
    assert (card.fit, card.crop_fraction, card.resize) == ("center-crop", SIDE_PX / (SIDE_PX + 4), "bicubic")
    assert card.facts["licence"] is None


@pytest.mark.parametrize("problem", ["multi_label_classification", None])
def test_a_vit_of_transformers_becomes_a_classifier_with_the_same_logits(problem, tmp_path):
    state = of_transformers("vit", outputs=2)
    config = SIZES | {
        "model_type": "vit",
        "architectures": ["ViTForImageClassification"],
        "intermediate_size": 4 * HIDDEN,
        "id2label": {"0": "NORMAL", "1": "PNEUMONIA"},
        "problem_type": problem,
    }
    processor = {"size": {"height": SIDE_PX, "width": SIDE_PX}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    folder = hub_folder(tmp_path / "hub", config, state, preprocessor_config=processor | {"resample": 2})
    card, logits = ours(folder, tmp_path / "m")
    tokens = forward(state, "vit", (views() / 255).repeat(1, 3, 1, 1) * 2 - 1)
    expected = functional.linear(tokens, state["classifier.weight"], state["classifier.bias"])
    assert (card.findings, card.fit, card.resize) == (("Pneumonia",), "squash", "bilinear")
    assert (card.output, card.outputs) == (("sigmoid", ()) if problem else ("softmax", ("", "Pneumonia")))
    torch.testing.assert_close(logits, expected[:, 1:] if problem else expected, rtol=1e-4, atol=1e-4)


def test_a_resnet_of_transformers_becomes_a_resnet_of_timm(tmp_path):
    """The names of its tensors as on the hub; timm's own network gives the expected logits."""
    torch.manual_seed(0)
    network = timm.create_model("resnet18", layers=(1, 1, 1, 1), num_classes=1).eval()
    renamed = {}
    for key, value in network.state_dict().items():
        first, _, rest = key.partition(".")
        if first in ("conv1", "bn1"):
            kind = {"conv1": "convolution", "bn1": "normalization"}[first]
            renamed[f"resnet.embedder.embedder.{kind}.{rest}"] = value
        elif first == "fc":
            renamed[f"classifier.1.{rest}"] = value
        else:
            block, part, rest = rest.split(".", 2)
            if part == "downsample":
                kind, rest = {"0": "convolution", "1": "normalization"}[rest[0]], rest[2:]
                inner = f"shortcut.{kind}.{rest}"
            else:
                kind = {"conv": "convolution", "bn": "normalization"}[part[:-1]]
                inner = f"layer.{int(part[-1]) - 1}.{kind}.{rest}"
            renamed[f"resnet.encoder.stages.{int(first[-1]) - 1}.layers.{block}.{inner}"] = value
    config = {
        "model_type": "resnet",
        "architectures": ["ResNetForImageClassification"],
        "layer_type": "basic",
        "depths": [1, 1, 1, 1],
        "hidden_sizes": [64, 128, 256, 512],
        "id2label": {"0": "Mass"},
        "problem_type": "multi_label_classification",
    }
    processor = {"size": {"shortest_edge": SIDE_PX}, "crop_pct": 0.875, "resample": 3} | {
        f"image_{name}": values for name, values in IMAGENET.items()
    }
    folder = hub_folder(tmp_path / "hub", config, renamed, preprocessor_config=processor)
    card, logits = ours(folder, tmp_path / "m")
    torch.testing.assert_close(logits, theirs(network, *map(tuple, IMAGENET.values())), rtol=1e-4, atol=1e-4)
    assert (card.fit, card.crop_fraction, card.side_px) == ("center-crop", SIDE_PX / 36, SIDE_PX)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architectures": ["ViTForImageClassification"]},
            "ViTForImageClassification, and its config.json names no cl",
        ),
        (
            {"architectures": ["ViTForImageClassification"], "id2label": {"0": "LABEL_0", "1": "LABEL_1"}},
            "names no classes",
        ),
        ({"architectures": ["ViTForImageClassification"], "id2label": {"0": "Mass"}}, "weights have no classifier"),
        ({"model_type": "dinov2", "architectures": ["Dinov2ForImageClassification"]}, "expected Dinov2Model"),
        ({"hidden_act": "relu"}, "hidden_act relu of its config.json; expected gelu"),
    ],
)
def test_a_config_of_transformers_that_says_too_little_is_refused_and_nothing_is_written(changes, message, tmp_path):
    config = SIZES | {"model_type": "vit", "architectures": ["ViTModel"], "intermediate_size": 128} | changes
    folder = hub_folder(tmp_path / "hub", config, of_transformers("vit"))
    with pytest.raises(ConfigError, match=message):
        program.run(AdoptConfig(source=folder, out=str(tmp_path / "m")))
    assert not (tmp_path / "m").exists()

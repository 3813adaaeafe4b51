"""Models that transformers saved, against forward passes written out from their papers or those of timm."""

import pytest
import timm
import torch
from hub_folders import IMAGENET, SIDE_PX, hub_folder, ours, theirs, views
from torch import Tensor
from torch.nn import functional

from cxrpipe.config import AdoptConfig
from cxrpipe.errors import ConfigError
from cxrpipe.programs import adopt as program

pytestmark = pytest.mark.usefixtures("one_thread")


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


@pytest.mark.parametrize(("normalises", "mean", "std"), [(True, 0.5, 0.5), (False, 0.0, 1.0)])
def test_a_processor_that_does_not_say_its_mean_gets_the_assumed_one_unless_it_does_not_normalise(
    normalises, mean, std, tmp_path
):
    config = SIZES | {"model_type": "dinov2", "architectures": ["Dinov2Model"], "mlp_ratio": 4}
    processor = {key: value for key, value in RAD_DINO.items() if not key.startswith("image_")}
    processor |= {"do_normalize": normalises}
    folder = hub_folder(tmp_path / "hub", config, of_transformers("dinov2"), preprocessor_config=processor)
    card, _ = ours(folder, tmp_path / "m")
    assert (card.mean, card.std) == (mean, std)


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

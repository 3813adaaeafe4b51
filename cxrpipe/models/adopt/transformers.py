"""Models that transformers has saved → networks of timm, which compute the same: dinov2, vit and resnet.

The names of the tensors are those of the files on the hub. transformers is not needed.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from cxrpipe.errors import ConfigError
from cxrpipe.models.adopt.states import State
from cxrpipe.models.adopt.timm import Source
from cxrpipe.models.timm_networks import TimmName, parse

_RESIZERS = {1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of resamplers."""
_EMBEDDINGS = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "attention.output.dense": "attn.proj",
    "layernorm": "norm",
    "classifier": "head",
}
_DINOV2 = {
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
    "mlp.weights_in": "mlp.fc1",
    "mlp.weights_out": "mlp.fc2",
}
_VIT = {
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}
_BLOCK = re.compile(r"encoder\.layer\.(\d+)\.(.+)\.(weight|bias)|encoder\.layer\.(\d+)\.(layer_scale\d\.lambda1)")
_LEFT_OUT = ("embeddings.mask_token", "pooler.")
"""Tensors that a classifier does not use. The pooler of a ViT is a layer behind the class token, for other tasks."""


def source(content: Mapping[str, Any], preprocessor: Mapping[str, Any], state: State, facts: dict[str, Any]) -> Source:
    """A network of timm for a config.json and a preprocessor_config.json ({}: there is none)."""
    model_type = content["model_type"]
    where = facts["source"]
    if model_type not in _KINDS:
        raise ConfigError(f"{where}: model_type {model_type}; expected {', '.join(_KINDS)}, or a model that timm saved")
    classes = [name for name in content.get("architectures") or () if name.endswith("ForImageClassification")]
    if classes and model_type == "dinov2":
        raise ConfigError(
            f"{where}: the head of {classes[0]} takes the class token and the mean of the patches; "
            "expected Dinov2Model, a bare backbone"
        )
    names = _names(content) if classes else ()
    if classes and not names:
        raise ConfigError(f"{where}: {classes[0]}, and its config.json names no classes (id2label)")
    architecture = parse(str(_KINDS[model_type](content, where)))
    tensors = {key.removeprefix(f"{model_type}."): value for key, value in state.tensors.items()}
    if classes and not any(key.startswith("classifier") for key in tensors):
        raise ConfigError(f"{where}: {classes[0]}, and its weights have no classifier")
    tensors = _of_resnet(tensors) if model_type == "resnet" else _of_transformer(tensors, model_type)
    preparation, assumed = _preparation(content, preprocessor)
    many = content.get("problem_type") == "multi_label_classification"
    preparation["output"] = "sigmoid" if many or not classes else "softmax"
    return Source(str(architecture), state._replace(tensors=tensors), names, preparation, assumed, facts)


def _names(content: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the outputs. transformers writes LABEL_0, LABEL_1 … where nobody named them."""
    of_id = content.get("id2label") or {}
    names = tuple(str(of_id[key]) for key in sorted(of_id, key=int))
    return () if all(re.fullmatch(r"LABEL_\d+", name) for name in names) else names


# ---- architectures --------------------------------------------------------------------------------------------


def _vit(content: Mapping[str, Any], where: str) -> TimmName:
    hidden = content["hidden_size"]
    ratio = content.get("mlp_ratio") or content["intermediate_size"] / hidden
    plain = {"hidden_act": "gelu", "qkv_bias": True, "num_channels": 3}
    _refuse_others(content, plain, where)
    arguments: dict[str, Any] = {
        "embed_dim": hidden,
        "depth": content["num_hidden_layers"],
        "num_heads": content["num_attention_heads"],
        "patch_size": content["patch_size"],
    }
    if ratio != 4:
        arguments["mlp_ratio"] = ratio
    if content["model_type"] == "vit":
        return TimmName("vit_base_patch16_224", arguments)
    if content.get("use_swiglu_ffn"):
        gated = (int(int(hidden * ratio) * 2 / 3) + 7) // 8 * 8  # a multiple of 8, as xFormers wants it
        return TimmName("vit_giant_patch14_dinov2", arguments | {"mlp_ratio": 2 * gated / hidden})
    return TimmName("vit_base_patch14_dinov2", arguments)


def _resnet(content: Mapping[str, Any], where: str) -> TimmName:
    basic = content.get("layer_type", "bottleneck") == "basic"
    widths = [64, 128, 256, 512] if basic else [256, 512, 1024, 2048]
    plain = {
        "hidden_act": "relu",
        "embedding_size": 64,
        "hidden_sizes": widths,
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": False,
        "num_channels": 3,
    }
    _refuse_others(content, plain, where)
    layers = tuple(content["depths"])
    name, usual = ("resnet18", (2, 2, 2, 2)) if basic else ("resnet50", (3, 4, 6, 3))
    return TimmName(name, {} if layers == usual else {"layers": layers})


def _refuse_others(content: Mapping[str, Any], plain: Mapping[str, Any], where: str) -> None:
    """ConfigError where the config differs from what timm's network computes."""
    for key, value in plain.items():
        if content.get(key, value) != value:
            raise ConfigError(f"{where}: {key} {content[key]} of its config.json; expected {value}")


_KINDS: dict[str, Callable[[Mapping[str, Any], str], TimmName]] = {"dinov2": _vit, "vit": _vit, "resnet": _resnet}


# ---- tensors --------------------------------------------------------------------------------------------------


def _of_transformer(tensors: Mapping[str, Tensor], model_type: str) -> dict[str, Tensor]:
    """Names of transformers → names of timm. timm multiplies with query, key and value at once."""
    names = _EMBEDDINGS | (_DINOV2 if model_type == "dinov2" else _VIT)
    renamed: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith(_LEFT_OUT):
            continue
        block = _BLOCK.fullmatch(key)
        if block is None:
            stem, dot, end = key.rpartition(".")
            renamed[names.get(key) or f"{names.get(stem, stem)}{dot}{end}"] = value
        elif block[5]:
            renamed[f"blocks.{block[4]}.{names[block[5]]}"] = value
        elif layer := re.fullmatch(r"attention\.attention\.(query|key|value)", block[2]):
            parts.setdefault(f"blocks.{block[1]}.attn.qkv.{block[3]}", {})[layer[1]] = value
        else:
            renamed[f"blocks.{block[1]}.{names.get(block[2], block[2])}.{block[3]}"] = value
    whole = {name: of for name, of in parts.items() if len(of) == 3}
    return renamed | {name: torch.cat([of["query"], of["key"], of["value"]]) for name, of in whole.items()}


def _of_resnet(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for key, value in tensors.items():
        name = key.replace("embedder.embedder.convolution", "conv1").replace("embedder.embedder.normalization", "bn1")
        name = name.replace("classifier.1.", "fc.").replace("shortcut.convolution", "downsample.0")
        name = name.replace("shortcut.normalization", "downsample.1")
        name = re.sub(r"encoder\.stages\.(\d)\.layers\.", lambda match: f"layer{int(match[1]) + 1}.", name)
        name = re.sub(r"layer\.(\d)\.convolution", lambda match: f"conv{int(match[1]) + 1}", name)
        name = re.sub(r"layer\.(\d)\.normalization", lambda match: f"bn{int(match[1]) + 1}", name)
        renamed[name] = value
    return renamed


# ---- preparation ----------------------------------------------------------------------------------------------


def _preparation(content: Mapping[str, Any], preprocessor: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fields of the card, and those among them that neither file says."""
    image_size = content.get("image_size", 224)
    fallback = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "resize": "bilinear", "fit": "squash"}
    of_source: dict[str, Any] = {}
    if preprocessor:
        if not preprocessor.get("do_normalize", True):
            of_source = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
        elif "image_mean" in preprocessor and "image_std" in preprocessor:
            of_source = {key: tuple(preprocessor[f"image_{key}"]) for key in ("mean", "std")}
        of_source["resize"] = _RESIZERS.get(preprocessor.get("resample", 2))
        if of_source["resize"] is None:
            raise ConfigError(
                f"preprocessor_config.json: resample {preprocessor['resample']}; expected one of {_RESIZERS}"
            )
        of_source |= _geometry(preprocessor)
    assumed = {name: value for name, value in fallback.items() if name not in of_source} | {"intensity": "voi"}
    return {"side_px": image_size} | fallback | of_source | {"intensity": "voi"}, assumed


def _geometry(preprocessor: Mapping[str, Any]) -> dict[str, Any]:
    """Side, fit and crop_fraction of a preprocessor_config.json."""
    size, crop = preprocessor.get("size"), preprocessor.get("crop_size")
    shortest = size.get("shortest_edge") if isinstance(size, dict) else None
    if preprocessor.get("do_center_crop") and crop and (shortest or isinstance(size, int)):
        side_px = crop["height"] if isinstance(crop, dict) else crop
        return {"side_px": side_px, "fit": "center-crop", "crop_fraction": side_px / (shortest or size)}
    if "crop_pct" in preprocessor and shortest:  # of ConvNext's processor, which ResNets have, too
        if shortest >= 384:
            return {"side_px": shortest, "fit": "squash"}
        resized = math.floor(shortest / (preprocessor["crop_pct"] or 1.0))
        return {"side_px": shortest, "fit": "center-crop", "crop_fraction": shortest / resized}
    if isinstance(size, int):
        return {"side_px": size, "fit": "squash"}
    if isinstance(size, dict) and size.get("height") == size.get("width") and size.get("height"):
        return {"side_px": size["height"], "fit": "squash"}
    raise ConfigError(
        f"preprocessor_config.json: size {size}; expected a square, or a shortest_edge with a center crop"
    )

"""Weights files and folders as Hugging Face has them, and the road of their libraries beside ours."""

import json
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from cxrpipe.config import AdoptConfig
from cxrpipe.models import weights
from cxrpipe.models.card import Card
from cxrpipe.models.folder import open_model
from cxrpipe.models.normalise import normalise
from cxrpipe.programs import adopt as program

SIDE_PX = 32
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def saved(tensors: dict[str, Tensor], folder: Path) -> str:
    file = folder / "model.safetensors"
    safetensors.torch.save_file(tensors, file)
    return str(file)


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

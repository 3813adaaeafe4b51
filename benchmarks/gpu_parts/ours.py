"""The only place where the parts of `gpu.py` touch what the package may rename: one thin function for each thing.

Precisions here are `fp32` (IEEE), `tf32`, `bf16` and `fp16`, whatever the package itself offers.
"""

import functools
import gc
import importlib.util
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from cxrpipe.config.augment import AugmentConfig
from cxrpipe.config.train_sections import OptimConfig
from cxrpipe.images.letterbox import Preparation
from cxrpipe.models import architectures, execution, explain, weights
from cxrpipe.models.card import Card
from cxrpipe.models.ensemble import Ensemble
from cxrpipe.models.folder import ModelFolder, save_model
from cxrpipe.models.networks import CLASSIC_UNET
from cxrpipe.models.precision import PRECISIONS, set_float32
from cxrpipe.scoring.predict import Predictor
from cxrpipe.training import fit
from cxrpipe.training.augment import augment
from cxrpipe.training.distributed import ALONE, WorkerGroup
from cxrpipe.training.losses import Loss, finding_loss, mask_loss
from cxrpipe.training.optim import make_optimizer

__all__ = ["ALONE", "CLASSIC_UNET"]

DTYPES = PRECISIONS


@functools.cache
def has_smp() -> bool:
    return importlib.util.find_spec("segmentation_models_pytorch") is not None


# ---- scoring ----------------------------------------------------------------------------------------------------


def execution_of(device: str, precision: str, compiled: bool) -> execution.Execution:
    """How networks are run."""
    return execution.plan(device, precision, "on" if compiled else "off")


def tf32(on: bool) -> None:
    """Let float32 products and convolutions of CUDA round their inputs to TF32, or not."""
    set_float32("tf32" if on else "fp32")


def save(folder: str, card: Card, network: nn.Module) -> ModelFolder:
    return save_model(folder, card, weights.weights_bytes(network), facts={})


def predictor(
    ensemble: Ensemble,
    device: str,
    precision: str = "fp32",
    compiled: bool = False,
    say: Callable[[str], object] = print,
) -> Predictor:
    return Predictor(ensemble, device, execution_of(device, precision, compiled), say)


def network_alone(model: ModelFolder, plan: execution.Execution) -> Callable[[Tensor], Tensor]:
    """A network as the predictor runs it: normalised views → logits."""
    network: Callable[[Tensor], Tensor]
    network, _ = execution.speed_up(weights.load(model), model.card.side_px, plan)
    return network


def network_in_plain_calls(model: ModelFolder, plan: execution.Execution) -> Callable[[Tensor], Tensor]:
    """The same network in calls that torch knows and can count; a CPU otherwise gets calls of oneDNN."""
    network: Callable[[Tensor], Tensor] = execution.move(execution.fused(weights.load(model)), plan)
    return network


def explained(model: ModelFolder, plan: execution.Execution) -> Callable[[Tensor], explain.Explained]:
    """A classifier that explains itself, as the predictor runs it: normalised views → logits, maps and embedding."""
    network: Callable[[Tensor], explain.Explained] = execution.speed_up(
        explain.explained(weights.load(model), model.card.side_px), model.card.side_px, plan
    )[0]
    return network


class Outcome(NamedTuple):
    """What a predictor says of N views."""

    probs: np.ndarray  # (K, N, F) float32
    masks: np.ndarray  # (N, S, S) bool
    dice: np.ndarray  # (N,) float32, what the segmenter expects
    maps: tuple[np.ndarray, ...]  # per member (N, F, h, w) float32
    unlike: np.ndarray | None  # (N,) bool


def outcome(predicting: Predictor, pixels: dict[Preparation, np.ndarray]) -> Outcome:
    predictions = predicting.predict(pixels)
    masks, dice = predictions.masks, predictions.expected_dice
    assert masks is not None
    assert dice is not None
    return Outcome(predictions.probs, masks, dice, predictions.maps or (), predictions.out_of_distribution)


def forget() -> None:
    """Free what a predictor that is no longer used held, its compiled kernels included."""
    if "torch._dynamo" in sys.modules:  # its import takes seconds
        torch._dynamo.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


# ---- training ---------------------------------------------------------------------------------------------------


def for_training(card: Card, device: str, channels_last: bool) -> nn.Module:
    """A network with fresh weights on the device."""
    network = architectures.build_from_card(card).to(device)
    return network.to(memory_format=torch.channels_last) if channels_last else network


def loss_of(card: Card) -> Loss:
    """The loss that `train` takes by default."""
    if card.task == "segment":
        return mask_loss("auto", 0.0, 2.0)
    return finding_loss("auto", torch.ones(len(card.findings)), 0.0, 2.0)


def optimizer_of(network: nn.Module) -> torch.optim.Optimizer:
    return make_optimizer(OptimConfig(), network.parameters(), 1e-4)


def gradient(
    network: nn.Module,
    card: Card,
    loss: Loss,
    batches: Sequence[fit.Batch],
    precision: str,
    workers: WorkerGroup = ALONE,
) -> Tensor:
    """Add the gradient of a step; (2,) cost and cells on the device."""
    return fit.backward(network, card, loss, batches, "fp32" if precision == "tf32" else precision, workers)


def step(
    network: nn.Module, card: Card, loss: Loss, optimizer: torch.optim.Optimizer, batch: fit.Batch, precision: str
) -> None:
    """A step as `train` makes it: vary the images, compute the gradient, move the weights."""
    pixels, targets = batch
    pixels, moved = augment(pixels, targets if card.task == "segment" else None, AugmentConfig(rotation_deg=10))
    gradient(network, card, loss, [(pixels, targets if moved is None else moved)], precision)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)

"""What a training starts from: a model folder gives its architecture and preparation with its weights."""

from dataclasses import replace
from typing import Any

from cxrpipe import storage
from cxrpipe.config import TrainConfig
from cxrpipe.errors import ConfigError
from cxrpipe.images.letterbox import Preparation
from cxrpipe.models.architectures import check_architecture
from cxrpipe.models.card import Card
from cxrpipe.models.folder import CARD, ONNX
from cxrpipe.models.weights import IMAGENET_MEAN, IMAGENET_STD

INTENSITY = "voi"
_ORIGIN = ("source", "licence", "citation")


def start_card(config: TrainConfig) -> Card | None:
    """The card of the model folder that `--weights` names. None for other weights.

    ConfigError where a training cannot start from the model.
    """
    if config.weights in ("none", "imagenet") or config.weights.endswith(".safetensors"):
        return None
    url = storage.normalise(config.weights)
    try:
        card = Card.from_json(storage.read(storage.join(url, CARD)), url)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if card.architecture == ONNX:
        raise ConfigError(
            f"--weights {url}: an ONNX file computes and does not learn; adopt the network that it was exported from"
        )
    if config.task == "segment" and (card.fit != "letterbox" or card.structures):
        raise ConfigError(
            f"--weights {url}: its masks lie in a {card.fit} of the view and show {len(card.structures) or 1} "
            "structures; a training draws both lungs in the letterbox; start from weights imagenet or none"
        )
    return card


def fresh_card(config: TrainConfig) -> Card:
    """The card of a model before its training, without findings and crop (so its task is `embed` or `segment`).

    A model folder that the training starts from decides how films are prepared, for its network has learned from such
    films, where the settings do not. It names the architecture, too, where `--arch` does not.
    """
    start = start_card(config)
    architecture = config.arch or (start.architecture if start else config.architecture)
    plain = Card(
        task="segment" if config.task == "segment" else "embed",
        architecture=architecture,
        head=config.head,
        side_px=config.side_px,
        intensity=INTENSITY,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        views="frontal" if config.task == "classify" else "all",
    )
    if start is not None:
        plain = replace(
            plain,
            channels=start.channels,
            mean=start.mean,
            std=start.std,
            samplewise=start.samplewise,
            intensity=start.intensity,
            fit=start.fit,
            crop_fraction=start.crop_fraction,
            resize=start.resize,
        )
    if config.samplewise:
        plain = replace(plain, samplewise=True)
    return plain if config.fit == "auto" else replace(plain, fit=config.fit, crop_fraction=config.crop_fraction)


def training_squares(config: TrainConfig, card: Card) -> Preparation:
    """How views are prepared for training: as for scoring, or larger where random crops are taken from a `center-crop`.

    The larger square is what the middle is cut out of, but for 1 to 4 pixels in all: so no rounding differs, and its
    middle is, pixel by pixel, what scoring shows.
    """
    plain = card.preparation
    if plain.fit != "center-crop" or plain.crop_fraction == 1 or config.augment.crop == 1:
        return plain
    edge_px = round(plain.side_px / plain.crop_fraction)
    side_px = plain.side_px + (edge_px - plain.side_px - 1) // 4 * 4
    return plain._replace(side_px=side_px, crop_fraction=side_px / edge_px)


def check(config: TrainConfig) -> Card:
    """The fresh card. ConfigError where its network does not exist, or does not take images of this side."""
    card = fresh_card(config)
    check_architecture(card.architecture, config.task, card.side_px, card.head, card.channels)
    return card


def origin(config: TrainConfig) -> dict[str, Any]:
    """Facts of an adopted model that hold of the model trained from it: its source, licence and citation."""
    start = start_card(config)
    if start is None or "source" not in start.facts:
        return {}
    return {name: start.facts.get(name) for name in _ORIGIN} | {"started_from": start.weights_sha256}

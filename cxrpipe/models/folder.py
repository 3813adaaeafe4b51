"""Reads and writes model folders: `card.json`, and `model.safetensors` or `model.onnx`."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from cxrpipe import console, storage
from cxrpipe.errors import ConfigError
from cxrpipe.models.card import Card

CARD = "card.json"
WEIGHTS, ONNX_FILE = "model.safetensors", "model.onnx"
ONNX = "onnx"
"""The architecture of a model that ONNX Runtime runs."""


def weights_file(card: Card) -> str:
    """Name of the weights file in the folder of a model."""
    return ONNX_FILE if card.architecture == ONNX else WEIGHTS


class ModelFolder(NamedTuple):
    """A model on storage: its card, and the folder that holds its weights."""

    url: str
    card: Card

    def read_weights(self) -> bytes:
        """The content of the weights file, checked against the card."""
        place = storage.join(self.url, weights_file(self.card))
        try:
            data = storage.read(place)
        except FileNotFoundError:
            raise ConfigError(
                f"{place}: cannot be found from this machine; every machine must see the model folders"
            ) from None
        if hashlib.sha256(data).hexdigest() != self.card.weights_sha256:
            raise ConfigError(f"{place}: not the weights its card was written for; copy the whole folder again")
        return data


_FLAG = {"classify": "name this one with --models", "segment": "name this one with --segmenter"}
_FLAG["embed"] = "this one has no findings, and gives feature vectors alone: score --models takes it with --embed"


def model_folders(urls: Sequence[str]) -> tuple[str, ...]:
    """The model folders that `urls` name, in their order: a folder that holds model folders stands for these, by name.

    A folder that is neither stays as it is, and `open_model` refuses it. A lone string, which scripts may pass, is one
    url.
    """
    urls = [urls] if isinstance(urls, str) else urls
    return tuple(model for url in urls for model in _models_in(storage.normalise(url)))


def _models_in(url: str) -> list[str]:
    if storage.stat(storage.join(url, CARD)):
        return [url]
    names = [name for name in storage.folders(url) if storage.stat(storage.join(url, name, CARD))]
    if names:
        console.log(f"{url} holds {len(names)} models, in this order: {', '.join(names)}")
    return [storage.join(url, name) for name in names] or [url]


def open_model(url: str, *tasks: str) -> ModelFolder:
    """Read the card of a model folder. ConfigError if the folder is not a model for one of the tasks."""
    url = storage.normalise(url)
    try:
        card = Card.from_json(storage.read(storage.join(url, CARD)), url)
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(f"{url}: not a model folder (no {CARD}); expected one written by train") from None
    if card.task not in tasks:
        expected = " or ".join(tasks)
        raise ConfigError(f"{url}: a model to {card.task}; expected one to {expected}; {_FLAG[card.task]}")
    if storage.stat(storage.join(url, weights_file(card))) is None:
        raise ConfigError(
            f"{url}: a card without {weights_file(card)}; expected a model folder written by train or adopt"
        )
    return ModelFolder(url, card)


def refuse_taken(url: str) -> str:
    """The normalised url of a folder for a new model. ConfigError where a model is there already."""
    url = storage.normalise(url)
    if storage.stat(storage.join(url, CARD)):
        raise ConfigError(f"{url}: a model is there already; name another --out")
    return url


def save_model(url: str, card: Card, weights: bytes, facts: dict[str, Any]) -> ModelFolder:
    """Write a model folder. The card is written last, so that a folder with a card is complete."""
    card = replace(card, weights_sha256=hashlib.sha256(weights).hexdigest(), facts=facts)
    storage.write(storage.join(url, weights_file(card)), weights)
    storage.write(storage.join(url, CARD), card.to_json())
    return ModelFolder(storage.normalise(url), card)

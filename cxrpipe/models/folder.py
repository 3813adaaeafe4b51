"""A model as it lies: a folder with `model.safetensors` and `card.json`, read and written whole."""

import hashlib
from dataclasses import replace
from typing import Any, NamedTuple

from cxrpipe import storage
from cxrpipe.errors import ConfigError
from cxrpipe.models.card import Card

CARD = "card.json"
WEIGHTS = "model.safetensors"


class ModelFolder(NamedTuple):
    """A model as it lies: its card, and where its weights are."""

    url: str
    card: Card

    def read_weights(self) -> bytes:
        """The weights file, checked against the card."""
        place = storage.join(self.url, WEIGHTS)
        try:
            data = storage.read(place)
        except FileNotFoundError:
            raise ConfigError(f"{place}: cannot be found from here; every machine must see the model folders") from None
        if hashlib.sha256(data).hexdigest() != self.card.weights_sha256:
            raise ConfigError(f"{place}: not the weights its card was written for; copy the folder again, whole")
        return data


def open_model(url: str, task: str) -> ModelFolder:
    """Read a model folder's card; ConfigError where it is not a model for the task."""
    url = storage.normalise(url)
    try:
        card = Card.from_json(storage.read(storage.join(url, CARD)), url)
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(f"{url}: not a model folder (no {CARD}); expected one written by train") from None
    if card.task != task:
        flag = "--models" if card.task == "classify" else "--segmenter"
        raise ConfigError(f"{url}: a model to {card.task}; name it with {flag}")
    if storage.stat(storage.join(url, WEIGHTS)) is None:
        raise ConfigError(f"{url}: a card without {WEIGHTS}; expected a model folder written by train")
    return ModelFolder(url, card)


def save_model(url: str, card: Card, weights: bytes, facts: dict[str, Any]) -> ModelFolder:
    """Write a model folder; the card last, so that a folder with a card is whole."""
    card = replace(card, weights_sha256=hashlib.sha256(weights).hexdigest(), facts=facts)
    storage.write(storage.join(url, WEIGHTS), weights)
    storage.write(storage.join(url, CARD), card.to_json())
    return ModelFolder(storage.normalise(url), card)

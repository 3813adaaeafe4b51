"""Predictions of the finished model by Ray Data: for the valid split, and for a sample of the training views."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import ray
import ray.data
from ray.data import ActorPoolStrategy

from cxrpipe.models.card import Card
from cxrpipe.on_ray import session
from cxrpipe.training.model_folder import keys_to_draw
from cxrpipe.training.predictions import Predictions, ViewMasks, ViewPredictions, ViewPredictor

_BATCH = 32
_TRAIN_VIEWS = 1_000
"""Enough for a mean and standard deviation of each channel; ResNet-50 at 224 px takes a minute for them (2 cores)."""


def predict_examples(
    card: Card, weights: bytes, train: ray.data.Dataset, valid: ray.data.Dataset, on_gpu: bool
) -> Predictions:
    """Predict the valid split, and for a classifier a sample of the training views, with the finished model."""
    if card.task == "segment":
        views = predict(card, weights, valid, on_gpu)
        return Predictions(views, None, _masks_to_draw(card, weights, valid, views))
    together = valid.union(_sampled(train))  # a second actor takes 14 s to start (2 cores)
    views = predict(card, weights, together, on_gpu)
    keys = [batch["key"] for batch in valid.select_columns(["key"]).iter_batches(batch_size=None)]
    is_valid = np.isin(views.key, np.concatenate(keys))
    return Predictions(views.of(is_valid), views.of(~is_valid), [])


def predict_refit(card: Card, weights: bytes, train: ray.data.Dataset, on_gpu: bool) -> Predictions:
    """Predict a sample of the training views of a refit, which has no valid split; nothing for a segmenter."""
    return Predictions(None, predict(card, weights, _sampled(train), on_gpu) if card.findings else None, [])


def _sampled(train: ray.data.Dataset) -> ray.data.Dataset:
    count = train.count()
    return train if count <= _TRAIN_VIEWS else train.random_sample(_TRAIN_VIEWS / count, seed=0)


def predict(card: Card, weights: bytes, examples: ray.data.Dataset, on_gpu: bool) -> ViewPredictions:
    """Predict every view of prepared examples."""
    predicted = examples.map_batches(
        _Actor,
        fn_constructor_args=(card, ray.put(weights), on_gpu),
        batch_size=_BATCH,
        num_cpus=0 if on_gpu else 1,
        num_gpus=1 if on_gpu else 0,
        compute=ActorPoolStrategy(size=1),
        **session.TRY_AGAIN,
    )
    batches = predicted.iter_batches(batch_size=None)
    return ViewPredictions.joined([_unpacked(batch) for batch in batches if len(batch["key"])])


class _Actor:
    def __init__(self, card: Card, weights: "ray.ObjectRef[bytes]", on_gpu: bool) -> None:
        self._predict = ViewPredictor(card, ray.get(weights), "cuda" if on_gpu else "cpu")

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Leave out columns without entries (the embedding of a segmenter): Arrow has no tensors without entries."""
        columns = self._predict(batch)._asdict()
        return {name: values for name, values in columns.items() if values.ndim == 1 or values.shape[1]}


def _unpacked(batch: Mapping[str, Any]) -> ViewPredictions:
    """Add the columns that `_Actor` left out."""
    empty = np.zeros((len(batch["key"]), 0), np.float32)
    return ViewPredictions(*(batch.get(name, empty) for name in ViewPredictions._fields))


def _masks_to_draw(card: Card, weights: bytes, valid: ray.data.Dataset, views: ViewPredictions) -> list[ViewMasks]:
    """Predict the few masks that are drawn, from the worst on, in this process."""
    keys = keys_to_draw(views)
    view_of = {}
    for batch in valid.iter_batches(batch_size=_BATCH):
        for row in np.flatnonzero(np.isin(batch["key"], keys)):
            view_of[int(batch["key"][row])] = batch["pixels"][row], batch["target"][row] > 0
    masks = ViewPredictor(card, weights).masks(np.stack([view_of[key][0] for key in keys]))
    return [ViewMasks(key, *view_of[key], mask) for key, mask in zip(keys, masks, strict=True)]

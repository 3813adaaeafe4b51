"""The finished model, asked once more by Ray Data: of the valid split, and of what training views look like."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import ray
import ray.data
from ray.data import ActorPoolStrategy

from cxrpipe.models.card import Card
from cxrpipe.on_ray import session
from cxrpipe.training.model_folder import Judgement, Shown, worth_showing
from cxrpipe.training.predictions import Judge, Judged

_BATCH = 32
_TRAIN_VIEWS = 1_000
"""Enough for a mean and standard deviation of each channel; ResNet-50 at 224 px takes a minute for them (2 cores)."""


def judge(card: Card, weights: bytes, train: ray.data.Dataset, valid: ray.data.Dataset) -> Judgement:
    """What the model of these weights says of the examples."""
    if card.task == "segment":
        judged = _judge(card, weights, valid)
        return Judgement(judged, None, _shown(card, weights, valid, judged))
    views = train.count()
    some = train if views <= _TRAIN_VIEWS else train.random_sample(_TRAIN_VIEWS / views, seed=0)
    judged = _judge(card, weights, valid.union(some))  # at once: a second actor would take 14 s to start (2 cores)
    keys = [batch["key"] for batch in valid.select_columns(["key"]).iter_batches(batch_size=None)]
    of_valid = np.isin(judged.key, np.concatenate(keys))
    return Judgement(judged.of(of_valid), judged.of(~of_valid), [])


def _judge(card: Card, weights: bytes, examples: ray.data.Dataset) -> Judged:
    gpus = min(1, session.cluster_gpus())
    said = examples.map_batches(
        _Actor,
        fn_constructor_args=(card, ray.put(weights), gpus > 0),
        batch_size=_BATCH,
        num_cpus=1,
        num_gpus=gpus,
        compute=ActorPoolStrategy(size=1),
        **session.TRY_AGAIN,
    )
    return Judged.joined([_unpacked(batch) for batch in said.iter_batches(batch_size=None) if len(batch["key"])])


class _Actor:
    def __init__(self, card: Card, weights: ray.ObjectRef, on_gpu: bool) -> None:
        self._judge = Judge(card, ray.get(weights), "cuda" if on_gpu else "cpu")

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Columns without entries (the embedding of a segmenter) are left out: Arrow has no tensors without entries."""
        said = self._judge(batch)._asdict()
        return {name: values for name, values in said.items() if values.ndim == 1 or values.shape[1]}


def _unpacked(batch: Mapping[str, Any]) -> Judged:
    nothing = np.zeros((len(batch["key"]), 0), np.float32)
    return Judged(*(batch.get(name, nothing) for name in Judged._fields))


def _shown(card: Card, weights: bytes, valid: ray.data.Dataset, judged: Judged) -> list[Shown]:
    """The views worth showing, from the worst on. So few that this process asks the model itself."""
    keys = worth_showing(judged)
    found = {}
    for batch in valid.iter_batches(batch_size=_BATCH):
        for row in np.flatnonzero(np.isin(batch["key"], keys)):
            found[int(batch["key"][row])] = batch["pixels"][row], batch["target"][row] > 0
    masks = Judge(card, weights).masks(np.stack([found[key][0] for key in keys]))
    return [Shown(key, *found[key], mask) for key, mask in zip(keys, masks, strict=True)]

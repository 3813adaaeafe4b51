"""Tells views that are unlike the training views, by the distance of their embedding from those of training."""

from collections.abc import Iterable

import numpy as np

from cxrpipe.models.card import Embedding

_FAR = 0.99  # quantile of the distances of the training views


def distance(embedding: np.ndarray, known: Embedding) -> np.ndarray:
    """(N, C) → (N,): root mean square of the channels' distances from the training's mean, in standard deviations."""
    off = (embedding - np.array(known.mean)) / np.maximum(np.array(known.std), 1e-6)
    return np.asarray(np.sqrt((off**2).mean(axis=1)))


def most_are_far(embeddings: Iterable[tuple[np.ndarray, Embedding]]) -> np.ndarray | None:
    """(N,) bool: views that are far from the training views of most members; None: no member can tell.

    embeddings  of the members whose cards can tell: (N, C), and the embedding of the card
    """
    votes = [distance(of_views, known) > known.limit for of_views, known in embeddings]
    return np.mean(votes, axis=0) > 0.5 if votes else None


def embedding_of(views: np.ndarray) -> Embedding:
    """The embedding that a card keeps of its training views, (N, C). A view beyond the limit is unlike these views."""
    mean, std = views.mean(axis=0), views.std(axis=0)
    unlimited = Embedding(tuple(mean.tolist()), tuple(std.tolist()), np.inf)
    return unlimited._replace(limit=float(np.quantile(distance(views, unlimited), _FAR)))

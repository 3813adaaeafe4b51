"""The studies nearest to one study by feature vector: exact, some studies in memory at a time."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from cxrpipe.records.vectors import Vectors


class Neighbour(NamedTuple):
    """A study near another one."""

    distance: float
    """1 − the cosine of the two nearest views, 0..2."""
    view: int
    """The number of its nearest view in its study."""
    row: dict[str, Any]
    """Its row, with the columns that were given."""


def unit(vectors: np.ndarray) -> np.ndarray:
    """(N, D) float of any kind → float32 of length 1; a vector of zeros stays one."""
    vectors = vectors.astype(np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1))


def nearest(query: np.ndarray, batches: Iterable[tuple[pa.Table, Vectors]], top: int) -> list[Neighbour]:
    """The `top` studies nearest to a study, the nearest first. A study counts by its nearest view.

    query    (Q, D) the vectors of the views of the study
    batches  rows of other studies, each study once in all, and the vectors of their views
    """
    sought, neighbours = unit(query), list[Neighbour]()
    for rows, vectors in batches:
        if not len(vectors.values):
            continue
        distances = 1 - (unit(vectors.values) @ sought.T).max(axis=1)
        places: dict[int, int] = {}  # study → its nearest view
        for place in np.argsort(distances, kind="stable").tolist():
            places.setdefault(int(vectors.study[place]), place)
            if len(places) == top:
                break
        neighbours += [
            Neighbour(float(distances[place]), int(vectors.view[place]), rows.slice(study, 1).to_pylist()[0])
            for study, place in places.items()
            if len(neighbours) < top or distances[place] < neighbours[-1].distance
        ]
        neighbours = sorted(neighbours, key=lambda neighbour: neighbour.distance)[:top]
    return neighbours

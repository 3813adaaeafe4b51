"""The feature vectors of many views as one column of score rows."""

import itertools
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from cxrpipe.scoring.prepare import Row


def vector_column(features: Sequence[np.ndarray | None], rows: Sequence[Row], views: np.ndarray) -> pa.Array:
    """The column `feature_vectors` of N studies; null for a study without a scored view (see `records.score`).

    features  per member (ΣV, D) float16 of the scored views, study after study; None: a member without vectors
    rows      of the studies; the status of a view says whether it was scored
    views     (N,) int: the number of scored views of each study
    """
    present = [vectors for vectors in features if vectors is not None]
    values = np.concatenate(present, axis=1).ravel() if present else np.zeros(0, np.float16)
    sizes = [0 if vectors is None else vectors.shape[1] for vectors in features]
    total = int(views.sum())
    of_members = _lists(np.tile(sizes, total), pa.array(values), np.tile([each is None for each in features], total))

    statuses = [
        [view["status"] for view in row["views"]] if count else [] for row, count in zip(rows, views, strict=True)
    ]
    scored = np.array(list(itertools.chain(*statuses))) == "ok"
    of_views = _lists(np.where(scored, len(features), 0), of_members, ~scored)
    return _lists(np.array([len(of_study) for of_study in statuses]), of_views, views == 0)


def _lists(lengths: np.ndarray, values: pa.Array, is_null: np.ndarray) -> pa.ListArray:
    """(M,) lengths, values for all of them in a row → a column of M lists."""
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    return pa.ListArray.from_arrays(offsets, values, mask=pa.array(is_null, pa.bool_()))

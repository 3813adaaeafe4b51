"""The column `feature_vectors` of score rows as an array: views × members × D in lists, with nulls, becomes (M, D)."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


class Vectors(NamedTuple):
    """The feature vectors that one member has of the views of some studies, study after study."""

    values: np.ndarray  # (M, D) float16
    study: np.ndarray  # (M,) int: the row of the study
    view: np.ndarray  # (M,) int: the place of the view in its study


def vectors_of(column: pa.ChunkedArray | pa.Array, member: int) -> Vectors:
    """Read the vectors of a member. A view that was not scored has none, and a member may have none of any view.

    column  `feature_vectors` of N studies
    member  its place among the members of the run
    """
    studies = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    study = pc.list_parent_indices(studies).to_numpy()  # of every view
    view = np.arange(len(study)) - np.searchsorted(study, study)
    views = pc.list_flatten(studies)
    scored = views.is_valid().to_numpy(zero_copy_only=False)
    of_member = pc.list_element(views.filter(pa.array(scored)), member)
    present = of_member.is_valid().to_numpy(zero_copy_only=False)
    flat = pc.list_flatten(of_member).to_numpy(zero_copy_only=False)
    places = np.flatnonzero(scored)[present]
    return Vectors(flat.reshape(len(places), -1) if len(places) else flat.reshape(0, 0), study[places], view[places])

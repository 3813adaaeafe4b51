"""Finds near-duplicates across splits: one film, or a copy of it, under two patients in two splits.

The distance of two views is that of their feature vectors at length 1, r = √(2 − 2·cosine). Two views of different
patients in two splits are near-duplicates where two things hold. They are closer than the nearest 0.01% of the pairs
of different patients. And they are so close that an archive of this size, of ordinary films alone, would hold 0.05 such
pairs in the mean: of a million pairs of ordinary films a hundred are among the nearest 0.01%.

How fast pairs get rarer with their distance is measured on pairs within a split. The fraction closer than r is taken as
p·(r / r₁)^d: the fraction p is closer than r₁, and 4p than r₁·4^(1/d). Distances have such a law in d dimensions.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from cxrpipe.evaluation.neighbours import unit

NEAREST = 1e-4
"""The fraction of pairs that is nearest."""
MOST_VIEWS = 200_000
"""Views that are compared at most: 7·10⁹ pairs across an 80/10/10 split. The time grows with the square: 50,000 views
of 768 numbers take 11 s of CPU."""
SHOWN = 20
"""Pairs of studies that are listed."""
_BY_CHANCE = 0.05
"""Pairs of ordinary films that are allowed to be found, in the mean."""
_SAMPLE = 2_048
"""Views of each split of which all pairs are measured for the estimate: two million pairs."""
_IN_THE_TAIL = 50
"""Pairs of the sample that are closer than r₁, at least."""
_AT_ONCE = 4_096
_LEAST_DISTANCE = 1e-3
"""Vectors of 16 bits and sums in 32 tell no smaller distances apart."""


class EmbeddedViews(NamedTuple):
    """The feature vectors of views with what decides whether a pair of them counts."""

    vectors: np.ndarray  # (N, D) float16
    study: np.ndarray  # (N,) int
    patient: np.ndarray  # (N,) int; a study of no patient has a number of its own
    split: np.ndarray  # (N,) int


class Pair(NamedTuple):
    """Two studies in two splits, whose nearest views are near-duplicates."""

    distance: float
    """1 − cosine, as `similar` shows it."""
    study: int
    other: int


class Duplicates(NamedTuple):
    """All near-duplicates across splits."""

    limit: float
    """1 − cosine of the farthest pair that counts."""
    compared: int
    """Pairs of views in two splits."""
    studies: int
    """Pairs of studies that were found."""
    nearest: tuple[Pair, ...]
    """The nearest of these, at most `SHOWN`."""


def find(views: EmbeddedViews, advance: Callable[[int], object] = lambda rows: None) -> Duplicates | None:
    """Compare all views of different patients in different splits. None where there are too few views to judge by.

    advance  called with the number of views that have been compared with all others
    """
    compared = sum(one * other for one, other in itertools.combinations(np.bincount(views.split).tolist(), 2))
    limit = _limit(views, compared) if compared else None
    if limit is None:
        return None
    nearest: dict[tuple[int, int], float] = {}
    for one, other, distance in _pairs(views, limit, advance):
        pair = (int(views.study[one]), int(views.study[other]))
        nearest[pair] = min(distance, nearest.get(pair, math.inf))
    pairs = sorted(Pair(distance, *pair) for pair, distance in nearest.items())
    return Duplicates(_cosine_distance(limit), compared, len(pairs), tuple(pairs[:SHOWN]))


def _pairs(views: EmbeddedViews, limit: float, advance: Callable[[int], object]) -> Iterator[tuple[int, int, float]]:
    """The pairs of views (two places, 1 − cosine) of different patients in different splits that are close enough."""
    of_split = [np.flatnonzero(views.split == split) for split in np.unique(views.split)]
    of_split.sort(key=len)
    least = 1 - _cosine_distance(limit)
    for first, places in enumerate(of_split):
        others = np.concatenate([*of_split[first + 1 :], np.zeros(0, int)])
        for rows in _chunks(places):
            wanted = unit(views.vectors[rows])
            for columns in _chunks(others):
                cosines = wanted @ unit(views.vectors[columns]).T
                for row, column in np.argwhere(cosines >= least).tolist():
                    one, other = rows[row], columns[column]
                    if views.patient[one] != views.patient[other]:
                        yield int(one), int(other), 1 - float(cosines[row, column])
            advance(len(rows))


def _limit(views: EmbeddedViews, compared: int) -> float | None:
    """The largest distance r of a near-duplicate; None where a sample does not tell."""
    distances = np.concatenate([*_within(views)])
    tail = max(_IN_THE_TAIL, math.ceil(NEAREST * len(distances)))
    if len(distances) < 8 * tail:
        return None
    nearest = np.partition(distances, (tail - 1, 4 * tail - 1))
    near, farther = nearest[tail - 1], nearest[4 * tail - 1]
    if near < _LEAST_DISTANCE or farther <= near:
        return None
    fraction, dimensions = tail / len(distances), math.log(4) / math.log(farther / near)
    wanted = min(NEAREST, _BY_CHANCE / compared)
    return float(near * min(1.0, wanted / fraction) ** (1 / dimensions))


def _within(views: EmbeddedViews) -> Iterator[np.ndarray]:
    """The distances of pairs of different patients within a split, of some of its views."""
    random = np.random.default_rng(0)
    for split in np.unique(views.split):
        places = np.flatnonzero(views.split == split)
        places = random.choice(places, min(len(places), _SAMPLE), replace=False)
        vectors, patient = unit(views.vectors[places]), views.patient[places]
        counts = np.triu(patient[:, None] != patient[None, :], k=1)
        yield np.sqrt(np.maximum(2 - 2 * (vectors @ vectors.T)[counts], 0))


def _chunks(places: np.ndarray) -> list[np.ndarray]:
    return [places[start : start + _AT_ONCE] for start in range(0, len(places), _AT_ONCE)]


def _cosine_distance(distance: float) -> float:
    return distance**2 / 2

"""Draws studies for reading with known inclusion probabilities, so that figures can be weighted back to all studies.

Arrays are aligned: N studies of the population. A study that can never be drawn could not be weighted back: every
method gives every study a chance.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

SPREAD = 0.2
"""Share of a sample by size that is spread evenly over all studies. No weight is then above 1 / SPREAD times that of a
random sample. Source: Hesterberg, Technometrics 1995 (defensive mixtures)."""


class Drawn(NamedTuple):
    """A sample in random order: whoever reads only its beginning has read a random part of it."""

    places: np.ndarray  # (n,) int, 0..N-1
    probability: np.ndarray  # (n,) float, 0..1, of being drawn


def uncertainty(probs: np.ndarray, threshold: float) -> np.ndarray:
    """Give how near probabilities are to a threshold: 1 at the threshold, 0 at 0 and 1.

    probs      (N,) float, 0..1
    threshold  0..1, neither of both
    """
    return np.where(probs < threshold, probs / threshold, (1 - probs) / (1 - threshold))


def draw_at_random(population: int, studies: int, rng: np.random.Generator) -> Drawn:
    """Draw studies that all have the same chance, none twice."""
    studies = min(studies, population)
    return Drawn(rng.permutation(population)[:studies], np.full(studies, studies / max(population, 1)))


def draw_by_size(sizes: np.ndarray, studies: int, rng: np.random.Generator) -> Drawn:
    """Draw studies whose chance grows with their size, none twice.

    sizes  (N,) float, none negative

    Systematic sampling in random order, which has exactly these inclusion probabilities and exactly this number of
    studies. Source: Madow, Ann Math Stat 1949; Tillé, Sampling Algorithms (2006), section 7.1.
    """
    chance = _chances(sizes, min(studies, len(sizes)))
    order = rng.permutation(len(sizes))
    passed = np.concatenate([[0.0], np.cumsum(chance[order])])
    steps = np.floor(passed - rng.random() + 1e-9)  # sums of 0.1 are not exact
    places = order[np.flatnonzero(np.diff(steps) >= 1)]
    places = rng.permutation(places)
    return Drawn(places, chance[places])


def draw_from_strata(strata: np.ndarray, studies: int, rng: np.random.Generator) -> Drawn:
    """Draw the same number of studies from every stratum, at random in each; a small stratum is drawn whole.

    strata  (N,) int
    """
    drawn = []
    numbers, sizes = np.unique(strata, return_counts=True)
    for number, share in zip(numbers, _shares(sizes, studies), strict=True):
        members = np.flatnonzero(strata == number)
        of_stratum = draw_at_random(len(members), share, rng)
        drawn.append(Drawn(members[of_stratum.places], of_stratum.probability))
    if not drawn:
        return Drawn(np.zeros(0, np.int64), np.zeros(0))
    together = Drawn(*(np.concatenate(column) for column in zip(*drawn, strict=True)))
    order = rng.permutation(len(together.places))
    return Drawn(together.places[order], together.probability[order])


def _chances(sizes: np.ndarray, studies: int) -> np.ndarray:
    """Inclusion probabilities, 0..1, that sum to `studies`: SPREAD of them even, the rest in proportion to sizes."""
    total = sizes.sum()
    if not total:
        return np.full(len(sizes), studies / max(len(sizes), 1))
    share = SPREAD / len(sizes) + (1 - SPREAD) * sizes / total
    chance, certain = np.zeros(len(sizes)), np.zeros(len(sizes), bool)
    while True:
        chance[certain] = 1.0
        chance[~certain] = (studies - certain.sum()) * share[~certain] / max(share[~certain].sum(), 1e-300)
        above = chance > 1
        if not above.any():
            return chance
        certain |= above


def _shares(sizes: np.ndarray, studies: int) -> list[int]:
    """Divide studies among strata of these sizes as evenly as these sizes allow."""
    shares = np.zeros(len(sizes), int)
    left = min(studies, int(sizes.sum()))
    while left:
        open_ = np.flatnonzero(shares < sizes)
        each, rest = divmod(left, len(open_))
        more = np.minimum(each + (np.arange(len(open_)) < rest), sizes[open_] - shares[open_])
        shares[open_] += more
        left -= int(more.sum())
    return [int(share) for share in shares]

"""What changed between two scored runs: shift of the distributions, flipped decisions, new failures."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, eq=False, kw_only=True)
class Shift:
    """One distribution in two runs: the probability of a finding, or the fraction of lung."""

    name: str
    """A finding, or `lung_fraction`."""
    reference_studies: int
    studies: int
    """Of the later run, which may drift."""
    psi: float
    """Population stability index over the tenths of the reference."""
    psi_by_chance: float
    """99.9% quantile of the index of as many studies drawn from the reference."""
    ks: float
    """Kolmogorov-Smirnov: the largest distance of the distributions, 0..1."""
    ks_p_value: float
    reference_mean: float
    mean: float
    reference_positive_fraction: float
    """Of the consensus; nan for what is no finding."""
    positive_fraction: float
    edges: np.ndarray = field(repr=False)  # (B + 1,) float
    reference_counts: np.ndarray = field(repr=False)  # (B,) int
    counts: np.ndarray = field(repr=False)  # (B,) int
    alarm: bool
    """psi > 0.2 and psi > psi_by_chance."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Flips:
    """Studies of both runs whose consensus differs."""

    finding: str
    studies: int
    """With a consensus in both."""
    to_positive: int
    to_negative: int
    study_ids: tuple[str, ...] = field(repr=False)
    """The first hundred, in order."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Comparison:
    """Two runs side by side."""

    reference: str
    """The url of the run or root that stands for how it was."""
    later: str
    fingerprints: tuple[str, str]
    reference_counts: dict[str, int]
    """`ok`, `failed/corrupt`, … → studies."""
    counts: dict[str, int]
    studies_in_both: int
    newly_failed: tuple[str, ...]
    """Study ids that had numbers in the reference and have none now; the first hundred."""
    newly_failed_studies: int
    shifts: tuple[Shift, ...]
    """One per finding, and `lung_fraction` where there is a segmenter."""
    flips: tuple[Flips, ...]

    @property
    def alarm(self) -> bool:
        return any(shift.alarm for shift in self.shifts)

"""Figures of a whole archive from the part of it that readers have read: inverse probability weighting.

A study that was drawn for reading with the probability p speaks for 1 / p studies. Every figure is a fraction, whose
numerator and denominator are both such sums (Hájek 1971). Its variance is Hájek's for designs with unequal
probabilities (Ann Math Stat 1964; Tillé, Sampling Algorithms 2006, section 7.4), by strata, of the linearised fraction;
a study that was certain to be read adds nothing. The interval is Wilson's, with the number of studies that would give
this variance in a random sample (Franco et al., J Surv Stat Methodol 2019).

The figures are of the archive as these readers would have read all of it. Studies that are listed and not read yet are
taken to be like the read ones of their stratum: lists are in random order, so that the first ones are a random part.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cxrpipe.evaluation.metrics import Estimate, wilson

FIGURES = ("prevalence", "sensitivity", "specificity", "precision", "npv")


@dataclass(frozen=True, eq=False, kw_only=True)
class WeightedFigures:
    """Figures of the consensus on one finding, of all studies that one reading list speaks for."""

    finding: str
    reading_list: str
    population: int
    """Studies from which the list was drawn."""
    listed: int
    read: int
    """Studies of the list on which the readers have said yes or no."""
    studies: int
    """Read studies of the evaluated split; the figures are over these."""
    positives: int
    unread_strata: tuple[str, ...]
    """Strata of which no study is read: the figures do not speak for them."""
    prevalence: Estimate
    sensitivity: Estimate
    specificity: Estimate
    precision: Estimate
    npv: Estimate


@dataclass(frozen=True, eq=False)
class Sample:
    """The studies of a reading list that were read: m of n. Arrays are aligned."""

    weights: np.ndarray  # (m,) float, how many studies of the population each speaks for
    chances: np.ndarray  # (m,) float, 0..1, of being drawn and read
    strata: np.ndarray  # (m,) int

    @classmethod
    def of(cls, probability: np.ndarray, strata: np.ndarray, read: np.ndarray) -> Sample:
        """probability, strata, read  (n,) float, int, bool, of all studies of the list"""
        read_share = np.array([read[strata == stratum].mean() for stratum in strata[read]])
        chances = probability[read] * read_share
        return cls(1 / chances, chances, strata[read])

    def figures(self, targets: np.ndarray, consensus: np.ndarray, among: np.ndarray) -> dict[str, Estimate]:
        """Estimate `FIGURES`.

        targets, consensus  (m,) bool
        among               (m,) bool: the studies of the split that is evaluated
        """
        sick, well, called, passed = (among & each for each in (targets, ~targets, consensus, ~consensus))
        ppv, npv = self.fraction(called, targets), self.fraction(passed, ~targets)
        hits, alarms = self._sums(called, ppv)
        rejections, misses = self._sums(passed, npv)
        return {
            "prevalence": self.fraction(among, targets),
            "sensitivity": _as_wide(self.fraction(sick, consensus), hits, misses),
            "specificity": _as_wide(self.fraction(well, ~consensus), rejections, alarms),
            "precision": ppv,
            "npv": npv,
        }

    def fraction(self, of: np.ndarray, hits: np.ndarray) -> Estimate:
        """Estimate the fraction of hits, (m,) bool, among the studies `of`, (m,) bool; nan where there are none."""
        total = self.weights[of].sum()
        if not total:
            return Estimate(np.nan, np.nan, np.nan)
        value = float(self.weights[of & hits].sum() / total)
        variance = self._variance(self.weights * of * (hits - value) / total)
        if 0 < value < 1:
            if not variance:
                return Estimate(value, value, value)  # every study that matters was certain to be read
            studies = value * (1 - value) / variance
        else:
            studies = total**2 / (self.weights[of] ** 2).sum()  # Kish's number
        low, high = wilson(value, studies)
        return Estimate(value, float(low), float(high))

    def _variance(self, moved: np.ndarray) -> float:
        """Hájek's variance of the sum of (m,) values of a sample."""
        variance = 0.0
        for stratum in np.unique(self.strata):
            values, left = (each[self.strata == stratum] for each in (moved, 1 - self.chances))
            if len(values) > 1 and left.sum() > 1e-9:
                middle = (left * values).sum() / left.sum()
                variance += len(values) / (len(values) - 1) * float((left * (values - middle) ** 2).sum())
            elif len(values) == 1:
                variance += float(left[0] * values[0] ** 2)
        return variance

    def _sums(self, of: np.ndarray, share: Estimate) -> tuple[Estimate, Estimate]:
        """The weights of the studies `of` that have what `share` counts, and of the others."""
        total = self.weights[of].sum()
        if not total:
            return Estimate(0.0, 0.0, 0.0), Estimate(0.0, 0.0, 0.0)
        value, low, high = (total * end for end in share)
        return Estimate(value, low, high), Estimate(total - value, total - high, total - low)


def _as_wide(estimate: Estimate, right: Estimate, wrong: Estimate) -> Estimate:
    """Widen an interval to what follows from the interval of either of its two sums.

    Where none of the read studies was missed, the variance of sensitivity is 0; but many studies that the consensus
    passed were not read, and some may have the finding.
    """
    sums = [(end, wrong.value) for end in right[1:]] + [(right.value, end) for end in wrong[1:]]
    ends = [first / (first + second) for first, second in sums if first + second]
    return Estimate(estimate.value, min(estimate.low, *ends), max(estimate.high, *ends)) if ends else estimate


def unread(strata: np.ndarray, read: np.ndarray) -> Iterator[int]:
    """The strata (n,) int of which no study is read, (n,) bool."""
    yield from (int(stratum) for stratum in np.setdiff1d(strata, strata[read]))

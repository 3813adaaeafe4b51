"""Drift between two scored runs: shifted distributions, flipped decisions, new failures.

The population stability index of few studies is large by chance. It is above 0.2, the usual alarm, on 27% of nights of
50 studies without any change (43% without the half study that is added to every bin). So an alarm must also exceed
chance: the 99.9% quantile of the index over draws from the reference, of as many studies as both runs have. Studies are
drawn one by one, without regard to patients.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

ALARM = 0.2
_BINS = 10
_QUANTILE = 0.999
_SHOWN = 100
LUNGS = "lung_fraction"


@dataclass(frozen=True, eq=False, kw_only=True)
class Shift:
    """One distribution in two runs: the probabilities of a finding, or the fractions of lung."""

    name: str
    """A finding, or `lung_fraction`."""
    reference_studies: int
    studies: int
    """Studies of the later run."""
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
    """Fraction that the consensus calls positive; nan for `lung_fraction`."""
    positive_fraction: float
    edges: np.ndarray = field(repr=False)  # (B + 1,) float
    reference_counts: np.ndarray = field(repr=False)  # (B,) int
    counts: np.ndarray = field(repr=False)  # (B,) int
    alarm: bool
    """psi > 0.2 and psi > psi_by_chance."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Flips:
    """Studies that are in both runs, with a different consensus."""

    finding: str
    studies: int
    """Studies with a consensus in both runs."""
    to_positive: int
    to_negative: int
    study_ids: tuple[str, ...] = field(repr=False)
    """The first hundred flipped studies, sorted."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Comparison:
    """Two runs side by side."""

    reference: str
    """URL of the score root of the reference."""
    later: str
    fingerprints: tuple[str, str]
    reference_counts: dict[str, int]
    """`ok`, `failed/corrupt`, … → studies."""
    counts: dict[str, int]
    studies_in_both: int
    newly_failed: tuple[str, ...]
    """The first hundred studies with probabilities in the reference and without them in the later run."""
    newly_failed_studies: int
    shifts: tuple[Shift, ...]
    """One per finding, and `lung_fraction` where there is a segmenter."""
    flips: tuple[Flips, ...]

    @property
    def alarm(self) -> bool:
        """Whether any distribution raises an alarm."""
        return any(shift.alarm for shift in self.shifts)


def psi(reference: np.ndarray, later: np.ndarray) -> np.ndarray:
    """Compute the population stability index of counts, (…, B) and (…, B) → (…): Σ (q − p) · ln(q / p).

    Half a study is added to every bin, so that the index stays finite with an empty bin.
    """
    p, q = (_fractions(counts) for counts in (reference, later))
    index: np.ndarray = ((q - p) * np.log(q / p)).sum(axis=-1)
    return index


def _fractions(counts: np.ndarray) -> np.ndarray:
    filled = counts + 0.5
    fractions: np.ndarray = filled / filled.sum(axis=-1, keepdims=True)
    return fractions


def psi_by_chance(reference: np.ndarray, studies: int, resamples: int, seed: int) -> float:
    """Draw the 99.9% quantile of the index without any change.

    reference  (B,) counts
    studies    number of studies of the later run
    """
    rng, fractions = np.random.default_rng(seed), reference / reference.sum()
    draws = (rng.multinomial(count, fractions, size=resamples) for count in (reference.sum(), studies))
    return float(np.quantile(psi(*draws), _QUANTILE))


def shift(
    name: str,
    reference: np.ndarray,
    later: np.ndarray,
    positive: tuple[float, float] = (np.nan, np.nan),
    *,
    resamples: int = 20_000,
    seed: int = 0,
    may_alarm: bool = True,
) -> Shift:
    """Compare two distributions. If one has no values, the figures are nan and there is no alarm.

    reference, later  (N,) and (M,) float, 0..1
    positive          fraction that the consensus calls positive in both
    """
    from scipy.stats import ks_2samp

    edges = np.linspace(0, 1, _BINS + 1)
    counts = [np.zeros(_BINS, int)] * 2
    index = by_chance = distance = p_value = float("nan")
    if len(reference) and len(later):
        inner = np.unique(np.quantile(reference, np.linspace(0, 1, _BINS + 1)[1:-1]))
        edges = np.concatenate([[0], inner, [1]])
        bins = len(inner) + 1
        counts = [np.bincount(np.searchsorted(inner, run, "right"), minlength=bins) for run in (reference, later)]
        index, by_chance = float(psi(*counts)), psi_by_chance(counts[0], len(later), resamples, seed)
        distance, p_value = (float(number) for number in ks_2samp(reference, later, method="asymp"))
    return Shift(
        name=name,
        reference_studies=len(reference),
        studies=len(later),
        psi=index,
        psi_by_chance=by_chance,
        ks=distance,
        ks_p_value=p_value,
        reference_mean=_mean(reference),
        mean=_mean(later),
        reference_positive_fraction=positive[0],
        positive_fraction=positive[1],
        edges=edges,
        reference_counts=counts[0],
        counts=counts[1],
        alarm=may_alarm and index > ALARM and index > by_chance,
    )


def compare(
    reference: pa.Table,
    later: pa.Table,
    findings: Sequence[str],
    names: tuple[str, str],
    *,
    resamples: int = 20_000,
    seed: int = 0,
    may_alarm: bool = True,
) -> Comparison:
    """Compare two tables of score rows, in which every study stands once.

    names  the URLs of both score roots
    """
    runs = (reference, later)
    settings: dict[str, Any] = {"resamples": resamples, "seed": seed, "may_alarm": may_alarm}
    shifts = []
    for name in findings:
        before, after = (_known(rows[f"prob_{name}"]) for rows in runs)
        shifts.append(shift(name, before, after, _positive(runs, name), **settings))
    before, after = (_lung_fractions(rows) for rows in runs)
    if len(before) or len(after):
        shifts.append(shift(LUNGS, before, after, **settings))
    places = pc.index_in(later["study_id"], value_set=reference["study_id"].combine_chunks())
    both = reference.take(places.drop_null()), later.filter(places.is_valid())
    without_probs = [_has_no_probs(rows) for rows in both]
    newly_failed = both[1]["study_id"].filter(pa.array(without_probs[1] & ~without_probs[0])).to_pylist()
    return Comparison(
        reference=names[0],
        later=names[1],
        fingerprints=(reference["fingerprint"][0].as_py(), later["fingerprint"][0].as_py()),
        reference_counts=_counts(reference),
        counts=_counts(later),
        studies_in_both=both[0].num_rows,
        newly_failed=tuple(sorted(newly_failed)[:_SHOWN]),
        newly_failed_studies=len(newly_failed),
        shifts=tuple(shifts),
        flips=tuple(_flips(*both, findings)),
    )


def _flips(reference: pa.Table, later: pa.Table, findings: Sequence[str]) -> Iterator[Flips]:
    """Count flips of every finding; both tables hold the same studies in the same order."""
    for name in findings:
        before, after = reference[f"consensus_{name}"], later[f"consensus_{name}"]
        known = pc.and_(before.is_valid(), after.is_valid())
        flipped = pc.fill_null(pc.xor(before, after), False)
        yield Flips(
            finding=name,
            studies=pc.sum(known).as_py() or 0,
            to_positive=pc.sum(pc.and_(flipped, pc.fill_null(after, False))).as_py() or 0,
            to_negative=pc.sum(pc.and_(flipped, pc.fill_null(before, False))).as_py() or 0,
            study_ids=tuple(sorted(later["study_id"].filter(flipped).to_pylist())[:_SHOWN]),
        )


def _positive(runs: tuple[pa.Table, pa.Table], name: str) -> tuple[float, float]:
    """Compute the fractions that the consensus calls positive."""
    first, second = (_mean(_known(pc.cast(rows[f"consensus_{name}"], pa.float64()))) for rows in runs)
    return first, second


def _known(column: pa.ChunkedArray) -> np.ndarray:
    """Give the values that are not null."""
    values: np.ndarray = column.drop_null().to_numpy()
    return values


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _lung_fractions(rows: pa.Table) -> np.ndarray:
    """Average the fraction of lung over the views of every study that has it: (N,) float."""
    views = rows["views"].combine_chunks()
    fractions = pc.struct_field(pc.list_flatten(views), "lung_fraction")
    known = fractions.is_valid()
    studies = pc.list_parent_indices(views).filter(known).to_numpy()
    sums, counts = (np.bincount(studies, weights) for weights in (fractions.filter(known).to_numpy(), None))
    return sums[counts > 0] / counts[counts > 0]


def _has_no_probs(rows: pa.Table) -> np.ndarray:
    """Tell which studies failed or were rejected, (N,) bool."""
    without: np.ndarray = pc.is_in(rows["status"], pa.array(["failed", "rejected"])).to_numpy()
    return without


def _counts(rows: pa.Table) -> dict[str, int]:
    """Count studies by status and reason: `failed/corrupt` → studies."""
    pairs = zip(rows["status"].to_pylist(), rows["reason"].to_pylist(), strict=True)
    return dict(sorted(Counter(status if reason is None else f"{status}/{reason}" for status, reason in pairs).items()))

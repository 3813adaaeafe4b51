"""Folds of patients whose films were acquired alike: one held out shows what a model does where films look different.

Patients are cut in two along the direction in which their films differ most (the first principal component of the
standardised statistics), each part again, until there are as many groups as folds. So groups have equal numbers of
patients, no patient is in two, and the same statistics give the same groups: nothing is random.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cxrpipe import console
from cxrpipe.archives.acquisition import Acquisition, StudyAcquisition

_COMMON = 0.05
"""A prefix counts where at least this fraction of the studies has it."""
_EXPECTED = 10.0
"""A prefix is a label in disguise where so many studies with, or without, a finding are expected and none is there."""
_FARTHEST = 3.0
"""Statistics are cut to so many standard deviations: one film out of many must not decide a direction."""


class Member(NamedTuple):
    """One study of a patient."""

    patient: str
    labels: Mapping[str, float | None]
    acquired: StudyAcquisition


def acquisition_folds(members: Sequence[Member], number: int) -> dict[str, int]:
    """Patient → fold, 0 to number - 1, of patients whose studies were acquired alike. Sizes differ by one at most.

    Patients of whom no film can be read lie in the middle of all others.
    """
    patients, features = _features(members)
    fold_of = np.zeros(len(patients), int)
    for fold, group in enumerate(_cut(features, np.arange(len(patients)), number)):
        fold_of[group] = fold
    folds = dict(zip(patients, fold_of.tolist(), strict=True))
    _describe(members, folds, number)
    return folds


def _features(members: Sequence[Member]) -> tuple[list[str], np.ndarray]:
    """The patients, sorted, and their standardised statistics, (P, C)."""
    prefixes = _prefixes(members)
    rows: dict[str, list[list[float]]] = defaultdict(list)
    for patient, _, acquired in members:
        values = acquired.values or [np.nan] * len(Acquisition._fields)
        rows[patient].append([*values, *(float(acquired.prefix == prefix) for prefix in prefixes)])
    patients = sorted(rows)
    features = np.array([_mean(np.array(rows[patient])) for patient in patients])
    mean, std = _mean(features), np.nanstd(features, axis=0)
    standardised = np.clip((features - mean) / np.where(std > 0, std, 1), -_FARTHEST, _FARTHEST)
    return patients, np.nan_to_num(standardised)


def _mean(values: np.ndarray) -> np.ndarray:
    """Average the rows of (N, C) without nan; nan where a column has nothing else."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        means: np.ndarray = np.where(known, values, 0).sum(axis=0) / known.sum(axis=0)
    return means


def _prefixes(members: Sequence[Member]) -> list[str]:
    """The frequent prefixes of file names, without those that tell a label."""
    counts = Counter(member.acquired.prefix for member in members)
    frequent = [prefix for prefix, count in sorted(counts.items()) if count >= _COMMON * len(members)]
    if len(frequent) < 2:
        return []
    tell = {prefix: finding for prefix in frequent if (finding := _told_by(prefix, members))}
    for prefix, finding in tell.items():
        console.log(f"the prefix {prefix!r} of file names tells {finding}, so it does not count as acquisition")
    return [prefix for prefix in frequent if prefix not in tell]


def _told_by(prefix: str, members: Sequence[Member]) -> str | None:
    """The finding that a prefix tells: all its studies have it, or none has it, and chance would give others."""
    for finding in members[0].labels:
        known = [
            (member.labels[finding] == 1, member.acquired.prefix == prefix)
            for member in members
            if member.labels[finding] in (0, 1)
        ]
        having = [positive for positive, has in known if has]
        if not having or len(having) == len(known):
            continue
        share = sum(positive for positive, _ in known) / len(known)
        positives = sum(having)
        if (positives == 0 and share * len(having) >= _EXPECTED) or (
            positives == len(having) and (1 - share) * len(having) >= _EXPECTED
        ):
            return finding
    return None


def _cut(features: np.ndarray, group: np.ndarray, number: int) -> Iterator[np.ndarray]:
    """Cut a group of patients, indices (G,), into `number` groups of equal size."""
    if number == 1:
        yield group
        return
    first = number // 2
    order = np.lexsort((group, np.round(_along_first_component(features[group]), 9)))
    place = round(len(group) * first / number)
    yield from _cut(features, np.sort(group[order[:place]]), first)
    yield from _cut(features, np.sort(group[order[place:]]), number - first)


def _along_first_component(features: np.ndarray) -> np.ndarray:
    """Project (G, C) onto the direction of the greatest variance: (G,). Its largest part points upwards."""
    centred = features - features.mean(axis=0)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    direction = vectors[:, -1]
    direction = direction * np.sign(direction[np.argmax(np.abs(np.round(direction, 9)))])
    projected: np.ndarray = centred @ direction
    return projected


def _describe(members: Sequence[Member], folds: Mapping[str, int], number: int) -> None:
    """Log a line for every group: who is in it, and how its films look."""
    for fold in range(number):
        of_fold = [member for member in members if folds[member.patient] == fold]
        values = _mean(np.array([member.acquired.values or [np.nan] * len(Acquisition._fields) for member in of_fold]))
        named = dict(zip(Acquisition._fields, values.tolist(), strict=True))
        shares = []
        for finding in list(of_fold[0].labels)[:3]:
            known = [member.labels[finding] == 1 for member in of_fold if member.labels[finding] in (0, 1)]
            shares += [f"{finding} {np.mean(known):.0%}"] if known else []
        looks = (
            f"brightness {named['brightness']:.2f}, contrast {named['contrast']:.2f}, border {named['border']:.0%}, "
            f"sharpness {named['sharpness']:.2f}, longer side {2 ** named['log_side']:.0f} px"
        )
        patients = len({member.patient for member in of_fold})
        counted = ", ".join([f"{len(of_fold):,} studies of {patients:,} patients", *shares])
        console.log(f"group {fold}: {counted}; {looks}")

"""Folds of patients whose films contradict their label: sick ones whose films look healthy, and the reverse.

A network that has learned the scanner instead of the lungs fails on them. A fold of films that look alike does not show
this where acquisition tells the finding within every such fold, too.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from cxrpipe import console
from cxrpipe.errors import ConfigError
from cxrpipe.training.acquisition_folds import Member
from cxrpipe.training.acquisition_hints import FEWEST, told_by_acquisition


def contradiction_folds(members: Sequence[Member], finding: str, number: int) -> dict[str, int]:
    """Patient → fold, 0 to number - 1. Fold 0 holds the patients whose films contradict their label most.

    Every fold has the same share of the patients with the finding, and of those without. Patients of whom no film can
    be read, or whose label is not known, lie in the last fold: they contradict nothing.
    """
    known = sorted(
        (each for each in members if each.acquired.values is not None and each.labels[finding] in (0, 1)),
        key=lambda each: (each.patient, each.acquired.study_id),
    )
    labels = np.array([each.labels[finding] for each in known], float)
    patients, of_study = np.unique([each.patient for each in known], return_inverse=True)
    sick = np.bincount(of_study, labels) > np.bincount(of_study) / 2
    if min(sick.sum(), (~sick).sum()) < FEWEST:
        raise ConfigError(
            f"--folds-by contradiction: {sick.sum()} patients with {finding} and {(~sick).sum()} without; "
            f"expected at least {FEWEST} of either kind"
        )
    values = np.array([each.acquired.values for each in known])
    contradiction = np.abs(labels - told_by_acquisition(values, labels == 1, of_study))
    of_patient = np.bincount(of_study, contradiction) / np.bincount(of_study)
    fold_of = dict.fromkeys(sorted({each.patient for each in members}), number - 1)
    for kind in (sick, ~sick):
        ranked = np.flatnonzero(kind)[np.argsort(-of_patient[kind], kind="stable")]
        for rank, place in enumerate(ranked.tolist()):
            fold_of[str(patients[place])] = rank * number // len(ranked)
    _describe(known, finding, fold_of, contradiction, number)
    return fold_of


def _describe(
    members: Sequence[Member], finding: str, fold_of: Mapping[str, int], contradiction: np.ndarray, number: int
) -> None:
    """Log a line for every fold."""
    of_fold: dict[int, list[int]] = defaultdict(list)
    for place, member in enumerate(members):
        of_fold[fold_of[member.patient]].append(place)
    for fold in range(number):
        places = of_fold[fold]
        present = np.mean([members[place].labels[finding] == 1 for place in places])
        wrong = np.mean(contradiction[places] > 0.5)
        console.log(
            f"fold {fold}: {len(places):,} studies, {finding} {present:.0%}; acquisition tells the wrong label of "
            f"{wrong:.0%}"
        )

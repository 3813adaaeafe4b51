"""Says where the acquisition of films tells a finding: a network can learn the scanner instead of the lungs."""

import random
from collections.abc import Mapping, Sequence

import numpy as np

from cxrpipe import console
from cxrpipe.training.acquisition_folds import Member

_TELLS = 0.8
"""An AUROC from here on is worth a hint. With 20 patients of either kind chance reaches it once in a thousand times."""
FEWEST = 20
"""Patients with a finding, and patients without."""
_MOST = 10_000
"""Studies that are looked at. More take long and change no hint."""
_FOLDS = 5


def say_what_acquisition_tells(members: Sequence[Member]) -> None:
    """Log a line for every finding that the statistics of acquisition tell."""
    for finding, auroc in telling(members).items():
        if auroc >= _TELLS:
            console.log(
                f"the acquisition alone tells {finding} with an AUROC of {auroc:.2f} on held-out patients: a network "
                "can learn it instead of the lungs; vary the films in training (--augment.brightness, "
                "--augment.contrast, --augment.resolution-fraction), crop to the lungs (--crop.segmenter), and judge "
                "the model on an archive of other scanners"
            )


def telling(members: Sequence[Member]) -> Mapping[str, float]:
    """Finding → AUROC of a classifier that sees the six statistics of a study alone, on patients whom it has not seen.

    A finding with too few patients of either kind is left out.
    """
    readable = [member for member in members if member.acquired.values is not None]
    if len(readable) > _MOST:
        readable = random.Random(0).sample(readable, _MOST)
    if not readable:
        return {}
    values = np.array([member.acquired.values for member in readable])  # (N, 6)
    patients = np.unique([member.patient for member in readable], return_inverse=True)[1]
    from sklearn.metrics import roc_auc_score  # takes 1.5 s to import

    figures = {}
    for finding in readable[0].labels:
        labels = np.array([member.labels[finding] for member in readable], float)  # None → nan
        known = (labels == 0) | (labels == 1)
        targets = labels[known] == 1
        of_either = (len(np.unique(patients[known][targets == kind])) for kind in (True, False))
        if min(of_either) >= FEWEST:
            answers = told_by_acquisition(values[known], targets, patients[known])
            figures[finding] = float(roc_auc_score(targets, answers))
    return figures


def told_by_acquisition(values: np.ndarray, targets: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """Give the probability of the finding for every study, (N,), by a classifier that has not seen its patient.

    values    (N, 6) statistics of the studies
    targets   (N,) bool
    patients  (N,) number of the patient

    The classifier is additive, a smooth curve for each statistic. Either kind of study counts as one half of all, so
    0.5 lies between the kinds.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import SplineTransformer, StandardScaler

    classifier = make_pipeline(
        StandardScaler(),
        SplineTransformer(n_knots=4, extrapolation="linear"),
        LogisticRegression(max_iter=1_000, class_weight="balanced"),
    )
    answers: np.ndarray = cross_val_predict(
        classifier,
        values,
        targets,
        groups=patients,
        cv=StratifiedGroupKFold(_FOLDS),
        method="predict_proba",
    )
    return answers[:, 1]

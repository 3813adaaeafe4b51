import numpy as np
import pytest
import sklearn.metrics
from test_metrics import labelled

from cxrpipe.curves import roc


def test_every_point_of_the_thinned_roc_curve_is_one_of_scikit_learns():
    targets, probs = labelled(0, studies=3000)
    theirs = set(zip(*sklearn.metrics.roc_curve(targets, probs)[:2], strict=True))
    thinned = roc(targets, probs, points=50)
    assert len(thinned.sensitivity) <= 50
    nearest = [min(abs(1 - specificity - x) + abs(sensitivity - y) for x, y in theirs)
               for specificity, sensitivity in zip(*thinned, strict=True)]  # fmt: skip
    assert max(nearest) < 1e-12


@pytest.mark.parametrize("distinct", [1, 3, 10_000])
def test_the_roc_curve_goes_from_corner_to_corner(distinct):
    specificity, sensitivity = roc(*labelled(0, distinct=distinct))
    assert (specificity[0], sensitivity[0], specificity[-1], sensitivity[-1]) == (1, 0, 0, 1)


def test_the_roc_curve_of_one_class_is_empty():
    assert len(roc(np.ones(5, bool), np.linspace(0, 1, 5)).sensitivity) == 0

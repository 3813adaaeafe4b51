import numpy as np
import pytest
import scipy.stats
import sklearn.calibration
import sklearn.metrics
from test_metrics import labelled

from cxrpipe.evaluation.curves import calibration_error, histogram, precision_recall, reliability, roc


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


@pytest.mark.parametrize("distinct", [1, 3, 10_000])
def test_every_point_of_the_precision_curve_is_one_of_scikit_learns(distinct):
    targets, probs = labelled(0, distinct=distinct)
    precision, sensitivity, _ = sklearn.metrics.precision_recall_curve(targets, probs)
    found = set(zip(*precision_recall(targets, probs, points=50), strict=True))
    assert len(found) <= 50
    assert found <= set(zip(sensitivity, precision, strict=True))


def test_without_positives_there_is_no_precision_curve():
    assert len(precision_recall(np.zeros(4, bool), np.linspace(0, 1, 4)).precision) == 0


def test_reliability_equals_scikit_learns_calibration_curve():
    targets, probs = labelled(0)
    theirs = sklearn.calibration.calibration_curve(targets, probs, n_bins=10)
    curve = reliability(targets, probs)
    filled = curve.studies > 0
    assert curve.positive_fraction[filled] == pytest.approx(theirs[0])
    assert curve.prob[filled] == pytest.approx(theirs[1])


def test_reliability_intervals_are_wilsons():
    targets, probs = labelled(0)
    curve = reliability(targets, probs)
    for place in np.flatnonzero(curve.studies):
        positives = round(curve.positive_fraction[place] * curve.studies[place])
        theirs = scipy.stats.binomtest(positives, int(curve.studies[place])).proportion_ci(method="wilson")
        assert (curve.low[place], curve.high[place]) == pytest.approx(tuple(theirs))


def test_the_calibration_error_is_the_weighted_gap_of_the_bins():
    targets, probs = labelled(0)
    curve = reliability(targets, probs)
    gaps = np.abs(curve.prob - curve.positive_fraction)
    assert calibration_error(targets, probs) == pytest.approx(np.nansum(gaps * curve.studies) / len(probs))


def test_a_perfect_forecast_has_no_calibration_error():
    targets = np.array([True, False, True])
    assert calibration_error(targets, targets.astype(float)) == 0


def test_no_studies_have_no_calibration_error():
    assert np.isnan(calibration_error(np.empty(0, bool), np.empty(0)))


def test_every_study_stands_in_the_histogram_once():
    targets, probs = labelled(0)
    found = histogram(targets, np.append(probs[1:], 1.0))
    assert (found.positives.sum(), found.negatives.sum()) == (targets.sum(), (~targets).sum())

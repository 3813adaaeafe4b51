import math

import numpy as np
import pytest
import sklearn.metrics
from test_metrics import labelled

from cxrpipe.config.evaluate import RULES
from cxrpipe.evaluation.metrics import confusion
from cxrpipe.evaluation.thresholds import Aims


def chosen(rule: str, targets: np.ndarray, probs: np.ndarray, **aims: float) -> float:
    return Aims(**aims).choose(rule, targets, probs, "valid").value


@pytest.mark.parametrize("distinct", [3, 10_000])
def test_youdens_threshold_is_the_best_of_scikit_learns_curve(distinct):
    targets, probs = labelled(0, distinct=distinct)
    false_positive_fraction, sensitivity, _ = sklearn.metrics.roc_curve(targets, probs)
    counts = confusion(targets, probs >= chosen("youden", targets, probs))
    best = (sensitivity - false_positive_fraction).max()
    assert counts.sensitivity + counts.specificity - 1 == pytest.approx(best)


def test_of_calibrated_probabilities_none_is_better_than_the_prevalence():
    rng = np.random.default_rng(0)
    probs = rng.beta(0.5, 0.2, 200_000)
    targets = rng.random(len(probs)) < probs

    def told(threshold: float) -> float:
        counts = confusion(targets, probs >= threshold)
        return counts.sensitivity + counts.specificity

    at_prevalence = told(chosen("prevalence", targets, probs))
    assert at_prevalence == pytest.approx(told(chosen("youden", targets, probs)), abs=0.001)
    assert at_prevalence > told(0.5) + 0.01


@pytest.mark.parametrize("target", [0.5, 0.9, 1.0])
def test_a_target_of_sensitivity_is_met_and_not_by_a_higher_threshold(target):
    targets, probs = labelled(1, distinct=50)
    threshold = chosen("sensitivity", targets, probs, sensitivity=target)
    assert confusion(targets, probs >= threshold).sensitivity >= target
    assert confusion(targets, probs > threshold).sensitivity < target


@pytest.mark.parametrize("target", [0.5, 0.9])
def test_a_target_of_specificity_is_met_and_not_by_a_lower_threshold(target):
    targets, probs = labelled(2, distinct=50)
    threshold = chosen("specificity", targets, probs, specificity=target)
    assert confusion(targets, probs >= threshold).specificity >= target
    lower = probs[probs < threshold].max()
    assert confusion(targets, probs >= lower).specificity < target


@pytest.mark.parametrize("cost", [0.2, 1, 20])
def test_no_threshold_is_cheaper_than_that_of_lowest_cost(cost):
    targets, probs = labelled(3)

    def price(threshold: float) -> float:
        counts = confusion(targets, probs >= threshold)
        return cost * counts.false_negative + counts.false_positive

    cheapest = min(price(threshold) for threshold in [*probs, np.inf])
    assert price(chosen("cost", targets, probs, miss_cost=cost)) == cheapest


@pytest.mark.parametrize("targets", [[], [True, True], [False, False]])
@pytest.mark.parametrize("rule", RULES[1:])
def test_one_class_cannot_tell_a_threshold(rule, targets):
    assert math.isnan(chosen(rule, np.array(targets, bool), np.linspace(0, 1, len(targets))))


def test_a_threshold_of_float32_probabilities_stays_one_of_them():
    targets, probs = labelled(4)
    probs = probs.astype(np.float32)
    assert np.float32(chosen("youden", targets, probs)) in probs


def test_a_fixed_threshold_was_chosen_on_nothing():
    assert Aims().choose("0.5", *labelled(0), "test").chosen_on == "fixed"

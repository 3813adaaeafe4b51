"""A prior shift: what moves with the prevalence, and what stays."""

import numpy as np
import pyarrow as pa
import pytest

from cxrpipe.evaluation.calibration import Line
from cxrpipe.evaluation.findings import evaluate_findings
from cxrpipe.evaluation.prevalence import PriorShift, at_prevalence
from cxrpipe.evaluation.thresholds import Aims


def population(studies: int, prevalence: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Targets, and the uncalibrated probabilities of scores that are normal and one apart: their logit is calibrated at
    a prevalence of 0.5."""
    rng = np.random.default_rng(seed)
    targets = rng.random(studies) < prevalence
    logit = rng.normal(targets - 0.5, 1)
    return targets, 1 / (1 + np.exp(-logit))


def test_a_moved_calibration_is_calibrated_where_the_finding_is_rarer():
    targets, probs = population(200_000, 0.1)
    moved = PriorShift(0.5, 0.1).line(Line(1.0, 0.0)).apply(probs)
    assert moved.mean() == pytest.approx(targets.mean(), abs=0.003)
    for low, high in ((0.0, 0.05), (0.05, 0.15), (0.15, 0.4), (0.4, 1.0)):
        inside = (moved >= low) & (moved < high)
        assert moved[inside].mean() == pytest.approx(targets[inside].mean(), abs=0.015)


def test_there_and_back_is_where_it_was():
    there, back = PriorShift(0.7, 0.02), PriorShift(0.02, 0.7)
    line = back.line(there.line(Line(1.3, -0.4)))
    assert line == pytest.approx((1.3, -0.4))
    assert back.threshold(there.threshold(0.42, "youden"), "youden") == pytest.approx(0.42)


@pytest.mark.parametrize("rule", ["youden", "sensitivity", "specificity", "prevalence"])
def test_decisions_stay_where_the_rule_is_about_sensitivity_and_specificity(rule):
    targets, probs = population(2_000, 0.6)
    shift = PriorShift(float(targets.mean()), 0.05)
    threshold = Aims().choose(rule, targets, probs, "valid").value
    moved = shift.line(Line(1.0, 0.0)).apply(probs)
    decided, now = probs >= threshold, moved >= shift.threshold(threshold, rule)
    assert np.mean(decided != now) < 0.002  # a study at the threshold itself may cross by rounding


def test_the_threshold_by_prevalence_is_the_assumed_prevalence():
    assert PriorShift(0.74, 0.3).threshold(0.74, "prevalence") == 0.3


def test_a_threshold_of_one_half_stays_and_its_decisions_change():
    assert PriorShift(0.74, 0.3).threshold(0.5, "0.5") == 0.5


def test_the_rule_cost_is_chosen_for_the_prevalence_that_is_assumed():
    """The same threshold as on studies of that prevalence: there it costs the least."""
    targets, probs = population(40_000, 0.5)
    rarer, rarer_probs = population(400_000, 0.1, seed=1)
    aims, shift = Aims(miss_cost=3.0), PriorShift(0.5, 0.1)
    chosen = shift.aims(aims).choose("cost", targets, probs, "valid").value
    expected = aims.choose("cost", rarer, rarer_probs, "valid").value
    assert chosen == pytest.approx(expected, abs=0.05)
    assert abs(aims.choose("cost", targets, probs, "valid").value - expected) > 0.2


def figures(hits: int, misses: int, rejections: int, alarms: int):
    decided = [True] * hits + [False] * misses + [False] * rejections + [True] * alarms
    labels = [1.0] * (hits + misses) + [0.0] * (rejections + alarms)
    columns = {
        "study_id": [f"s{number:03d}" for number in range(len(labels))],
        "label_A": pa.array(labels, pa.float32()),
    }
    columns |= {"patient_id": columns["study_id"], "consensus_A": decided}
    columns |= {"prob_A": pa.array(np.where(decided, 0.9, 0.1), pa.float32())}
    (evaluated,) = evaluate_findings(pa.table(columns), ["A"], resamples=300)
    return evaluated


def test_predictive_values_follow_from_sensitivity_and_specificity():
    rare = at_prevalence(figures(80, 20, 90, 10), 0.01)  # sensitivity 0.8, specificity 0.9
    assert rare.ppv.value == pytest.approx(0.008 / (0.008 + 0.099))
    assert rare.npv.value == pytest.approx(0.891 / (0.891 + 0.002))
    assert rare.flagged_per_1000.value == pytest.approx(8 + 99)
    assert rare.missed_per_1000.value == pytest.approx(2)
    for estimate in (rare.ppv, rare.npv, rare.flagged_per_1000, rare.missed_per_1000):
        assert estimate.low < estimate.value < estimate.high


def test_at_the_measured_prevalence_they_are_those_that_were_measured():
    measured = figures(80, 20, 90, 10)
    here = at_prevalence(measured, 0.5, measured=True)
    assert here.ppv.value == pytest.approx(measured.precision.value)
    assert here.npv.value == pytest.approx(measured.npv.value)


def test_a_specificity_of_one_in_every_resample_is_not_certain():
    perfect = at_prevalence(figures(80, 20, 100, 0), 0.01)
    assert perfect.ppv.value == 1
    assert 0.1 < perfect.ppv.low < 0.6
    assert perfect.flagged_per_1000.high > perfect.flagged_per_1000.value


def test_predictive_values_are_not_defined_where_nothing_is_called_positive():
    nothing = at_prevalence(figures(0, 20, 20, 0), 0.1)
    assert np.isnan(nothing.ppv.value)
    assert nothing.flagged_per_1000.value == 0

"""Obuchowski's standard errors, against DeLong's written out and against what must hold of clusters."""

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import sklearn.metrics
from test_metrics import labelled

from cxrpipe.evaluation.clustered import auroc, fraction, holm


def delong(targets: np.ndarray, *scores: np.ndarray) -> np.ndarray:
    """The covariance of the areas of several models, pair by pair as DeLong, DeLong and Clarke-Pearson (1988)."""
    components = []
    for which in (True, False):
        rows = []
        for probs in scores:
            wins = (probs[targets][:, None] > probs[~targets]) + 0.5 * (probs[targets][:, None] == probs[~targets])
            rows.append(wins.mean(axis=1 if which else 0))
        components.append(np.atleast_2d(np.cov(rows)) / len(rows[0]))
    return components[0] + components[1]


def alone(targets: np.ndarray, probs: np.ndarray):
    return auroc(targets, probs, np.arange(len(targets)), len(targets))


@pytest.mark.parametrize("distinct", [2, 7, 10_000])
def test_the_area_equals_scikit_learns(distinct):
    targets, probs = labelled(0, distinct=distinct)
    assert alone(targets, probs).value == pytest.approx(sklearn.metrics.roc_auc_score(targets, probs))


@pytest.mark.parametrize("distinct", [5, 10_000])
def test_with_one_study_per_patient_the_variance_is_delongs(distinct):
    targets, probs = labelled(1, studies=80, distinct=distinct)
    assert alone(targets, probs).standard_error ** 2 == pytest.approx(delong(targets, probs)[0, 0])


def test_two_models_on_the_same_studies_are_compared_as_delong_does():
    targets, probs = labelled(2, studies=90)
    second = probs + np.random.default_rng(0).normal(0, 0.3, len(probs))
    matrix = delong(targets, probs, second)
    difference = alone(targets, probs) - alone(targets, second)
    variance = matrix[0, 0] + matrix[1, 1] - 2 * matrix[0, 1]
    assert difference.standard_error**2 == pytest.approx(variance)
    z = difference.value / math.sqrt(variance)
    assert difference.p_value == pytest.approx(2 * scipy.stats.norm.sf(abs(z)))


def test_hanley_and_mcneils_worked_example():
    """Hanley and McNeil, Radiology 1982: 51 abnormal and 58 normal CT images in five ratings; area 0.893."""
    normal, abnormal = [33, 6, 6, 11, 2], [3, 2, 2, 11, 33]
    probs = np.repeat(np.tile(np.arange(5.0), 2), [*normal, *abnormal])
    targets = np.repeat([False, True], [58, 51])
    found = alone(targets, probs)
    assert found.value == pytest.approx(0.893, abs=5e-4)
    assert found.standard_error == pytest.approx(0.032, abs=2e-3)


def test_the_interval_of_a_fraction_is_even_in_the_logit_and_stays_within_0_and_1():
    hits = np.arange(20) < 19
    found = fraction(np.ones(20, bool), hits, np.arange(20), 20).fraction_estimate()
    middle, low, high = (scipy.special.logit(each) for each in found)
    assert middle - low == pytest.approx(high - middle)
    assert 0.7 < found.low < 0.75 < 0.99 < found.high < 1  # by the normal law it would end at 1.05
    assert fraction(np.ones(20, bool), np.ones(20, bool), np.arange(20), 20).fraction_estimate() == (1, 1, 1)


def test_studies_repeated_within_their_patients_add_no_certainty():
    targets, probs = labelled(3, studies=60)
    thrice = [np.tile(each, 3) for each in (targets, probs, np.arange(60))]
    assert auroc(*thrice, 60).standard_error == pytest.approx(alone(targets, probs).standard_error)


def test_obuchowskis_variance_equals_its_formula():
    """Biometrics 1997, equation by equation, on patients with studies of both kinds."""
    targets, probs = labelled(4, studies=50)
    patients = np.random.default_rng(0).integers(20, size=50)
    area = sklearn.metrics.roc_auc_score(targets, probs)
    wins = (probs[targets][:, None] > probs[~targets]) + 0.5 * (probs[targets][:, None] == probs[~targets])
    of_positives, of_negatives = wins.mean(axis=1), wins.mean(axis=0)
    m, n = len(of_positives), len(of_negatives)
    sums = []
    for patient in np.unique(patients):
        own, other = patients[targets] == patient, patients[~targets] == patient
        sums.append((own.sum(), of_positives[own].sum() - own.sum() * area,
                     other.sum(), of_negatives[other].sum() - other.sum() * area))  # fmt: skip
    m_i, a, n_i, b = np.array(sums).T
    with_positive, with_negative, clusters = np.count_nonzero(m_i), np.count_nonzero(n_i), len(m_i)
    s10 = with_positive / ((with_positive - 1) * m) * (a**2).sum()
    s01 = with_negative / ((with_negative - 1) * n) * (b**2).sum()
    s11 = clusters / (clusters - 1) * (a * b).sum()
    variance = s10 / m + s01 / n + 2 * s11 / (m * n)
    assert auroc(targets, probs, patients, 20).standard_error ** 2 == pytest.approx(variance)


def test_a_fraction_of_single_studies_has_the_binomial_error():
    hits = np.random.default_rng(0).random(200) < 0.7
    found = fraction(np.ones(200, bool), hits, np.arange(200), 200)
    assert found.value == hits.mean()
    assert found.standard_error == pytest.approx(hits.std(ddof=1) / math.sqrt(200))


@pytest.mark.parametrize("targets", [[], [True, True, True], [False, False]])
def test_one_class_has_no_area_and_no_error(targets):
    found = alone(np.array(targets, bool), np.linspace(0, 1, len(targets)))
    assert math.isnan(found.value)
    assert math.isnan(found.p_value)


def test_a_model_does_not_differ_from_itself():
    targets, probs = labelled(5)
    assert (alone(targets, probs) - alone(targets, probs)).p_value == 1


def test_holms_worked_example():
    """Holm 1979's procedure on the p-values of its usual example: multiplied by 4, 3, 2, 1, never falling."""
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_leaves_out_what_was_not_tested():
    found = holm(np.array([np.nan, 0.02, np.nan]))
    assert found[1] == 0.02
    assert np.isnan(found[[0, 2]]).all()

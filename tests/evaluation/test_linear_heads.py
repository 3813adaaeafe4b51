"""Heads on feature vectors: what scikit-learn fits, many findings at once, strengths chosen on held-out patients."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from cxrpipe.errors import ConfigError
from cxrpipe.evaluation.linear_heads import fit_heads, folds_of
from cxrpipe.evaluation.logistic import FOLDS

VIEWS, FEATURES = 600, 12


@pytest.fixture
def views() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors of very different scale with a constant column, two findings, one label missing in ten; 300 patients."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(VIEWS, FEATURES)) * np.geomspace(0.01, 30, FEATURES) + 1
    vectors[:, 3] = 7
    signal = (vectors - vectors.mean(axis=0)) / np.geomspace(0.01, 30, FEATURES) @ rng.normal(size=(FEATURES, 2))
    targets = (signal + rng.normal(size=signal.shape) > [0.5, 2.0]).astype(np.float32)
    targets[rng.random(targets.shape) < 0.1] = np.nan
    return vectors.astype(np.float32), targets, np.repeat(np.arange(VIEWS // 2), 2)


@pytest.mark.parametrize("positive_weight", [1.0, 4.0])
def test_a_head_is_the_one_that_scikit_learn_fits(views, positive_weight):
    vectors, targets, patients = views
    fitted = fit_heads(
        vectors.copy(), targets, patients, positive_weights=np.array([1.0, positive_weight]), strengths=[1e-2]
    )
    known = ~np.isnan(targets[:, 1])
    standardised = (vectors - vectors.mean(axis=0)) / np.maximum(vectors.std(axis=0), 1e-6)
    weight = np.where(targets[known, 1] == 1, positive_weight, 1.0)
    theirs = LogisticRegression(C=1 / (1e-2 * weight.sum()), tol=1e-8, max_iter=1000)
    theirs.fit(standardised[known], targets[known, 1], weight)
    expected = theirs.predict_proba(standardised)[:, 1]
    np.testing.assert_allclose(fitted.heads.probs(vectors)[:, 1], expected, atol=2e-3)


def test_findings_do_not_change_each_other(views):
    vectors, targets, patients = views
    together = fit_heads(vectors.copy(), targets, patients).heads.probs(vectors)
    alone = fit_heads(vectors.copy(), targets[:, :1], patients).heads.probs(vectors)
    np.testing.assert_allclose(together[:, :1], alone, atol=5e-3)


def test_a_constant_feature_has_no_weight(views):
    vectors, targets, patients = views
    assert np.all(fit_heads(vectors, targets, patients).heads.weight[:, 3] == 0)


def test_vectors_that_16_bits_cannot_tell_apart_are_refused(views):
    vectors, targets, patients = views
    with pytest.raises(ConfigError, match="hardly differ from view to view"):
        fit_heads(vectors * np.float32(1e-8), targets, patients)


def test_noise_is_answered_by_a_strong_regularisation_and_signal_by_a_weak_one():
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(400, 100)).astype(np.float32)
    signal, noise = vectors[:, 0] * 3 + rng.normal(size=400) > 0, rng.random(400) > 0.5
    targets = np.stack([signal, noise], axis=1).astype(np.float32)
    fitted = fit_heads(vectors, targets, np.arange(400))
    assert fitted.strengths[1] == 1.0
    assert fitted.strengths[0] < 1.0
    assert fitted.losses[0, 1] == pytest.approx(np.log(2), abs=0.05)  # held-out noise: nobody can tell


def test_patients_are_held_out_together():
    patients = np.repeat([5, 9, 2, 7, 11, 4], 50)
    fold = folds_of(patients)
    assert set(fold) == set(range(FOLDS))
    assert all(len(set(fold[patients == patient])) == 1 for patient in patients)

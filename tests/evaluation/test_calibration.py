import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from test_metrics import labelled

from cxrpipe.errors import ConfigError
from cxrpipe.evaluation.calibration import UNCHANGED, crossfitted, fit
from cxrpipe.evaluation.curves import calibration_error


def overconfident(seed: int = 0, studies: int = 4000, slope: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities whose logits are too large by a factor, and targets drawn from what they should be."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1, 1.5, studies)
    targets = rng.random(studies) < 1 / (1 + np.exp(-logits))
    return (1 / (1 + np.exp(-slope * logits))).astype(np.float32), targets


@pytest.mark.parametrize("method", ["platt", "temperature"])
def test_the_line_is_scikit_learns_logistic_regression_on_platts_targets(method):
    targets, probs = labelled(3)
    probs = np.clip(probs, 0.01, 0.99)
    logits = np.log(probs / (1 - probs))
    positives, negatives = targets.sum(), (~targets).sum()
    wanted = np.where(targets, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    theirs = LogisticRegression(C=1e12, fit_intercept=method == "platt", tol=1e-10, max_iter=1000)
    theirs.fit(np.tile(logits, 2)[:, None], np.repeat([1, 0], len(logits)), np.concatenate([wanted, 1 - wanted]))
    line = fit(probs, targets, method)
    assert line == pytest.approx((theirs.coef_[0, 0], np.ravel(theirs.intercept_)[0]), abs=1e-4)


@pytest.mark.parametrize("method", ["platt", "temperature"])
def test_overconfidence_is_taken_back(method):
    probs, targets = overconfident()
    line = fit(probs, targets, method)
    assert line.slope == pytest.approx(1 / 3, abs=0.03)
    assert calibration_error(targets, line.apply(probs)) < calibration_error(targets, probs) / 3


def test_separate_classes_have_a_finite_line():
    line = fit(np.array([0.1] * 20 + [0.9] * 20), np.repeat([False, True], 20), "platt")
    assert 0 < line.slope < 10


def test_a_finding_that_is_likelier_at_lower_probabilities_is_refused():
    probs, targets = overconfident()
    with pytest.raises(ConfigError, match="more frequent at lower probabilities"):
        fit(probs, ~targets, "platt")


def test_no_method_changes_nothing():
    probs, targets = overconfident()
    assert fit(probs, targets, "none") == UNCHANGED
    assert (UNCHANGED.apply(probs) == probs).all()


def test_the_crossfitted_probability_of_a_patient_does_not_depend_on_their_labels():
    probs, targets = overconfident(studies=300)
    patients = np.repeat(np.arange(100), 3)
    turned = targets.copy()
    turned[patients == 7] ^= True
    before, after = (crossfitted(probs, each, patients, "platt") for each in (targets, turned))
    assert (before[patients == 7] == after[patients == 7]).all()
    assert (before != after).any()

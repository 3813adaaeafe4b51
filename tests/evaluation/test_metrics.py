import math

import numpy as np
import pytest
import sklearn.metrics
from scipy.stats import binomtest, bootstrap

from cxrpipe.evaluation import metrics
from cxrpipe.evaluation.metrics import Counts, Estimate, Overlap, auroc, confusion, overlap, resample_weights, wilson


def labelled(seed: int, studies: int = 300, distinct: int = 10_000) -> tuple[np.ndarray, np.ndarray]:
    """Targets and probs of random studies; few `distinct` probs make many ties."""
    rng = np.random.default_rng(seed)
    targets = rng.random(studies) < rng.uniform(0.1, 0.9)
    probs = (rng.integers(distinct, size=studies) + targets * distinct // 4) / (2 * distinct)
    return targets, probs


@pytest.mark.parametrize("distinct", [1, 2, 7, 10_000])
@pytest.mark.parametrize("seed", range(5))
def test_auroc_equals_scikit_learns_with_and_without_ties(seed, distinct):
    targets, probs = labelled(seed, distinct=distinct)
    assert auroc(targets, probs) == pytest.approx(sklearn.metrics.roc_auc_score(targets, probs), abs=1e-12)


@pytest.mark.parametrize("distinct", [3, 10_000])
def test_weighted_auroc_equals_scikit_learns_on_the_expanded_resample(distinct):
    targets, probs = labelled(0, distinct=distinct)
    weights = np.random.default_rng(1).integers(4, size=(20, len(targets)))
    expanded = [sklearn.metrics.roc_auc_score(targets.repeat(row), probs.repeat(row)) for row in weights]
    assert auroc(targets, probs, weights) == pytest.approx(expanded, abs=1e-12)


def test_auroc_in_chunks_equals_auroc_at_once(monkeypatch):
    targets, probs = labelled(0)
    weights = np.random.default_rng(1).integers(4, size=(20, len(targets)))
    at_once = auroc(targets, probs, weights)
    monkeypatch.setattr(metrics, "CELLS", 3 * len(targets))
    assert auroc(targets, probs, weights) == pytest.approx(at_once, abs=0)


@pytest.mark.parametrize("targets", [[], [True, True], [False, False]])
def test_auroc_of_one_class_is_not_defined(targets):
    assert math.isnan(auroc(np.array(targets, bool), np.linspace(0, 1, len(targets))))


def test_a_resample_that_lost_a_class_has_no_auroc():
    weights = np.array([[1, 1, 1], [2, 1, 0]])
    found = auroc(np.array([False, False, True]), np.array([0.1, 0.2, 0.3]), weights)
    assert found[0] == 1
    assert np.isnan(found[1])


@pytest.mark.parametrize("seed", range(5))
def test_figures_of_counts_equal_scikit_learns(seed):
    targets, probs = labelled(seed)
    positive = probs > 0.4
    counts = confusion(targets, positive)
    of_both = {"y_true": targets, "y_pred": positive}
    assert counts.sensitivity == pytest.approx(sklearn.metrics.recall_score(**of_both))
    assert counts.specificity == pytest.approx(sklearn.metrics.recall_score(**of_both, pos_label=False))
    assert counts.precision == pytest.approx(sklearn.metrics.precision_score(**of_both))
    assert counts.f1 == pytest.approx(sklearn.metrics.f1_score(**of_both))
    assert counts.accuracy == pytest.approx(sklearn.metrics.accuracy_score(**of_both))
    matrix = sklearn.metrics.confusion_matrix(**of_both)
    assert matrix.tolist() == [
        [counts.true_negative, counts.false_positive],
        [counts.false_negative, counts.true_positive],
    ]


@pytest.mark.parametrize("target", [True, False])
@pytest.mark.parametrize("called", [True, False])
def test_figures_of_one_class_equal_scikit_learns(target, called):
    targets, positive = np.full(5, target), np.full(5, called)
    counts = confusion(targets, positive)
    undefined = {"y_true": targets, "y_pred": positive, "zero_division": np.nan}
    theirs = [
        sklearn.metrics.recall_score(**undefined),
        sklearn.metrics.recall_score(**undefined, pos_label=False),
        sklearn.metrics.precision_score(**undefined),
        sklearn.metrics.f1_score(**undefined),
    ]
    ours = [counts.sensitivity, counts.specificity, counts.precision, counts.f1]
    assert ours == pytest.approx(theirs, nan_ok=True)


def test_figures_of_no_studies_are_not_defined():
    counts = confusion(np.empty(0, bool), np.empty(0, bool))
    assert counts == Counts(0, 0, 0, 0)
    assert math.isnan(counts.accuracy)


def test_counts_of_parts_add_up_to_the_counts_of_the_whole():
    targets, probs = labelled(0)
    positive = probs > 0.4
    parts = confusion(targets[:100], positive[:100]) + confusion(targets[100:], positive[100:])
    assert parts == confusion(targets, positive)


def test_weighted_counts_equal_the_counts_of_the_expanded_resample():
    targets, probs = labelled(0)
    positive = probs > 0.4
    weights = np.random.default_rng(1).integers(4, size=(20, len(targets)))
    weighted = confusion(targets, positive, weights)
    expanded = [confusion(targets.repeat(row), positive.repeat(row)) for row in weights]
    assert weighted.false_positive.tolist() == [counts.false_positive for counts in expanded]
    assert weighted.f1 == pytest.approx([counts.f1 for counts in expanded])


@pytest.mark.parametrize("seed", range(3))
def test_dice_and_iou_equal_scikit_learns(seed):
    predicted, truth = np.random.default_rng(seed).random((2, 16, 20)) < 0.4
    found = overlap(predicted, truth)
    assert found.dice == pytest.approx(sklearn.metrics.f1_score(truth.ravel(), predicted.ravel()))
    assert found.iou == pytest.approx(sklearn.metrics.jaccard_score(truth.ravel(), predicted.ravel()))


def test_two_empty_masks_agree_completely():
    empty = np.zeros((4, 4), bool)
    assert overlap(empty, empty).dice == overlap(empty, empty).iou == 1


def test_an_empty_mask_against_a_drawn_one_is_worth_nothing():
    empty, drawn = np.zeros((4, 4), bool), np.ones((4, 4), bool)
    assert overlap(empty, drawn).dice == overlap(drawn, empty).iou == 0


def test_overlaps_of_two_halves_add_up_to_the_overlap_of_the_whole():
    predicted, truth = np.random.default_rng(0).random((2, 16, 20)) < 0.4
    assert overlap(predicted[:8], truth[:8]) + overlap(predicted[8:], truth[8:]) == overlap(predicted, truth)
    assert isinstance(overlap(predicted, truth), Overlap)


def test_the_bootstrap_keeps_the_studies_of_a_patient_together():
    patients = np.array(["b", "a", "b", "c", "a", "b"])
    weights = np.concatenate(list(resample_weights(patients, 100, seed=0)))
    for patient in "abc":
        of_patient = weights[:, patients == patient]
        assert (of_patient == of_patient[:, :1]).all()


def test_the_bootstrap_draws_as_many_patients_as_there_are():
    patients = np.array([0, 0, 0, 1, 2, 2])
    weights = np.concatenate(list(resample_weights(patients, 500, seed=0)))
    one_study_each = weights[:, [0, 3, 4]]
    assert weights.shape == (500, 6)
    assert (one_study_each.sum(axis=1) == 3).all()
    assert one_study_each.mean(axis=0) == pytest.approx([1, 1, 1], abs=0.15)


def test_the_same_seed_draws_the_same_patients_whatever_the_chunk(monkeypatch):
    patients = np.arange(7)
    at_once = np.concatenate(list(resample_weights(patients, 11, seed=3)))
    monkeypatch.setattr(metrics, "CELLS", 21)
    in_chunks = list(resample_weights(patients, 11, seed=3))
    assert [len(chunk) for chunk in in_chunks] == [3, 3, 3, 2]
    assert (np.concatenate(in_chunks) == at_once).all()


def test_an_interval_spans_the_middle_95_percent_of_the_defined_resamples():
    resampled = np.concatenate([np.arange(101.0), np.full(50, np.nan)])
    assert Estimate.of(50, resampled) == pytest.approx(Estimate(50, 2.5, 97.5))


def test_an_interval_is_corrected_for_bias_as_scipy_does_it():
    values = np.random.default_rng(0).exponential(size=40)  # skewed
    theirs = bootstrap((values,), np.mean, method="BCa", n_resamples=2_000, rng=np.random.default_rng(1))
    resampled = theirs.bootstrap_distribution
    ours, plain = Estimate.of(values.mean(), resampled), np.quantile(resampled, [0.025, 0.975])
    # scipy corrects for acceleration too: on the same resamples ours lies between its interval and the plain one.
    assert plain[0] < ours.low < theirs.confidence_interval.low
    assert plain[1] < ours.high < theirs.confidence_interval.high


def test_an_interval_stays_among_its_resamples_however_far_away_the_figure():
    assert 0.9 < Estimate.of(2.0, np.linspace(0, 1, 11)).low <= 1
    assert Estimate.of(1.0, np.ones(11)) == Estimate(1.0, 1.0, 1.0)


@pytest.mark.parametrize(("hits", "studies"), [(0, 5), (3, 10), (51, 51)])
def test_wilsons_interval_equals_scipys(hits, studies):
    theirs = binomtest(hits, studies).proportion_ci(method="wilson")
    assert wilson(hits / studies, studies) == pytest.approx(theirs)


def test_a_figure_that_is_not_defined_has_no_interval():
    assert all(math.isnan(number) for number in Estimate.of(np.nan, np.arange(10.0)))

import numpy as np
import pyarrow as pa
import pytest
import sklearn.metrics

from cxrpipe.evaluation.evidence import read_evidence
from cxrpipe.evaluation.figures import EnsembleFigures
from cxrpipe.evaluation.findings import evaluate_findings
from cxrpipe.evaluation.members import evaluate_ensemble, read_member_probs

THRESHOLDS = np.array([0.5, 0.4, 0.6], np.float32)


def judged(studies: int = 300, thresholds: np.ndarray | None = THRESHOLDS, resamples: int = 200):
    """Three members whose noise is their own; label, what each said, and the figures."""
    rng = np.random.default_rng(0)
    labels = rng.random(studies) < 0.4
    shared = 1.2 * labels + 0.5 * rng.normal(size=studies) - 0.6
    said = 1 / (1 + np.exp(-(shared + rng.normal(size=(3, studies)) * [[0.3], [1.0], [1.5]])))
    said = said.astype(np.float32)
    consensus = (said >= THRESHOLDS[:, None]).sum(axis=0) >= 2
    table = pa.table(
        {
            "study_id": [f"s{number:05d}" for number in rng.permutation(studies)],
            "patient_id": [f"p{number // 2}" for number in range(studies)],
            "label_Mass": labels.astype(np.float32),
            "prob_Mass": said.mean(axis=0),
            "consensus_Mass": consensus,
            "member_probs_Mass": pa.array(said.T.tolist(), pa.list_(pa.float32())),
        }
    )
    (figures,) = evaluate_findings(table, ["Mass"], resamples=resamples)
    rows, (one,) = read_evidence(table, ["Mass"])
    found = evaluate_ensemble(read_member_probs(rows, one), one, figures, ["a", "b", "c"], thresholds, split="test")
    return labels, said, consensus, found


@pytest.fixture(scope="module")
def everything():
    return judged()


def test_members_have_scikit_learns_figures_and_intervals_around_them(everything):
    labels, said, _, found = everything
    for member, probs, threshold in zip(found.members, said, THRESHOLDS, strict=True):
        assert member.auroc.value == pytest.approx(sklearn.metrics.roc_auc_score(labels, probs))
        assert member.brier == pytest.approx(sklearn.metrics.brier_score_loss(labels, probs))
        assert member.sensitivity.value == pytest.approx(sklearn.metrics.recall_score(labels, probs >= threshold))
        assert member.specificity.low < member.specificity.value < member.specificity.high
        assert member.auroc.low < member.auroc.value < member.auroc.high


def test_the_gain_over_the_worst_member_is_beyond_doubt_and_over_the_best_is_not(everything):
    *_, found = everything
    best, _, worst = found.members
    assert worst.auroc_gain.low > 0
    assert worst.p_value < 0.001
    assert best.auroc_gain.low < 0.03
    assert best.p_value > worst.p_value


def test_the_mean_and_the_majority_are_decisions_of_their_own(everything):
    labels, said, consensus, found = everything
    mean = said.mean(axis=0) >= THRESHOLDS.mean()
    assert found.mean.sensitivity.value == pytest.approx(sklearn.metrics.recall_score(labels, mean))
    assert found.majority.sensitivity.value == pytest.approx(sklearn.metrics.recall_score(labels, consensus))


def test_agreement_and_kappa_equal_scikit_learns(everything):
    _, said, _, found = everything
    calls = said >= THRESHOLDS[:, None]
    for first, second in ((0, 1), (1, 2)):
        assert found.agreement[first, second] == pytest.approx(np.mean(calls[first] == calls[second]))
        assert found.kappa[first, second] == pytest.approx(sklearn.metrics.cohen_kappa_score(*calls[[first, second]]))


def test_disagreement_is_set_against_error(everything):
    labels, said, consensus, found = everything
    wrong = labels != consensus
    assert found.disagreement_studies.sum() == len(labels)
    assert (found.disagreement_studies * found.error_fraction).sum() == pytest.approx(wrong.sum())
    theirs = sklearn.metrics.roc_auc_score(wrong, said.std(axis=0))
    assert found.error_auroc.value == pytest.approx(theirs, abs=1e-4)


def test_without_thresholds_decisions_are_left_out():
    found: EnsembleFigures = judged(60, thresholds=None, resamples=10)[-1]
    assert np.isnan(found.agreement).all()
    assert np.isnan([found.mean.sensitivity.value, found.members[0].sensitivity.value]).all()
    assert not np.isnan(found.members[0].auroc.value)

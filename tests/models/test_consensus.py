"""Opinions of views and members → one."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cxrpipe.models.consensus import aggregate_views, calibrate, combine

SIXTYFOURTHS = st.integers(0, 64).map(lambda part: part / 64)  # exact in float32, so that no rounding blurs a tie


@st.composite
def opinions(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (K, N, F) and thresholds (K, F)."""
    members, studies, findings = draw(st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 3)))
    return (
        draw(arrays(np.float32, (members, studies, findings), elements=SIXTYFOURTHS)),
        draw(arrays(np.float32, (members, findings), elements=SIXTYFOURTHS)),
    )


@given(opinions())
def test_combine_does_what_a_slow_reader_of_the_contract_would(given_opinions):
    probs, thresholds = given_opinions
    agreed = combine(probs, thresholds)
    members, studies, findings = probs.shape
    for study in range(studies):
        for finding in range(findings):
            said = [Fraction(float(probs[member, study, finding])) for member in range(members)]
            needed = [Fraction(float(thresholds[member, finding])) for member in range(members)]
            votes = sum(one >= threshold for one, threshold in zip(said, needed, strict=True))
            decided = sum(said) >= sum(needed) if 2 * votes == members else 2 * votes > members
            mean = sum(said) / members
            deviation = float(sum((one - mean) ** 2 for one in said) / members) ** 0.5
            assert agreed.votes[study, finding] == votes
            assert agreed.agreed[study, finding] == decided
            assert agreed.mean[study, finding] == pytest.approx(float(mean), abs=1e-6)
            assert agreed.disagreement[study, finding] == pytest.approx(deviation, abs=1e-6)


@given(opinions(), st.data())
def test_a_member_that_does_not_know_a_finding_has_no_say_in_it(given_opinions, data):
    """Each finding of each study is what its knowers alone would make of it; a stranger's threshold may be anything."""
    probs, thresholds = given_opinions
    unknown = data.draw(arrays(np.bool_, probs.shape))
    agreed = combine(np.where(unknown, np.float32(np.nan), probs), thresholds)
    for study, finding in np.ndindex(*probs.shape[1:]):
        knowers = ~unknown[:, study, finding]
        found = [column[study, finding] for column in agreed]
        if knowers.any():
            alone = combine(probs[knowers, study, finding, None, None], thresholds[knowers, finding, None])
            assert found == pytest.approx([column[0, 0] for column in alone], abs=1e-6)
        else:
            assert (np.isnan(found[0]), found[1], np.isnan(found[3])) == (True, 0, True)


def test_a_single_knower_decides_alone_and_disagrees_with_nobody():
    agreed = combine(np.array([[[0.4]], [[np.nan]]], np.float32), np.array([[0.3], [np.nan]], np.float32))
    assert [column[0, 0] for column in agreed] == [np.float32(0.4), 1, True, 0]


def test_a_tie_is_decided_at_the_mean_threshold_of_the_knowers():
    probs = np.array([[[0.5]], [[0.3]], [[np.nan]]], np.float32)
    for stranger in (0.01, 0.99, np.nan):
        assert combine(probs, np.array([[0.4], [0.36], [stranger]], np.float32)).agreed[0, 0]
        assert not combine(probs, np.array([[0.4], [0.44], [stranger]], np.float32)).agreed[0, 0]


def test_where_all_know_all_no_bit_depends_on_the_way_in_which_strangers_are_left_out():
    """The ensembles of earlier versions keep their rows."""
    rng = np.random.default_rng(0)
    for members in (1, 2, 3, 7, 20, 127):
        probs = rng.random((members, 50, 14), np.float32)
        agreed = combine(probs, np.full((members, 14), 0.5, np.float32))
        assert np.array_equal(agreed.mean, probs.mean(axis=0, dtype=np.float32))
        assert np.array_equal(agreed.disagreement, probs.std(axis=0, dtype=np.float32))


@given(opinions())
def test_combine_keeps_its_promised_types(given_opinions):
    agreed = combine(*given_opinions)
    assert [column.dtype for column in agreed] == [np.float32, np.int8, np.bool_, np.float32]
    assert {column.shape for column in agreed} == {given_opinions[0].shape[1:]}


@pytest.mark.parametrize(("sure", "decided"), [(0.75, True), (0.5, False)])
def test_a_tie_is_decided_by_the_mean_probability_against_the_mean_threshold(sure, decided):
    agreed = combine(np.array([[[sure]], [[0.25]]], np.float32), np.array([[0.5], [0.5]], np.float32))
    assert agreed.votes[0, 0] == 1
    assert agreed.agreed[0, 0] == decided


def test_a_probability_at_its_threshold_is_a_vote():
    assert combine(np.full((1, 1, 1), 0.3, np.float32), np.full((1, 1), 0.3, np.float32)).votes[0, 0] == 1


def test_every_member_is_held_against_its_own_threshold():
    agreed = combine(np.array([[[0.4]], [[0.4]]], np.float32), np.array([[0.3], [0.9]], np.float32))
    assert agreed.votes[0, 0] == 1


def test_127_members_can_all_vote():
    agreed = combine(np.ones((127, 1, 1), np.float32), np.full((127, 1), 0.5, np.float32))
    assert agreed.votes[0, 0] == 127
    assert agreed.agreed[0, 0]


def test_views_are_aggregated_by_the_rule_of_each_finding():
    probs = np.array([[0.1, 0.1, 0.1], [0.4, 0.4, 0.4], [0.7, 0.7, 0.7]], np.float32)
    assert aggregate_views(probs, ("max", "mean", "min")) == pytest.approx([0.7, 0.4, 0.1])


@pytest.mark.parametrize("rule", ["max", "mean", "min"])
def test_a_single_view_is_its_own_aggregate(rule):
    assert aggregate_views(np.array([[0.3, 0.6]], np.float32), (rule, rule)).tolist() == [
        np.float32(0.3),
        np.float32(0.6),
    ]


@given(arrays(np.float32, 5, elements=st.floats(0, 1, width=32)))
def test_slope_one_and_intercept_zero_change_no_bit(probs):
    assert np.array_equal(calibrate(probs, np.ones(5), np.zeros(5)), probs)


@given(
    arrays(np.float32, 6, elements=st.floats(0, 1, width=32)),
    st.floats(0.01, 10),
    st.floats(-5, 5),
)
def test_calibration_keeps_the_order_of_probabilities(probs, slope, intercept):
    calibrated = calibrate(np.sort(probs), np.full(6, slope), np.full(6, intercept))
    assert np.all(np.diff(calibrated) >= 0)
    assert np.all((calibrated >= 0) & (calibrated <= 1))


def test_calibration_is_linear_in_the_logit():
    calibrated = calibrate(np.array([0.5, 0.8], np.float32), np.array([2.0, 2.0]), np.array([1.0, 0.0]))
    assert calibrated == pytest.approx([1 / (1 + np.exp(-1)), 16 / 17])  # odds of 4 squared


def test_findings_are_calibrated_one_by_one():
    calibrated = calibrate(np.array([[0.3, 0.3]], np.float32), np.array([1.0, 1.0]), np.array([0.0, 1.0]))
    assert calibrated[0, 0] == np.float32(0.3)
    assert calibrated[0, 1] > 0.3

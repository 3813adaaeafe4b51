"""Balanced sampling: rare kinds are shown more often, and nobody is left out."""

import numpy as np
import pytest

from cxrpipe.training.oversampling import copies

PLACES = np.linspace(0, 1, 400, endpoint=False)
NAN = float("nan")


@pytest.mark.parametrize("present", [40, 133, 200, 300])
def test_both_kinds_of_a_finding_come_equally_often(present):
    targets = (np.arange(400)[:, None] * 7 % 400 < present).astype(np.float32)
    ratio = (400 - present) / present
    often = copies(targets, PLACES, np.array([ratio]))
    shown = targets[:, 0] == 1
    assert often.min() >= 1
    assert often[shown].sum() / often[~shown].sum() == pytest.approx(1, rel=0.02)


def test_unknown_cells_ask_for_nothing_and_the_rarest_known_one_decides():
    targets = np.array([[NAN, NAN], [0, 0], [1, 0], [1, 1], [NAN, 1]], np.float32)
    assert copies(targets, np.full(5, 0.99), np.array([3.0, 5.0])).tolist() == [1, 1, 3, 5, 5]


def test_the_same_example_is_shown_as_often_every_time():
    targets, ratios = np.ones((400, 1), np.float32), np.array([1.5])
    often = copies(targets, PLACES, ratios)
    assert set(often.tolist()) == {1, 2}
    assert np.array_equal(often, copies(targets, PLACES, ratios))

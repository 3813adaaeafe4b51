"""Weighted figures, on archives that are simulated: unbiased where unweighted ones are not, and covered."""

from typing import NamedTuple

import numpy as np
import pytest

from cxrpipe.evaluation import sampling
from cxrpipe.evaluation.weighted import FIGURES, Sample, unread

STUDIES, LISTED, LISTS = 4000, 300, 400


class Archive(NamedTuple):
    targets: np.ndarray
    probs: np.ndarray
    consensus: np.ndarray


@pytest.fixture(scope="module")
def archive() -> Archive:
    """8% of studies have the finding; the model finds two thirds of them at its threshold of 0.3."""
    rng = np.random.default_rng(3)
    targets = rng.random(STUDIES) < 0.08
    probs = 1 / (1 + np.exp(-(rng.normal(0, 1, STUDIES) - 2.6 + 2.4 * targets)))
    return Archive(targets, probs, probs >= 0.3)


def truth(archive: Archive, places: np.ndarray | slice = slice(None)) -> dict[str, float]:
    """The figures of an archive that is read whole, or of some of its studies as they are."""
    target, called = archive.targets[places], archive.consensus[places]
    return {
        "prevalence": target.mean(),
        "sensitivity": called[target].mean(),
        "specificity": (~called)[~target].mean(),
        "precision": target[called].mean(),
        "npv": (~target)[~called].mean(),
    }


def strata_of(archive: Archive) -> np.ndarray:
    near = sampling.uncertainty(archive.probs, 0.3) >= 0.5
    return 2 * archive.consensus + near


def draw(archive: Archive, by: str, seed: int) -> tuple[sampling.Drawn, np.ndarray]:
    """A list, and the strata of its studies."""
    rng = np.random.default_rng(seed)
    if by == "stratified":
        drawn = sampling.draw_from_strata(strata_of(archive), LISTED, rng)
        return drawn, strata_of(archive)[drawn.places]
    sizes = sampling.uncertainty(archive.probs, 0.3)
    drawn = (
        sampling.draw_by_size(sizes, LISTED, rng)
        if by == "uncertainty"
        else sampling.draw_at_random(STUDIES, LISTED, rng)
    )
    return drawn, np.zeros(len(drawn.places), int)


@pytest.fixture(scope="module", params=["random", "uncertainty", "stratified"])
def lists(request: pytest.FixtureRequest, archive: Archive) -> tuple[str, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The way of drawing; of 400 lists, two thirds of each read: (value, low, high); the unweighted figures."""
    weighted, plain = [], []
    for seed in range(LISTS):
        drawn, strata = draw(archive, request.param, seed)
        read = np.arange(LISTED) < 200  # in the order of the list
        places = drawn.places[read]
        sample = Sample.of(drawn.probability, strata, read)
        everywhere = np.ones(len(places), bool)
        weighted.append(sample.figures(archive.targets[places], archive.consensus[places], everywhere))
        plain.append(truth(archive, places))
    return (
        request.param,
        {name: np.array([each[name] for each in weighted]) for name in FIGURES},
        {name: np.array([each[name] for each in plain]) for name in FIGURES},
    )


@pytest.mark.parametrize("figure", FIGURES)
def test_weighted_figures_are_right_on_average(figure, lists, archive) -> None:
    _, weighted, _ = lists
    values = weighted[figure][:, 0]
    error = values.std() / np.sqrt(LISTS)
    assert values.mean() == pytest.approx(truth(archive)[figure], abs=3 * error + 0.012)  # 0.012: a ratio is not linear


def test_unweighted_figures_of_chosen_studies_are_wrong(lists, archive) -> None:
    by, _, plain = lists
    expected = truth(archive)
    off = {name: plain[name].mean() - expected[name] for name in FIGURES}
    if by == "random":
        assert all(abs(each) < 0.02 for each in off.values())
    else:
        assert off["prevalence"] > 0.07
        assert off["specificity"] < -0.05
    if by == "stratified":
        assert off["sensitivity"] > 0.15


@pytest.mark.parametrize("figure", FIGURES)
def test_intervals_cover_the_archive(figure, lists, archive) -> None:
    _, weighted, _ = lists
    _, low, high = weighted[figure].T
    covered = np.mean((low <= truth(archive)[figure]) & (truth(archive)[figure] <= high))
    assert covered >= 0.92


def test_a_list_that_is_the_archive_gives_its_figures_without_doubt(archive) -> None:
    sample = Sample.of(np.ones(STUDIES), np.zeros(STUDIES, int), np.ones(STUDIES, bool))
    figures = sample.figures(archive.targets, archive.consensus, np.ones(STUDIES, bool))
    for name, value in truth(archive).items():
        assert figures[name].value == pytest.approx(value)
    assert figures["prevalence"].low == figures["prevalence"].high == figures["prevalence"].value


def test_a_random_sample_has_the_interval_of_wilson() -> None:
    hits = np.arange(50) < 10
    sample = Sample.of(np.full(50, 1e-6), np.zeros(50, int), np.ones(50, bool))
    estimate = sample.fraction(np.ones(50, bool), hits)
    assert estimate == pytest.approx((0.2, 0.1124, 0.3304), abs=0.003)  # 10 of 50


def test_where_nothing_was_missed_the_interval_tells_of_what_was_not_read() -> None:
    called = np.arange(100) < 50
    probability = np.where(called, 1.0, 0.01)  # 50 called, all read; 5,000 passed, 50 read
    sample = Sample.of(probability, called.astype(int), np.ones(100, bool))
    sensitivity = sample.figures(called, called, np.ones(100, bool))["sensitivity"]
    assert sensitivity.value == 1
    assert sensitivity.low < 0.15  # up to 7% of 5,000 may have been missed, seven times the 50


def test_a_split_is_weighted_by_the_whole_list(archive) -> None:
    drawn, strata = draw(archive, "stratified", 0)
    halves = np.arange(STUDIES) % 2 == 0
    sample = Sample.of(drawn.probability, strata, np.ones(LISTED, bool))
    figures = [
        sample.figures(archive.targets[drawn.places], archive.consensus[drawn.places], half[drawn.places])
        for half in (halves, ~halves)
    ]
    assert np.mean([each["prevalence"].value for each in figures]) == pytest.approx(
        truth(archive)["prevalence"], abs=0.04
    )
    assert figures[0]["prevalence"] != figures[1]["prevalence"]


def test_nothing_read_gives_no_figures_and_names_the_strata() -> None:
    strata, read = np.array([0, 0, 1]), np.array([True, False, False])
    assert list(unread(strata, read)) == [1]
    nobody = Sample.of(np.ones(3), strata, np.zeros(3, bool))
    assert np.isnan(nobody.figures(*np.zeros((3, 0), bool))["sensitivity"].value)

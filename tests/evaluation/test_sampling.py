"""Samples for reading: every study is drawn as often as its inclusion probability says."""

import numpy as np
import pytest

from cxrpipe.evaluation import sampling

SIZES = np.random.default_rng(0).random(60) ** 4
SIZES[:3] = 20.0  # certain to be drawn


def drawn_by(method: str, seed: int) -> sampling.Drawn:
    rng = np.random.default_rng(seed)
    if method == "size":
        return sampling.draw_by_size(SIZES, 15, rng)
    if method == "strata":
        return sampling.draw_from_strata(np.repeat([0, 1, 2], [4, 16, 40]), 15, rng)
    return sampling.draw_at_random(60, 15, rng)


@pytest.mark.parametrize("method", ["random", "size", "strata"])
def test_every_study_is_drawn_as_often_as_its_probability_says(method: str) -> None:
    samples = 4000
    times, said = np.zeros(60), np.zeros(60)
    for seed in range(samples):
        drawn = drawn_by(method, seed)
        assert len(np.unique(drawn.places)) == len(drawn.places) == 15
        times[drawn.places] += 1
        said[drawn.places] = drawn.probability
    assert (said > 0).all()  # each was drawn at least once, and so has said its probability
    assert said.sum() == pytest.approx(15)
    error = np.sqrt(said * (1 - said) / samples)
    assert (np.abs(times / samples - said) <= 4.5 * error + 1e-9).all()


def test_the_largest_are_certain_and_the_smallest_have_a_chance() -> None:
    drawn = drawn_by("size", 1)
    assert set(range(3)) <= set(drawn.places.tolist())
    assert (drawn.probability[np.isin(drawn.places, [0, 1, 2])] == 1).all()
    chances = np.concatenate([drawn_by("size", seed).probability for seed in range(300)])
    assert chances.min() >= sampling.SPREAD * 15 / 60 * 0.9


def test_strata_share_evenly_and_a_small_one_is_drawn_whole() -> None:
    places = drawn_by("strata", 2).places
    assert [int(((places >= low) & (places < high)).sum()) for low, high in ((0, 4), (4, 20), (20, 60))] == [4, 6, 5]


@pytest.mark.parametrize("method", ["random", "size", "strata"])
def test_the_same_seed_draws_the_same_in_the_same_order_and_another_one_does_not(method: str) -> None:
    first, again, other = (drawn_by(method, seed).places.tolist() for seed in (5, 5, 6))
    assert first == again != other


def test_the_order_of_a_list_is_random_so_that_a_part_of_it_is_a_random_part() -> None:
    first_places = [drawn_by("strata", seed).places[0] for seed in range(400)]
    assert np.mean([place < 4 for place in first_places]) == pytest.approx(4 / 15, abs=0.08)


def test_a_small_population_is_drawn_whole() -> None:
    rng = np.random.default_rng(0)
    for drawn in (
        sampling.draw_at_random(5, 9, rng),
        sampling.draw_by_size(np.arange(5.0), 9, rng),
        sampling.draw_by_size(np.zeros(5), 9, rng),
        sampling.draw_from_strata(np.array([0, 0, 1, 1, 1]), 9, rng),
    ):
        assert sorted(drawn.places) == [0, 1, 2, 3, 4]
        assert (drawn.probability == 1).all()


def test_uncertainty_is_one_at_the_threshold_and_nought_at_the_ends() -> None:
    values = sampling.uncertainty(np.array([0.0, 0.1, 0.2, 0.6, 1.0]), 0.2)
    assert values == pytest.approx([0, 0.5, 1, 0.5, 0])

"""What a run says of its speed, and how far it says it is."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from builders import own_table, png, radiograph

from cxrpipe.images.squares import Decoded, decode_view
from cxrpipe.models.ensemble import Ensemble
from cxrpipe.runs.progress import Bar
from cxrpipe.runs.rate import SteadyRate
from cxrpipe.runs.reports import Work
from cxrpipe.scoring.loop import score
from cxrpipe.scoring.parts import Receipt, in_parts, write_part
from cxrpipe.scoring.predictions import Predictions
from cxrpipe.scoring.prepare import Preparer

BATCH = 16


class Clock:
    """Seconds that pass when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


# ---- the plain loop, with a predictor that sleeps ---------------------------------------------------------------


class Sleepy:
    """A predictor without networks; its first batch takes as long as loading them would."""

    computed_on = "cpu float32 fused"

    def __init__(self, clock: Clock, per_view_s: float) -> None:
        self._clock, self._per_view_s, self._warm_up_s = clock, per_view_s, 30.0

    def predict(self, pixels: dict[Any, np.ndarray]) -> Predictions:
        views = len(next(iter(pixels.values())))
        self._clock.sleep(self._warm_up_s + views * self._per_view_s)
        self._warm_up_s = 0.0
        return Predictions(np.full((1, views, 2), 0.5, np.float32))


@pytest.fixture(scope="module")
def studies(tmp_path_factory) -> list[Any]:
    films = {f"s{number:03d}": [png(radiograph(0, 24, 24))] for number in range(96)}
    return [*own_table(tmp_path_factory.mktemp("archive"), films).studies()]


def account(studies: Sequence[Any], small: Any, folder: str, part: int) -> tuple[float, float]:
    """(studies per second as the run says, seconds that a stopwatch shows)"""
    clock = Clock()
    started = clock()

    def decode(data: bytes, name: str, preparations: Sequence[Any]) -> Decoded:
        clock.sleep(0.25)
        return decode_view(data, name, preparations)

    ensemble = Ensemble((small,))
    work = Work(clock)
    prepare = Preparer(None, ensemble, None, decode=decode, clock=clock)
    for rows in in_parts(score(studies, prepare, Sleepy(clock, 0.5), batch_studies=BATCH), part):
        work.add(write_part(rows, folder))
    return work.studies_per_second(), clock() - started


@pytest.mark.parametrize("part", [8, 16, 40, 256])
def test_the_rate_of_a_run_is_what_more_studies_take_by_a_stopwatch_however_large_parts_are(
    studies, small, tmp_path, part
):
    _, shorter_s = account(studies[:48], small, str(tmp_path), part)
    rate, longer_s = account(studies, small, str(tmp_path), part)
    assert rate == pytest.approx((96 - 48) / (longer_s - shorter_s), rel=0.01)
    assert rate == pytest.approx(1 / 0.75, rel=0.01)


# ---- stages that work at the same time --------------------------------------------------------------------------


def times(
    studies: int, prepare_s: float, predict_s: float, *, load_s: float, ahead: int, predictors: int = 1
) -> tuple[list[float], list[float]]:
    """When each study is prepared and predicted: one preparer, which is at most so many ahead, and batches of 16."""
    free = [load_s] * predictors
    prepared: list[float] = []
    predicted: list[float] = []
    taken: list[float] = []  # when a predictor took each batch
    for number in range(studies):
        room = taken[(number - ahead) // BATCH] if number >= ahead else 0.0
        prepared.append(max(prepared[-1] if prepared else 0.0, room) + prepare_s)
        if len(prepared) % BATCH == 0:
            own = free.index(min(free))
            taken.append(max(free[own], prepared[-1]))
            free[own] = taken[-1] + BATCH * predict_s
            predicted += [free[own]] * BATCH
    return prepared, predicted


def rate_of(prepared: list[float], predicted: list[float], part: int = 256) -> float | None:
    rate = SteadyRate()
    for first in range(0, len(prepared), part):
        rate.add(prepared[first : first + part], predicted[first : first + part])
    return rate.per_second()


@pytest.mark.parametrize(
    "stages",
    [
        {"prepare_s": 0.02, "predict_s": 0.09},  # networks take longest
        {"prepare_s": 0.09, "predict_s": 0.02},  # decoding does
        {"prepare_s": 0.09, "predict_s": 0.001},  # a GPU that waits
        {"prepare_s": 0.001, "predict_s": 0.09},
        {"prepare_s": 0.03, "predict_s": 0.09, "predictors": 2},
        {"prepare_s": 0.07, "predict_s": 0.09, "predictors": 2},
        {"prepare_s": 0.02, "predict_s": 0.09, "predictors": 2},
    ],
)
@pytest.mark.parametrize("part", [16, 256, 5_000])
def test_what_is_prepared_while_models_load_and_what_lands_at_once_does_not_raise_the_rate(stages, part):
    shorter, longer = (times(number, load_s=20.0, ahead=320, **stages) for number in (880, 2_080))
    by_stopwatch = (2_080 - 880) / (max(longer[1]) - max(shorter[1]))
    assert rate_of(*shorter, part) == pytest.approx(by_stopwatch, rel=0.1)


def test_preparation_that_waits_for_a_full_queue_does_not_lower_the_rate():
    """As seen on two cores: 700 of 880 studies were prepared while the models loaded, and the last of them late."""
    _, predicted = times(880, 0.01, 0.1, load_s=20.0, ahead=10_000)
    prepared = [0.02 * number for number in range(700)] + [predicted[-48]] * 180
    assert rate_of(prepared, predicted) == pytest.approx(10.0, rel=0.01)


@pytest.mark.parametrize("minutes", [-60, 60])
def test_clocks_of_machines_that_disagree_end_no_run(minutes):
    prepared, predicted = times(880, 0.02, 0.09, load_s=20.0, ahead=320)
    assert rate_of([time + 60 * minutes for time in prepared], predicted) > 0


def test_parts_in_any_order_give_the_same_rate():
    prepared, predicted = times(1_600, 0.02, 0.09, load_s=20.0, ahead=320)
    assert rate_of(prepared[::-1], predicted[::-1]) == pytest.approx(rate_of(prepared, predicted))


def test_of_a_run_that_is_prepared_while_its_models_load_the_rate_is_that_of_the_networks():
    assert rate_of(*times(880, 0.02, 0.09, load_s=20.0, ahead=10_000)) == pytest.approx(1 / 0.09)


def test_a_run_that_is_over_with_its_first_batches_has_no_steady_rate():
    assert rate_of(*times(64, 0.02, 0.09, load_s=20.0, ahead=320)) is None


def test_of_such_a_run_the_rate_is_that_of_the_whole():
    clock = Clock()
    work = Work(clock)
    clock.sleep(50.0)
    work.add(Receipt(500, {"ok": 500}, {}, {}, [1.0] * 500, [2.0] * 500))
    assert work.studies_per_second() == 10.0


def test_nothing_scored_has_no_rate():
    assert Work().studies_per_second() is None


# ---- how far it is ----------------------------------------------------------------------------------------------


@pytest.fixture
def shown() -> list[int]:
    return []


@pytest.fixture
def bar(shown) -> Bar:
    return Bar(100, shown.append)


def test_the_bar_shows_what_is_predicted_before_it_lands(bar, shown):
    bar.predicted(16)
    bar.predicted(16)
    bar.landed(20)
    assert sum(shown) == 32


def test_the_bar_ends_at_the_total_whatever_the_predictors_have_told(bar, shown):
    bar.predicted(16)
    bar.landed(100)
    assert sum(shown) == 100


def test_what_a_repeated_task_tells_twice_does_not_push_the_bar_beyond_the_total(bar, shown):
    for _ in range(9):
        bar.predicted(16)
    bar.landed(100)
    assert sum(shown) == 100
    assert min(shown) > 0

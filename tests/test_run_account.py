"""What a run says of its speed."""

from types import SimpleNamespace

import pytest

from cxrpipe.runs import accounts as run_account
from cxrpipe.runs.accounts import Work
from cxrpipe.scoring.rows import Receipt


@pytest.fixture
def per_second(monkeypatch):
    """The rate of receipts, each of which comes so many seconds after the start with so many studies."""

    def told(*receipts: tuple[float, int]) -> float | None:
        now = 0.0
        monkeypatch.setattr(run_account, "time", SimpleNamespace(monotonic=lambda: now))
        work = Work()
        for now, studies in receipts:  # noqa: B007  # the clock reads it
            work.add(Receipt(studies, {"ok": studies}, {}, "cpu float32 fused"))
        return work.account()["studies_per_second"]

    return told


def test_start_up_is_left_out_of_the_rate_of_a_long_run(per_second):
    assert per_second((30.0, 100), (40.0, 100), (50.0, 100)) == 10.0


@pytest.mark.parametrize(
    "receipts",
    [[(50.0, 500)], [(49.99, 480), (50.0, 20)], [(50.0, 250), (50.0, 250)], [(49.0, 10), (50.0, 490)]],
)
def test_where_most_studies_come_at_once_the_rate_is_of_the_whole_run(per_second, receipts):
    assert per_second(*receipts) == 10.0


def test_nothing_scored_has_no_rate(per_second):
    assert per_second() is None

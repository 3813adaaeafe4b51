"""How busy the workers of each stage were, and what is said of the busiest."""

import pytest

from cxrpipe.runs.busy import Busy, what_limits
from cxrpipe.scoring.work import Span


def test_a_share_is_the_work_of_all_workers_over_the_time_for_which_they_were_there():
    busy = Busy()
    busy.add({"prepare": {"a": Span(6.0, 0.0, 10.0)}, "predict": {"p": Span(1.0, 2.0, 3.0)}})
    busy.add({"prepare": {"b": Span(4.0, 10.0, 20.0), "a": Span(2.0, 10.0, 12.0)}, "predict": {"p": Span(1.0, 11, 12)}})
    assert busy.seconds() == {"prepare": 12.0, "predict": 2.0}
    assert busy.shares() == {"prepare": pytest.approx(12 / (20 + 10)), "predict": pytest.approx(2 / 10)}


def test_a_worker_that_comes_late_counts_from_its_first_work():
    busy = Busy()
    busy.add({"prepare": {"a": Span(100.0, 0.0, 100.0), "late": Span(10.0, 90.0, 100.0)}})
    assert busy.shares() == {"prepare": 1.0}


@pytest.mark.parametrize(
    ("shares", "device", "line"),
    [
        ({"prepare": 0.98, "predict": 0.31}, "NVIDIA H200", "prepare 98% busy, predict 31%: add CPUs"),
        ({"prepare": 0.31, "predict": 0.98}, "NVIDIA H200", "predict 98% busy, prepare 31%: add GPUs"),
        ({"prepare": 0.31, "predict": 0.98}, "cpu", "predict 98% busy, prepare 31%: add CPUs, or a GPU"),
        ({"predict": 0.2, "land": 0.9}, "cpu", "land 90% busy, predict 20%: the storage of --out limits"),
        (
            {"predict": 0.5},
            "cpu",
            "predict 50% busy: no stage was full; the start and the end of the run took the time",
        ),
    ],
)
def test_one_line_says_which_stage_was_full_and_what_would_help(shares, device, line):
    assert what_limits(shares, device) == line


def test_a_run_that_did_nothing_has_no_limit():
    assert what_limits(Busy().shares(), None) is None

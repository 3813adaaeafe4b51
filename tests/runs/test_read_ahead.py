"""Objects are read by several threads, and come in order, within a limit."""

import threading
import time

import pytest

from cxrpipe.runs import read_ahead as reading
from cxrpipe.runs.read_ahead import read_ahead
from cxrpipe.storage import Object


def objects(sizes: list[int]) -> list[Object]:
    return [Object(f"part-{number}", size, "") for number, size in enumerate(sizes)]


def test_results_come_in_the_order_of_the_objects_whichever_is_read_first():
    def read(found: Object) -> str:
        time.sleep(0.02 if found.url in ("part-0", "part-3") else 0)
        return found.url

    assert list(read_ahead(read, objects([1] * 40))) == [f"part-{number}" for number in range(40)]


def test_several_are_read_at_once():
    together = threading.Barrier(4, timeout=10)  # a thread passes only when three others are there

    def read(found: Object) -> int:
        return together.wait()

    assert sorted(read_ahead(read, objects([1] * 4))) == [0, 1, 2, 3]


@pytest.mark.parametrize("sizes", [[30] * 20, [500, 1, 1, 500, 60, 60]])
def test_what_is_read_and_not_used_yet_stays_within_the_limit_unless_one_object_exceeds_it(monkeypatch, sizes):
    monkeypatch.setattr(reading, "_AHEAD_BYTES", 100)
    lock, held = threading.Lock(), 0

    def read(found: Object) -> int:
        nonlocal held
        with lock:
            held += found.size
            assert held <= 100 or held == found.size
        return found.size

    for size in read_ahead(read, objects(sizes)):
        with lock:
            held -= size
    assert held == 0


def test_what_reading_raises_is_raised_and_later_objects_are_not_read():
    read_numbers = []

    def read(found: Object) -> str:
        read_numbers.append(int(found.url.removeprefix("part-")))
        if found.url == "part-2":
            raise PermissionError(found.url)
        return found.url

    results = read_ahead(read, objects([1] * 1_000))
    assert [next(results), next(results)] == ["part-0", "part-1"]
    with pytest.raises(PermissionError, match="part-2"):
        next(results)
    assert max(read_numbers) < 100

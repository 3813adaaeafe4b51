"""A tar.gz that is read in the order of its entries is inflated once, and in any order every read is right."""

import gzip
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders import tar
from packed import opened, packed, reason

from cxrpipe.archives.containers import gzips
from cxrpipe.archives.reader import Reader
from cxrpipe.records import View

FILES = {f"{number:02}.png": random.Random(number).randbytes(700_000 + 1000 * number) for number in range(24)}
"""17 MB, which are four stretches between seek points."""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[View], Path]:
    folder = tmp_path_factory.mktemp("gzips")
    views, _ = opened(packed(str(folder), "tar.gz", FILES), folder)
    return views, folder


@pytest.fixture
def inflated(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The sizes of all pieces that are read below a gzip, from its seek points on."""
    sizes: list[int] = []
    read = gzips.OpenGzip._read

    def counted(self: gzips.OpenGzip, offset: int, length: int) -> bytes:
        sizes.append(length + offset - max(point for point in self._points if point <= offset))
        return read(self, offset, length)

    monkeypatch.setattr(gzips.OpenGzip, "_read", counted)
    return sizes


def read_all(views: list[View], folder: Path) -> dict[str | None, bytes]:
    with Reader(str(folder)) as reader:
        return {view.entry: reader.read(view) for view in views}


def test_entries_in_their_order_are_inflated_once(archive, inflated):
    views, folder = archive
    assert read_all(views, folder) == FILES
    assert sum(inflated) < 1.1 * sum(map(len, FILES.values()))


def test_neighbours_that_threads_read_out_of_order_are_inflated_once(archive, inflated):
    views, folder = archive
    swapped = [views[start + step] for start in range(0, len(views), 4) for step in (2, 0, 3, 1)]
    assert read_all(swapped, folder) == FILES
    assert sum(inflated) < 1.3 * sum(map(len, FILES.values()))


def test_entries_in_any_order_are_right(archive):
    views, folder = archive
    for seed in range(3):
        assert read_all(random.Random(seed).sample(views, len(views)), folder) == FILES


def test_a_jump_inflates_no_more_than_it_needs(archive, inflated):
    views, folder = archive
    far = [views[0], views[23], views[1], views[22]]
    read_all(far, folder)
    assert len(inflated) == len(far)  # and no whole stretch


def test_damage_behind_an_entry_does_not_reach_it_whichever_was_read_before(tmp_path):
    """The gzip has members of 500 kB, so that the damaged block is known."""
    plain = tar(FILES)
    members = [gzip.compress(plain[start : start + 500_000], 1) for start in range(0, len(plain), 500_000)]
    url = tmp_path / "a.tar.gz"
    url.write_bytes(b"".join(members))
    views, reader = opened(str(url), tmp_path / "points")
    number = views[9].offset // 500_000 + 1  # begins in entry 9
    members[number] = members[number][:10] + b"\x07" + members[number][11:]  # no such kind of block
    url.write_bytes(b"".join(members))
    with reader:
        for _ in range(2):
            assert [reader.read(view) for view in views[6:9]] == [*FILES.values()][6:9]
            assert reason(reader, views[9]) == "corrupt"

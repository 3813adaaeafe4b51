"""Every entry is read as it was packed, or its study is told why not."""

import random
import re
import struct
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from builders import tar_gz, zipped
from packed import CONTENTS, every_pack, listed, one_of_each, opened, packed, reason
from s3server import S3Server

from cxrpipe import storage
from cxrpipe.archives import reader as reading
from cxrpipe.archives.containers.entries import entries
from cxrpipe.archives.reader import Reader
from cxrpipe.errors import ConfigError, StoreError
from cxrpipe.records import View
from cxrpipe.storage import s3

# --- What has changed since it was indexed ---


@one_of_each
def test_views_of_a_container_that_is_gone_are_missing(anywhere, tmp_path, pack):
    url = packed(anywhere, pack)
    views, reader = opened(url, tmp_path)
    storage.delete(url)
    assert reason(reader, views[3]) == "missing"


@one_of_each
def test_views_beyond_the_end_of_a_container_that_shrank_are_missing(anywhere, tmp_path, pack):
    url = packed(anywhere, pack)
    views, reader = opened(url, tmp_path)
    storage.write(url, storage.read(url)[:3000])
    assert reason(reader, views[11]) == "missing"


@pytest.mark.parametrize("pack", ["tar", "zip, stored", "zip, deflated"])
def test_a_view_across_the_end_of_a_container_that_was_cut_is_truncated(anywhere, tmp_path, pack):
    url = packed(anywhere, pack)
    views, reader = opened(url, tmp_path)
    storage.write(url, storage.read(url)[: views[11].offset + 100])
    assert reason(reader, views[11]) == "truncated"


@every_pack
@pytest.mark.parametrize("name", ["image {}", "image {} \udcff", "Zoë {}", "long" * 40 + " {}", "long" * 200 + " {}"])
def test_a_view_whose_container_was_packed_again_is_its_own_or_missing(tmp_path, pack, name):
    """All entries have one size, so that at each old place lies the data of another."""
    if "zip" in pack and "\udcff" in name:
        pytest.skip("zipfile writes no such name")
    files = {name.format(number): random.Random(number).randbytes(512) for number in range(9)}
    url = packed(str(tmp_path), pack, files)
    views, reader = opened(url, tmp_path / "points")
    with reader:
        assert [reader.read(view) for view in views] == list(files.values())
    first, second, *others = files
    packed(str(tmp_path), pack, {name: files[name] for name in (first, *others, second)})
    with reader:
        reasons = [reason(reader, view) for view in views[1:]]
        if "gz" in pack:  # one of the same size is read by the old seek points, and then makes no sense
            assert set(reasons) <= {"missing", "corrupt"}
        else:
            assert reasons == ["missing"] * 8
            assert reader.read(views[0]) == files[first]


def test_the_long_name_of_the_entry_before_is_not_that_of_the_entry(tmp_path):
    """Both headers lie in what is read before the data."""
    long = "long" * 40
    url = packed(str(tmp_path), "tar", {"before": bytes(9), "short": b"is another"})
    views, reader = opened(url, tmp_path)
    packed(str(tmp_path), "tar", {long: b"its own ..", "short": b"is another"})
    moved = listed(url, tmp_path)[1]
    assert reason(reader, replace(views[1], entry=long, offset=moved.offset)) == "missing"


def test_a_plain_file_that_shrank_is_truncated(anywhere):
    storage.write(anywhere, b"half")
    assert reason(Reader("none"), View(url=anywhere, length=8)) == "truncated"


def test_a_tar_gz_that_was_replaced_is_missing(tmp_path):
    views, reader = opened(packed(str(tmp_path), "tar.gz"), tmp_path)
    packed(str(tmp_path), "tar.gz", {"one more": bytes(9000)} | CONTENTS)
    assert reason(reader, views[0]) == "missing"


def test_damage_in_a_deflated_entry_is_corrupt_and_spares_the_others(tmp_path):
    url = Path(packed(str(tmp_path), "zip, deflated"))
    views, reader = opened(str(url), tmp_path)
    data = bytearray(url.read_bytes())
    data[views[3].offset] |= 0x06  # no such kind of block
    url.write_bytes(data)
    assert reason(reader, views[3]) == "corrupt"
    assert reader.read(views[4]) == CONTENTS["images/004.png"]


@pytest.mark.parametrize("method", [0, 8])
def test_a_zip_entry_that_is_not_what_its_checksum_says_is_corrupt(tmp_path, method):
    url = tmp_path / "a.zip"
    url.write_bytes(zipped(CONTENTS, method=method))
    views, reader = opened(str(url), tmp_path)
    data = bytearray(url.read_bytes())
    data[views[3].offset + views[3].length // 2] ^= 0x01  # of random bytes: inflates as well
    url.write_bytes(data)
    assert reason(reader, views[3]) == "corrupt"
    assert reader.read(views[4]) == CONTENTS["images/004.png"]
    assert CONTENTS["images/003.png"].startswith(reader.head(views[3], 10))


def test_damage_in_a_tar_gz_is_corrupt_and_spares_what_lies_well_before(tmp_path):
    """Well: indexed_gzip reads 4 MB ahead."""
    files = {"before": b"x" * 5000, "between": bytes(6_000_000), "damaged": b"y" * 5000}
    url = Path(packed(str(tmp_path), "tar.gz of several members", files))
    views, reader = opened(str(url), tmp_path)
    data = bytearray(url.read_bytes())
    members = [found.start() for found in re.finditer(rb"\x1f\x8b\x08", data)]
    data[members[views[2].offset // 5000] + 10] |= 0x06  # no such kind of block
    url.write_bytes(data)
    with reader:
        for _ in range(2):
            assert reason(reader, views[2]) == "corrupt"
            assert reader.read(views[0]) == files["before"]


def test_an_entry_that_inflates_beyond_the_limit_is_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "_MAX_INFLATED_BYTES", 1000)
    views, reader = opened(packed(str(tmp_path), "zip, deflated", {"a": bytes(1000), "b": bytes(1001)}), tmp_path)
    assert reader.read(views[0]) == bytes(1000)
    assert reason(reader, views[1]) == "too_large"


def test_missing_seek_points_say_what_to_do(tmp_path):
    views, _ = opened(packed(str(tmp_path), "tar.gz"), tmp_path)
    with pytest.raises(ConfigError, match=r"keep seek_points/ beside the study table, or index it again"):
        Reader(str(tmp_path / "elsewhere")).read(views[0])


@pytest.mark.parametrize("keep", [15, 40])
def test_damaged_seek_points_say_what_to_do(tmp_path, keep):
    views, reader = opened(packed(str(tmp_path), "tar.gz"), tmp_path / "points")
    [points] = (tmp_path / "points").iterdir()
    points.write_bytes(points.read_bytes()[:keep])
    with pytest.raises(ConfigError, match=r"seek points are damaged .*index it again"):
        reader.read(views[0])


@pytest.mark.s3
def test_a_store_that_goes_away_is_no_damage(tmp_path, monkeypatch):
    for name in ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    files = {str(number): random.Random(number).randbytes(1_000_000) for number in range(6)}
    with S3Server(tmp_path / "s3") as server:
        if server.external:
            pytest.skip("an external server is not ours to kill")
        for name, value in server.env().items():
            monkeypatch.setenv(name, value)
        s3.client.cache_clear()
        server.boto().create_bucket(Bucket="cxr")
        views, reader = opened(packed("s3://cxr", "tar.gz", files), tmp_path / "points")
        walk = entries(storage.stat(views[0].url), tmp_path / "points")
        next(walk)
        reader.read(views[0])
        server.kill()
    gone = pytest.raises(StoreError, match=r"s3://cxr/a\.tar\.gz")
    with reader, gone:
        reader.read(views[5])
    with gone:
        list(walk)
    s3.client.cache_clear()


# --- Many readers, many containers ---


@one_of_each
def test_many_threads_read_through_one_reader(anywhere, tmp_path, pack, request):
    request.addfinalizer(partial(sys.setswitchinterval, sys.getswitchinterval()))
    sys.setswitchinterval(1e-6)  # threads get in each other's way as often as they can
    views, reader = opened(packed(anywhere, pack), tmp_path)
    with reader, ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda view: (view.entry, reader.read(view)), views * 10))
    assert found == list(CONTENTS.items()) * 10


def test_more_tar_gz_than_are_kept_open_are_read(tmp_path):
    views = []
    for number in range(7):
        (tmp_path / f"{number}.tar.gz").write_bytes(tar_gz({"x": str(number).encode() * 99}))
        views += opened(str(tmp_path / f"{number}.tar.gz"), tmp_path / "points")[0]
    with Reader(str(tmp_path / "points")) as reader:
        assert [reader.read(view) for view in views * 2] == [str(number).encode() * 99 for number in range(7)] * 2
        assert len(reader._streams) == 4


def test_reading_far_into_a_tar_gz_inflates_from_the_nearest_seek_point(tmp_path):
    """Seek points lie 4 MB apart, so the last of 24 MB is read without the first 16."""
    files = {str(number): random.Random(number).randbytes(1_000_000) for number in range(24)}
    views, reader = opened(packed(str(tmp_path), "tar.gz", files), tmp_path / "points")
    url = tmp_path / "a.tar.gz"
    data = bytearray(url.read_bytes())
    data[1000:15_000_000] = bytes(15_000_000 - 1000)
    url.write_bytes(data)
    with reader:
        assert reader.read(views[23]) == files["23"]


def test_the_seek_points_begin_with_the_size_of_their_tar_gz(tmp_path):
    url = packed(str(tmp_path), "tar.gz")
    listed(url, tmp_path / "points")
    [points] = (tmp_path / "points").iterdir()
    assert struct.unpack_from("<5sxxQ", points.read_bytes()) == (b"GZIDX", storage.stat(url).size)

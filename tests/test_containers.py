"""What is packed comes out as it went in, or the container is refused: nothing is lost without a word."""

import gzip
import io
import random
import re
import struct
import sys
import tarfile
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import indexed_gzip
import pytest
from builders import tar, tar_gz, zipped
from s3server import S3Server

from cxrpipe import containers, storage
from cxrpipe.archives.catalogue import view_of
from cxrpipe.containers import File, Reader, entries
from cxrpipe.errors import ConfigError, StoreError, StudyError
from cxrpipe.records import View

CONTENTS = {
    f"images/{number:03}.png": random.Random(number).randbytes(number * 300) + b"x" * 900 for number in range(12)
}
Pack = Callable[[dict[str, bytes]], bytes]
PACKS: dict[str, tuple[str, Pack]] = {
    "tar": ("a.tar", tar),
    "pax": ("a.tar", lambda files: tar(files, form=tarfile.PAX_FORMAT)),
    "tar.gz": ("a.tar.gz", tar_gz),
    "tgz": ("a.TGZ", tar_gz),
    "tar.gz of several members": ("a.tar.gz", lambda files: several_members(tar(files))),
    "zip, stored": ("a.zip", lambda files: zipped(files, method=zipfile.ZIP_STORED)),
    "zip, deflated": ("a.zip", zipped),
    "zip behind a program": ("a.zip", lambda files: b"#!/bin/sh\n" * 9 + zipped(files)),
}
every_pack = pytest.mark.parametrize("pack", PACKS)
one_of_each = pytest.mark.parametrize("pack", ["tar", "tar.gz", "zip, stored", "zip, deflated"])


def several_members(data: bytes) -> bytes:
    """As pigz and bgzip write."""
    return b"".join(gzip.compress(data[start : start + 5000], 1) for start in range(0, len(data), 5000))


def packed(folder: str, pack: str, files: dict[str, bytes] = CONTENTS) -> str:
    """The url of a container with these files."""
    name, made = PACKS[pack]
    storage.write(storage.join(folder, name), made(files))
    return storage.join(folder, name)


def listed(url: str, seek_points: Path) -> list[File]:
    return list(entries(storage.stat(url), seek_points))


def opened(url: str, seek_points: Path) -> tuple[list[View], Reader]:
    """The views of a container, and a reader for them."""
    return [view_of(file) for file in listed(url, seek_points)], Reader(str(seek_points))


def reason(reader: Reader, view: View) -> str:
    with pytest.raises(StudyError) as raised:
        reader.read(view)
    return raised.value.reason


# --- What comes out ---


@every_pack
def test_entries_read_at_random_equal_the_files_that_were_packed(anywhere, tmp_path, pack):
    views, reader = opened(packed(anywhere, pack), tmp_path)
    random.Random(0).shuffle(views)
    with reader:
        assert {view.entry: reader.read(view) for view in views} == CONTENTS


@every_pack
def test_entries_come_in_the_order_of_the_container(tmp_path, pack):
    files = dict(reversed(CONTENTS.items()))
    assert [file.name for file in listed(packed(str(tmp_path), pack, files), tmp_path)] == list(files)


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names_survive(tmp_path, form):
    names = ["a" * 99 + "/" + "b" * 200 + ".png", "Röntgen/胸部.png"]
    (tmp_path / "a.tar").write_bytes(tar(dict.fromkeys(names, b"x"), form=form))
    assert [file.entry for file in listed(str(tmp_path / "a.tar"), tmp_path)] == names


def test_a_name_that_is_not_utf8_becomes_text(tmp_path):
    (tmp_path / "a.tar").write_bytes(tar({"r\udcf6ntgen.png": b"x"}))
    assert [file.name for file in listed(str(tmp_path / "a.tar"), tmp_path)] == ["r\\xf6ntgen.png"]


def test_a_leading_dot_slash_is_no_part_of_a_name(tmp_path):
    (tmp_path / "a.tar").write_bytes(tar({"./images/x.png": b"x"}))
    [file] = listed(str(tmp_path / "a.tar"), tmp_path)
    assert (file.name, file.entry) == ("images/x.png", "./images/x.png")


@one_of_each
def test_names_are_data_and_are_never_followed(tmp_path, pack):
    files = {"../../x.png": b"1", "/etc/passwd": b"2", "~/y.png": b"3", "a//b.png": b"4", "x.png": b"5"}
    views, reader = opened(packed(str(tmp_path), pack, files), tmp_path / "points")
    with reader:
        assert {view.entry: reader.read(view) for view in views} == files


def test_links_folders_and_devices_of_a_tar_are_no_files(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            entry = tarfile.TarInfo(f"{kind.decode()}.png")
            entry.type, entry.linkname = kind, "/etc/passwd"
            archive.addfile(entry)
        archive.addfile(tarfile.TarInfo("file.png"))
    assert [file.name for file in listed(str(tmp_path / "a.tar"), tmp_path)] == ["file.png"]


def test_links_and_folders_of_a_zip_are_no_files(tmp_path):
    link = zipfile.ZipInfo("link.png")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.mkdir("folder.png")
        archive.writestr(link, "/etc/passwd")
        archive.writestr("file.png", "x")
    assert [file.name for file in listed(str(tmp_path / "a.zip"), tmp_path)] == ["file.png"]


def test_the_version_of_an_entry_is_its_own(tmp_path):
    """A zip's is its CRC, a tar's its time; neither changes when the container is packed again."""
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        entry = tarfile.TarInfo("x")
        entry.mtime = 1_600_000_000
        archive.addfile(entry)
    (tmp_path / "a.zip").write_bytes(zipped({"x": b"123456789"}))
    versions = [listed(str(tmp_path / name), tmp_path)[0].version for name in ("a.tar", "a.zip")]
    assert versions == ["1600000000", "cbf43926"]


@pytest.mark.parametrize("name", ["a.tar", "b/A.TAR", "a.tar.gz", "a.tgz", "a.zip"])
def test_containers_are_known_by_their_names(name):
    assert containers.is_container(name)
    assert not containers.is_container(name + ".png")


# --- Damaged containers ---


@pytest.mark.parametrize("pack", ["tar", "tar.gz", "tar.gz of several members", "zip, stored", "zip, deflated"])
def test_wherever_a_container_is_cut_no_entry_is_lost_without_a_word(tmp_path, pack):
    url = Path(packed(str(tmp_path), pack))
    whole = url.read_bytes()
    for cut in (*range(0, len(whole), 512), *range(len(whole) - 24, len(whole))):
        url.write_bytes(whole[:cut])
        try:
            complaint, found = "", len(listed(str(url), tmp_path))
        except ConfigError as error:
            complaint, found = str(error), 0
        assert found == len(CONTENTS) or complaint.startswith(f"{url}: cannot be read to its end"), cut
        assert "\n" not in complaint


def test_a_tar_whose_header_is_damaged_is_refused(tmp_path):
    data = bytearray(tar(CONTENTS))
    data[data.index(b"images/006.png") + 20] ^= 0xFF
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(ConfigError, match=r"a\.tar: cannot be read to its end"):
        listed(str(tmp_path / "a.tar"), tmp_path)


@pytest.mark.parametrize("place", [0, 1000, -6])
def test_a_tar_gz_whose_bytes_have_changed_is_refused(tmp_path, place):
    data = bytearray(tar_gz(CONTENTS))
    data[place] ^= 0xFF
    (tmp_path / "a.tar.gz").write_bytes(data)
    with pytest.raises(ConfigError, match=r"a\.tar\.gz: cannot be read to its end"):
        listed(str(tmp_path / "a.tar.gz"), tmp_path)


def test_a_zip_whose_directory_points_elsewhere_is_refused(tmp_path):
    data = zipped(CONTENTS)
    (tmp_path / "a.zip").write_bytes(data.replace(b"PK\x03\x04", b"KP\x03\x04", 1))
    with pytest.raises(ConfigError, match=r"a\.zip!images/000\.png: its directory points to no entry"):
        listed(str(tmp_path / "a.zip"), tmp_path)


def test_a_zip_that_is_packed_as_we_cannot_read_is_refused_by_entry(tmp_path):
    (tmp_path / "a.zip").write_bytes(zipped({"x.png": b"x"}, method=zipfile.ZIP_BZIP2))
    with pytest.raises(ConfigError, match=r"a\.zip!x\.png: .*method 12"):
        listed(str(tmp_path / "a.zip"), tmp_path)


def test_an_encrypted_zip_is_refused(tmp_path):
    data = bytearray(zipped({"x.png": b"x"}))
    data[data.index(b"PK\x01\x02") + 8] |= 1  # general purpose flags of the directory
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(ConfigError, match="encrypted"):
        listed(str(tmp_path / "a.zip"), tmp_path)


# --- What has changed since it was indexed ---


@one_of_each
def test_views_of_a_container_that_is_gone_are_missing(anywhere, tmp_path, pack):
    url = packed(anywhere, pack)
    views, reader = opened(url, tmp_path)
    storage.delete(url)
    assert reason(reader, views[3]) == "missing"


@one_of_each
def test_views_beyond_the_end_of_a_container_that_shrank_are_truncated(anywhere, tmp_path, pack):
    url = packed(anywhere, pack)
    views, reader = opened(url, tmp_path)
    storage.write(url, storage.read(url)[:3000])
    assert reason(reader, views[11]) == "truncated"


def test_a_plain_file_that_shrank_is_truncated(anywhere):
    storage.write(anywhere, b"half")
    assert reason(Reader("none"), View(url=anywhere, length=8)) == "truncated"


def test_a_tar_gz_that_was_replaced_is_corrupt(tmp_path):
    views, reader = opened(packed(str(tmp_path), "tar.gz"), tmp_path)
    packed(str(tmp_path), "tar.gz", {"one more": bytes(9000)} | CONTENTS)
    assert reason(reader, views[0]) == "corrupt"


def test_damage_in_a_deflated_entry_is_corrupt_and_spares_the_others(tmp_path):
    url = Path(packed(str(tmp_path), "zip, deflated"))
    views, reader = opened(str(url), tmp_path)
    data = bytearray(url.read_bytes())
    data[views[3].offset] |= 0x06  # no such kind of block
    url.write_bytes(data)
    assert reason(reader, views[3]) == "corrupt"
    assert reader.read(views[4]) == CONTENTS["images/004.png"]


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
    monkeypatch.setattr(containers, "_MAX_INFLATED_BYTES", 1000)
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
        for name, value in server.env().items():
            monkeypatch.setenv(name, value)
        storage.s3.client.cache_clear()
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
    storage.s3.client.cache_clear()


class Gone(io.BytesIO):
    """A file whose store stays away."""

    def read(self, size: int | None = -1) -> bytes:
        raise StoreError("the store cannot be used")


def test_what_the_file_below_a_tar_gz_raises_is_not_taken_for_damage_of_it():
    stream = indexed_gzip.IndexedGzipFile(fileobj=Gone(tar_gz(CONTENTS)))
    with pytest.raises(StoreError, match="cannot be used"), containers._whole("a.tar.gz"):
        stream.read()


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

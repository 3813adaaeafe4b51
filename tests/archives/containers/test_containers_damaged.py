"""Damage to a container costs what it hits: the other entries are found and read, and what is lost is said."""

import bz2
import gzip
import io
import lzma
import random
import shutil
import struct
import tarfile
import zipfile
from pathlib import Path

import indexed_gzip
import pytest
from builders import tar, tar_gz, zipped
from packed import CONTENTS, found, packed, several_members, views_of

from cxrpipe import storage
from cxrpipe.archives.containers import gzips
from cxrpipe.archives.containers.entries import File, Lost, entries
from cxrpipe.archives.reader import Reader
from cxrpipe.errors import StoreError


def read_all(files: list[File], seek_points: Path) -> dict[str | None, bytes]:
    with Reader(str(seek_points)) as reader:
        return {view.entry: reader.read(view) for view in views_of(files)}


def only_loss(url: Path, seek_points: Path) -> tuple[list[File], Lost]:
    files, [loss] = found(url, seek_points)
    return files, loss


# --- Cut short ---


@pytest.mark.parametrize("pack", ["tar", "tar.gz", "tar.gz of several members"])
def test_wherever_a_tar_is_cut_what_is_whole_is_read_and_what_is_lost_is_said(tmp_path, pack):
    url = Path(packed(str(tmp_path), pack))
    whole = url.read_bytes()
    for cut in (*range(1, len(whole), 1500), *range(len(whole) - 24, len(whole))):
        url.write_bytes(whole[:cut])
        files, losses = found(url, tmp_path / "points")
        assert read_all(files, tmp_path / "points") == dict(list(CONTENTS.items())[: len(files)]), cut
        if len(files) == len(CONTENTS) and pack == "tar":
            continue  # what is cut off may be the zeros that fill its last record
        assert losses[-1].reason == "truncated", cut
        assert losses[-1].detail.startswith(str(url)), cut
        assert "\n" not in losses[-1].detail


def test_the_cut_of_a_tar_gz_takes_hardly_more_than_what_lies_behind_it(tmp_path):
    """Nothing is lost to the 4 MB between seek points."""
    files = {f"{number}.png": random.Random(number).randbytes(100_000) for number in range(120)}
    url = Path(packed(str(tmp_path), "tar.gz", files))
    for part in (0.605, 0.99):
        shutil.copy(url, tmp_path / "cut.tar.gz")
        cut = int(url.stat().st_size * part)
        with open(tmp_path / "cut.tar.gz", "r+b") as file:
            file.truncate(cut)
        whole, losses = found(tmp_path / "cut.tar.gz", tmp_path / "points")
        assert len(whole) >= int(120 * part) - 1
        assert read_all(whole, tmp_path / "points") == dict(list(files.items())[: len(whole)])
        last = whole[-1].entry
        assert [(loss.entry, loss.reason) for loss in losses] == [
            (f"{len(whole)}.png", "truncated"),
            (None, "truncated"),
        ]
        assert losses[-1].detail == (
            f"{tmp_path}/cut.tar.gz is cut short at byte {cut:,}: what follows {last} is lost; fetch it again"
        )


def test_a_tar_gz_without_its_checksum_has_all_its_entries(tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(tar_gz(CONTENTS)[:-5])
    files, loss = only_loss(tmp_path / "a.tar.gz", tmp_path)
    assert read_all(files, tmp_path) == CONTENTS
    assert (loss.reason, loss.detail.partition(": ")[2]) == (
        "truncated",
        "every entry is there, but its checksum is cut off, so any of them may be broken; fetch it again",
    )


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("missing", [1, 22, 5000])
def test_a_zip_that_is_cut_has_lost_its_directory_and_with_it_all(tmp_path, method, missing):
    data = zipped(CONTENTS, method=method)
    (tmp_path / "a.zip").write_bytes(data[:-missing])
    files, loss = only_loss(tmp_path / "a.zip", tmp_path)
    assert not files
    assert (loss.reason, loss.detail) == (
        "truncated",
        f"{tmp_path}/a.zip is cut short at byte {len(data) - missing:,}: nothing in it can be read; fetch it again",
    )


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.zip"])
@pytest.mark.parametrize("data", [b"", b"<html>not found</html>" * 99], ids=["empty", "a page"])
def test_what_is_no_container_is_one_loss(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    files, loss = only_loss(tmp_path / name, tmp_path)
    assert not files
    assert loss.detail.endswith("nothing in it can be read; fetch it again")


def test_the_real_truncated_tar_gz_yields_what_is_whole(tmp_path, real_data):
    files, losses = found(real_data / "bad" / "truncated.tar.gz", tmp_path)
    assert len(files) >= 1
    assert losses[-1].reason == "truncated"
    assert {data[:8] for data in read_all(files, tmp_path).values()} == {b"\x89PNG\r\n\x1a\n"}


# --- Damaged ---


def test_a_damaged_header_of_a_tar_costs_what_follows_it(tmp_path):
    data = bytearray(tar(CONTENTS))
    data[data.index(b"images/006.png") + 20] ^= 0xFF
    (tmp_path / "a.tar").write_bytes(data)
    files, loss = only_loss(tmp_path / "a.tar", tmp_path)
    assert [file.entry for file in files] == list(CONTENTS)[:6]
    assert (loss.reason, "what follows images/005.png is lost" in loss.detail) == ("corrupt", True)


def test_damage_in_the_midst_of_a_tar_gz_costs_what_follows_it(tmp_path):
    url = Path(packed(str(tmp_path), "tar.gz of several members"))
    data = bytearray(url.read_bytes())
    data[data.index(b"\x1f\x8b\x08", len(data) // 2) + 10] |= 0x06  # no such kind of block
    url.write_bytes(data)
    files, losses = found(url, tmp_path)
    assert 3 < len(files) < 10
    assert read_all(files, tmp_path) == dict(list(CONTENTS.items())[: len(files)])
    assert losses[-1].reason == "corrupt"


def test_a_tar_gz_whose_checksum_does_not_hold_says_that_any_entry_may_be_broken(tmp_path):
    data = bytearray(tar_gz(CONTENTS))
    data[-6] ^= 0xFF
    (tmp_path / "a.tar.gz").write_bytes(data)
    files, loss = only_loss(tmp_path / "a.tar.gz", tmp_path)
    assert read_all(files, tmp_path) == CONTENTS
    assert (loss.reason, "any of them may be broken" in loss.detail) == ("corrupt", True)


def test_a_gzip_may_end_in_zeros_as_on_a_tape(tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(several_members(tar(CONTENTS)) + bytes(3_000_000))
    files, losses = found(tmp_path / "a.tar.gz", tmp_path)
    assert not losses
    assert read_all(files, tmp_path) == CONTENTS


def header(size: bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A tar header with this size field and a right checksum."""
    made = bytearray(tar({"x.png": b""})[:512])
    made[124:136], made[156:157], made[148:156] = size, kind, b" " * 8
    made[148:156] = b"%06o\0 " % sum(made)
    return bytes(made)


@pytest.mark.parametrize("pack", ["a.tar", "a.tar.gz"])
@pytest.mark.parametrize(
    "hostile",
    [
        header(b"\xff" * 11 + b"\0"),  # goes back 256 bytes: tarfile of Python 3.11.7 went round for ever
        header(b"\xff" * 10 + b"\x80\0"),
        header(b"\x80" + b"\x7f" * 11),
        header(b"77777777777\0"),
        header(b"77777777777\0", tarfile.XHDTYPE),
        header(b"\xff" * 10 + b"\x80\0", tarfile.GNUTYPE_LONGNAME),
        header(b"00000000015\0", tarfile.XHDTYPE) + b"13 size=-512\n".ljust(512, b"\0"),
        b"",
    ],
    ids=["-256", "-32768", "all of memory", "8 GB", "a name of 8 GB", "a name below zero", "pax", "nothing"],
)
def test_a_tar_that_lies_about_sizes_ends_there(tmp_path, pack, hostile):
    data = tar({"before.png": b"x"})[:1024] + hostile + tar({"after.png": b"y"})
    (tmp_path / pack).write_bytes(gzip.compress(data) if pack.endswith("gz") else data)
    files, losses = found(tmp_path / pack, tmp_path)
    assert [file.entry for file in files] == ["before.png"] + ["after.png"] * (not hostile)
    assert bool(losses) == bool(hostile)


# --- Entries of a zip ---


def test_an_entry_that_is_not_where_the_directory_of_a_zip_says_is_corrupt_and_spares_the_others(tmp_path):
    (tmp_path / "a.zip").write_bytes(zipped(CONTENTS).replace(b"PK\x03\x04", b"KP\x03\x04", 1))
    files, loss = only_loss(tmp_path / "a.zip", tmp_path)
    assert [file.entry for file in files] == list(CONTENTS)[1:]
    assert (loss.entry, loss.reason) == ("images/000.png", "corrupt")
    assert loss.detail.endswith("images/000.png: its directory points to no entry at byte 0; fetch the zip again")


def test_a_directory_that_points_to_an_entry_of_another_name_and_content_is_not_believed(tmp_path):
    data = bytearray(zipped({"a.png": b"x", "b.png": b"y"}))
    second = data.index(b"PK\x03\x04", 1)
    struct.pack_into("<I", data, data.index(b"PK\x01\x02") + 42, second)
    (tmp_path / "a.zip").write_bytes(data)
    files, loss = only_loss(tmp_path / "a.zip", tmp_path)
    assert [file.entry for file in files] == ["b.png"]
    assert (loss.entry, loss.reason) == ("a.png", "corrupt")
    assert f"an entry of another name at byte {second}" in loss.detail


def test_a_part_of_a_split_zip_is_one_loss_that_says_how_to_join_it(tmp_path):
    data = bytearray(zipped({"a.png": b"x"}))
    struct.pack_into("<H", data, data.index(b"PK\x01\x02") + 34, 1)  # on the second disk
    (tmp_path / "a.zip").write_bytes(data)
    files, loss = only_loss(tmp_path / "a.zip", tmp_path)
    assert not files
    assert "one of the parts of a split zip; join them: zip -s 0 IN.zip --out WHOLE.zip" in loss.detail


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.zip"])
@pytest.mark.parametrize(
    ("data", "command"),
    [
        (bz2.compress(tar({"x.png": b"x"})), "bzip2 -dc {} | gzip > a_unpacked.tar.gz"),
        (lzma.compress(tar({"x.png": b"x"})), "xz -dc {} | gzip > a_unpacked.tar.gz"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(99), "7z x {} -oa_unpacked"),
        (b"Rar!\x1a\x07" + bytes(99), "unrar x {} a_unpacked/"),
    ],
    ids=["bzip2", "xz", "7-Zip", "RAR"],
)
def test_a_container_that_is_another_one_than_its_name_says_names_the_command_that_unpacks_it(
    tmp_path, name, data, command
):
    (tmp_path / name).write_bytes(data)
    _, loss = only_loss(tmp_path / name, tmp_path)
    assert loss.reason == "unsupported_container"
    assert loss.detail.endswith(f"convert it: {command.format(name)}")


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [(20, 1 << 30, "truncated"), (42, 1 << 30, "corrupt"), (42, 7, "corrupt"), (8, 1, "encrypted")],
    ids=["size beyond the end", "place beyond the end", "place within another", "encrypted"],
)
def test_a_directory_that_lies_costs_the_entry_it_lies_about(tmp_path, field, value, reason):
    data = bytearray(zipped({"a.png": b"x" * 99, "b.png": b"y"}))
    place = data.index(b"PK\x01\x02") + field
    data[place : place + 4] = struct.pack("<I", value | (struct.unpack_from("<I", data, place)[0] if field == 8 else 0))
    (tmp_path / "a.zip").write_bytes(data)
    files, loss = only_loss(tmp_path / "a.zip", tmp_path)
    assert [file.entry for file in files] == ["b.png"]
    assert (loss.entry, loss.reason) == ("a.png", reason)
    assert loss.detail.startswith(f"{tmp_path}/a.zip!a.png: ")


def test_an_entry_that_is_packed_as_we_cannot_read_is_named_with_its_method(tmp_path):
    (tmp_path / "a.zip").write_bytes(zipped({"x.png": b"x"}, method=zipfile.ZIP_BZIP2))
    _, loss = only_loss(tmp_path / "a.zip", tmp_path)
    assert (loss.reason, "a.zip!x.png: compressed by bzip2; unpack the zip and pack it again" in loss.detail) == (
        "unsupported_compression",
        True,
    )


# --- An archive inside an archive ---


@pytest.mark.parametrize("pack", ["tar", "tar.gz", "zip, stored"])
@pytest.mark.parametrize("name", ["more.zip", "b/more.tar", "more.TAR.GZ", "more.tgz"])
def test_an_archive_inside_an_archive_is_not_opened_and_is_said(tmp_path, pack, name):
    url = packed(str(tmp_path), pack, {"a.png": b"x", name: zipped({"y.png": b"y"}), "z.png": b"z"})
    files, [loss] = found(url, tmp_path / "points")
    assert [file.entry for file in files] == ["a.png", "z.png"]
    assert (loss.entry, loss.reason) == (name, "nested_archive")
    assert loss.detail == f"{url}!{name}: an archive inside an archive; unpack the outer one and index what comes out"


# --- What is no damage ---


class Gone(io.BytesIO):
    """A file whose store stays away once its first bytes have been read."""

    def read(self, size: int | None = -1) -> bytes:
        if self.tell():
            raise StoreError("the store cannot be used")
        return super().read(1000)


@pytest.mark.parametrize("pack", ["tar", "tar.gz", "zip, stored"])
def test_a_store_that_goes_away_is_no_damage_to_its_containers(tmp_path, monkeypatch, pack):
    url = packed(str(tmp_path), pack)
    data = Path(url).read_bytes()
    monkeypatch.setattr(storage, "open_seekable", lambda url: Gone(data))
    with pytest.raises(StoreError, match="cannot be used"):
        list(entries(storage.stat(url), tmp_path / "points"))


def test_a_disk_that_cannot_be_read_is_no_damage_to_its_containers(tmp_path, monkeypatch):
    url = packed(str(tmp_path), "tar")

    def broken(url: str) -> io.BytesIO:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(storage, "open_seekable", broken)
    with pytest.raises(StoreError, match="Input/output error"):
        list(entries(storage.stat(url), tmp_path / "points"))


def test_what_the_file_below_a_gzip_raises_is_not_taken_for_damage_when_seek_points_are_made(tmp_path):
    with pytest.raises(StoreError, match="cannot be used"):
        gzips.write_seek_points(Gone(tar_gz(CONTENTS)), 9, 9, tmp_path, "a.tar.gz")


def test_the_seek_points_of_a_whole_tar_gz_are_those_of_indexed_gzip(tmp_path):
    url = packed(str(tmp_path), "tar.gz")
    found(url, tmp_path / "points")
    [points] = (tmp_path / "points").iterdir()
    with indexed_gzip.IndexedGzipFile(url, index_file=str(points)) as stream:
        assert stream.read(20).startswith(b"images/000.png")


@pytest.mark.parametrize(("error", "reason"), [(PermissionError, "denied"), (FileNotFoundError, "missing")])
def test_a_container_that_cannot_be_opened_is_one_loss(tmp_path, monkeypatch, error, reason):
    url = packed(str(tmp_path), "tar")

    def refused(url: str) -> io.BytesIO:
        raise error(url)

    monkeypatch.setattr(storage, "open_seekable", refused)
    [loss] = entries(storage.stat(url), tmp_path)
    assert (loss.url, loss.reason) == (url, reason)

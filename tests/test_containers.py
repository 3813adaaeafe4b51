"""Every entry of a container is found, whatever it is called, and names are never followed."""

import gzip
import random
import tarfile
import zipfile

import pytest
from builders import tar, tar_gz, zipped
from packed import CONTENTS, every_pack, found, listed, one_of_each, opened, packed

from cxrpipe import storage
from cxrpipe.archives.catalogue import Catalogue, view_of
from cxrpipe.archives.containers import entries as containers
from cxrpipe.archives.reader import Reader


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
    files, losses = found(tmp_path / "a.tar", tmp_path)
    assert [file.name for file in files] == ["file.png"]
    assert [(loss.entry, loss.reason) for loss in losses] == [
        ("2.png", "a link, not followed"),
        ("1.png", "a link, not followed"),
    ]


def test_links_and_folders_of_a_zip_are_no_files(tmp_path):
    link = zipfile.ZipInfo("link.png")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.mkdir("folder.png")
        archive.writestr(link, "/etc/passwd")
        archive.writestr("file.png", "x")
    files, losses = found(tmp_path / "a.zip", tmp_path)
    assert [file.name for file in files] == ["file.png"]
    assert [(loss.entry, loss.reason) for loss in losses] == [("link.png", "a link, not followed")]


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


TWICE = {
    "a.tar": tar({"a.png": b"first"})[:1024] + tar({"a.png": b"again"}),
    "a.tar.gz": gzip.compress(tar({"a.png": b"first"})[:1024] + tar({"a.png": b"again"})),
    "a.zip": zipped({"a.png": b"first", "b.png": b"again"}).replace(b"b.png", b"a.png"),
}


@pytest.mark.parametrize("name", TWICE)
def test_entries_of_one_name_are_each_found_and_read(tmp_path, name):
    (tmp_path / name).write_bytes(TWICE[name])
    views, reader = opened(str(tmp_path / name), tmp_path)
    with reader:
        assert [(view.entry, reader.read(view)) for view in views] == [("a.png", b"first"), ("a.png", b"again")]


def test_a_name_of_an_old_zip_is_read_as_code_page_437(tmp_path):
    (tmp_path / "a.zip").write_bytes(zipped({"Rontgen.png": b"x"}).replace(b"Rontgen", b"R\x94ntgen"))
    views, reader = opened(str(tmp_path / "a.zip"), tmp_path)
    assert [(view.entry, reader.read(view)) for view in views] == [("Röntgen.png", b"x")]


def test_a_zip_of_more_than_its_first_format_can_say_is_read(tmp_path, monkeypatch):
    """Zip64: sizes, places and number of entries stand in fields of their own."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1000)
    (tmp_path / "a.zip").write_bytes(b"before" + zipped(CONTENTS, method=zipfile.ZIP_STORED))
    assert b"PK\x06\x06" in (tmp_path / "a.zip").read_bytes()
    views, reader = opened(str(tmp_path / "a.zip"), tmp_path)
    assert {view.entry: reader.read(view) for view in views} == CONTENTS


def test_hundreds_of_containers_in_folders_of_folders_are_one_archive(tmp_path):
    names = [f"{number % 7}/{number % 5}/{number}.{kind}" for number in range(70) for kind in ("zip", "tar", "tar.gz")]
    for name in names:
        pack = {"zip": zipped, "tar": tar}.get(name.rpartition(".")[2], tar_gz)
        storage.write(str(tmp_path / "archive" / name), pack({"x.png": name.encode()}))
    catalogue = Catalogue(str(tmp_path / "archive"), tmp_path / "points")
    with Reader(str(tmp_path / "points")) as reader:
        read = {file.name: reader.read(view_of(file)) for file in catalogue.files()}
    assert read == {f"{name}/x.png": name.encode() for name in names}

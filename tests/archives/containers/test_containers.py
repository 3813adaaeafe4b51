"""Every entry of a container is found, whatever it is called, and names are never followed."""

import gzip
import io
import random
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest
from builders import tar, tar_gz, zipped
from packed import CONTENTS, every_pack, found, listed, one_of_each, opened, packed, views_of

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


def test_folders_and_devices_of_a_tar_are_no_files(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for kind in (tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            entry = tarfile.TarInfo(f"{kind.decode()}.png")
            entry.type = kind
            archive.addfile(entry)
        archive.addfile(tarfile.TarInfo("file.png"))
    files, losses = found(tmp_path / "a.tar", tmp_path)
    assert [file.name for file in files] == ["file.png"]
    assert [(loss.entry, loss.reason) for loss in losses] == [("6.png", "special_file"), ("3.png", "special_file")]


LINKS = {
    "hard.png": (tarfile.LNKTYPE, "images/x.png"),
    "images/soft.png": (tarfile.SYMTYPE, "./x.png"),
    "again.png": (tarfile.SYMTYPE, "images/soft.png"),
    "up.png": (tarfile.SYMTYPE, "../../etc/passwd"),
    "images/root.png": (tarfile.SYMTYPE, "/etc/passwd"),
    "loop.png": (tarfile.SYMTYPE, "loop.png"),
    "folder.png": (tarfile.SYMTYPE, "images"),
    "gone.png": (tarfile.LNKTYPE, "gone"),
}
FOLLOWED = ("hard.png", "images/soft.png", "again.png")


def linked_tar(path: Path, mode: str = "w") -> None:
    """Links of every kind, before and behind what they lead to."""
    with tarfile.open(path, mode) as archive:
        for number, (name, (kind, target)) in enumerate(LINKS.items()):
            if number == 2:
                entry = tarfile.TarInfo("images/x.png")
                entry.size = 5
                archive.addfile(entry, io.BytesIO(b"right"))
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, target
            archive.addfile(entry)


def linked_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images/x.png", "right")
        for name, (_, target) in LINKS.items():
            link = zipfile.ZipInfo(name)
            link.create_system, link.external_attr, link.compress_type = 3, 0o120777 << 16, zipfile.ZIP_DEFLATED
            archive.writestr(link, target)


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.zip"])
def test_a_link_inside_a_container_is_the_file_that_it_leads_to_and_others_are_counted(tmp_path, name):
    made = tmp_path / "archive" / name
    made.parent.mkdir()
    linked_zip(made) if name == "a.zip" else linked_tar(made, "w:gz" if name.endswith("gz") else "w")
    catalogue = Catalogue(str(made), tmp_path / "points")
    with Reader(str(tmp_path / "points")) as reader:
        read = {file.name: reader.read(view_of(file)) for file in catalogue.files()}
    assert read == dict.fromkeys(["images/x.png", *FOLLOWED], b"right")
    assert {(loss.entry, loss.reason) for loss in catalogue.lost} == {
        (link, "link") for link in LINKS if link not in FOLLOWED
    }


WINDOWS = {
    "train\\NORMAL\\1.png": "train/NORMAL/1.png",
    "C:\\data\\2.png": "data/2.png",
    "c:/data/3.png": "data/3.png",
    "\\\\server\\share\\4.png": "server/share/4.png",
    "..\\..\\5.png": "5.png",
    ".\\6.png": "6.png",
    "//7.png": "7.png",
    "a//b/./8.png": "a/b/8.png",
    "/etc/../9.png": "etc/9.png",
    "a:b/x.10.png": "a:b/x.10.png",
}


@one_of_each
def test_a_name_has_slashes_between_folders_and_no_way_out_however_it_was_packed(tmp_path, pack):
    url = packed(str(tmp_path), pack, {name: name.encode() for name in WINDOWS})
    files = listed(url, tmp_path / "points")
    assert {file.entry: file.name for file in files} == WINDOWS
    with Reader(str(tmp_path / "points")) as reader:
        assert {view.entry: reader.read(view) for view in views_of(files)} == {name: name.encode() for name in WINDOWS}


def test_folders_of_a_zip_are_no_files_whatever_ends_their_names(tmp_path):
    (tmp_path / "a.zip").write_bytes(zipped({"a/": b"", "b\\": b"", "b\\x.png": b"x"}))
    assert [file.name for file in listed(tmp_path / "a.zip", tmp_path)] == ["b/x.png"]


def test_a_file_called_by_another_container_s_suffix_is_read_as_what_it_is(tmp_path):
    """A browser unpacks a tar.gz and leaves its name; a person renames a zip."""
    for name, data in {"a.tar.gz": tar(CONTENTS), "b.tar": tar_gz(CONTENTS), "c.tar": zipped(CONTENTS)}.items():
        (tmp_path / name).write_bytes(data)
        views, reader = opened(str(tmp_path / name), tmp_path / "points")
        with reader:
            assert {view.entry: reader.read(view) for view in views} == CONTENTS, name


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


# --- Tar: headers of every kind ---


def with_headers(records: dict[str, str], name: str = "n" * 200 + ".png") -> bytes:
    """A tar in PAX format, with an entry before it; `records` are those of the entry."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for each, content, own in (("first.png", b"first", {}), (name, b"second", records)):
            entry = tarfile.TarInfo(each)
            entry.size, entry.pax_headers = len(content), own
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


TARS = {
    "PAX records of 6 KB": with_headers({"SCHILY.xattr.user.note": "x" * 6000}),
    "PAX records of 900 KB": with_headers({f"comment.{number}": "x" * 90_000 for number in range(10)}),
    "a PAX size": with_headers({"size": "6"}),
    "a PAX path": with_headers({"path": "other/" + "m" * 300 + ".png"}),
    "a GNU name of 9 KB": tar({"first.png": b"first", "n" * 9000 + ".png": b"second"}),
    "global PAX records": tar({}, form=tarfile.PAX_FORMAT)[:0]
    + tarfile.TarInfo.create_pax_global_header({"comment": "made by git"})
    + with_headers({}),
    "ustar": tar({"first.png": b"first", "f/" * 60 + "x.png": b"second"}, form=tarfile.USTAR_FORMAT),
    "two tars in one": tar({"first.png": b"first"}) + tar({"second.png": b"second"}),
    "zeros in the middle": tar({"first.png": b"first"})[:1024] + bytes(512) + tar({"second.png": b"second"}),
}


def old(data: bytes) -> bytes:
    """The same tar as V7 wrote it: without a magic, a version and owners."""
    made = bytearray(data)
    for at in range(0, 2048, 1024):
        made[at + 257 : at + 512], made[at + 148 : at + 156] = bytes(255), b" " * 8
        made[at + 148 : at + 156] = b"%06o\0 " % sum(made[at : at + 512])
    return bytes(made)


def to_base_256(data: bytes) -> bytes:
    """The same tar with the sizes of files beyond 8 GB, as GNU tar and star write them."""
    made = bytearray(data)
    for at in range(0, 2048, 1024):
        size = int(bytes(made[at + 124 : at + 135]), 8)
        made[at + 124 : at + 136], made[at + 148 : at + 156] = b"\x80" + size.to_bytes(11, "big"), b" " * 8
        made[at + 148 : at + 156] = b"%06o\0 " % sum(made[at : at + 512])
    return bytes(made)


TARS["V7"] = old(tar({"first.png": b"first", "second.png": b"second"}))
TARS["sizes to base 256"] = to_base_256(tar({"first.png": b"first", "second.png": b"second"}))


@pytest.mark.parametrize("pack", ["a.tar", "a.tar.gz"])
@pytest.mark.parametrize("kind", TARS)
def test_what_is_indexed_of_a_tar_is_read(tmp_path, kind, pack):
    (tmp_path / pack).write_bytes(gzip.compress(TARS[kind]) if pack.endswith("gz") else TARS[kind])
    views, reader = opened(str(tmp_path / pack), tmp_path / "points")
    with reader:
        assert [reader.read(view) for view in views] == [b"first", b"second"]


def test_a_sparse_entry_is_counted_and_spares_the_others(tmp_path):
    data = bytearray(tar({"sparse.png": b"x" * 512, "x.png": b"right"}))
    data[156:157], data[148:156] = tarfile.GNUTYPE_SPARSE, b" " * 8
    data[386:398], data[398:410], data[483:495] = b"00000000000\0", b"00000001000\0", b"00000001000\0"
    data[148:156] = b"%06o\0 " % sum(data[:512])
    (tmp_path / "a.tar").write_bytes(data)
    files, [loss] = found(tmp_path / "a.tar", tmp_path)
    assert [file.name for file in files] == ["x.png"]
    assert (loss.entry, loss.reason) == ("sparse.png", "sparse")


# --- Zip: names of every kind ---


def renamed(data: bytes, old: bytes, *, local: bytes | None = None, central: bytes | None = None) -> bytes:
    """A zip in which the first name stands otherwise in the local header, or in the directory; of the same length."""
    first, second = data.index(old), data.rindex(old)
    made = bytearray(data)
    made[first : first + len(old)] = local or old
    made[second : second + len(old)] = central or old
    return bytes(made)


def streamed(files: dict[str, bytes]) -> bytes:
    """A zip whose checksums and sizes stand behind the data."""

    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *_: int) -> int:
            raise OSError

    packed = Pipe()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


def with_unicode_path(name: str) -> bytes:
    """As Info-ZIP writes a name beside one in code page 437."""
    entry = zipfile.ZipInfo("R?ntgen.png")
    field = b"\x01" + struct.pack("<I", zlib.crc32(b"R?ntgen.png")) + name.encode()
    entry.extra = struct.pack("<HH", 0x7075, len(field)) + field
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(entry, b"right")
    return packed.getvalue()


def flagged(data: bytes, name: bytes, spelled: bytes) -> bytes:
    """A zip that calls a name UTF-8."""
    made = bytearray(data.replace(name, spelled))
    made[made.index(spelled) - 24 + 1] |= 0x08
    made[made.rindex(spelled) - 38 + 1] |= 0x08
    return bytes(made)


ZIPS = {
    "a slash in the directory": (renamed(zipped({"a\\x.png": b"right"}), b"a\\x.png", central=b"a/x.png"), "a/x.png"),
    "a slash in the local header": (renamed(zipped({"a\\x.png": b"right"}), b"a\\x.png", local=b"a/x.png"), "a/x.png"),
    "sizes behind the data": (streamed({"a/x.png": b"right"}), "a/x.png"),
    "sizes behind the data, and a slash": (
        renamed(streamed({"a/x.png": b"right"}), b"a/x.png", local=b"a\\x.png"),
        "a/x.png",
    ),
    "another encoding": (
        renamed(zipped({"R?ntgen.png": b"right"}), b"R?ntgen.png", local=b"R\xf6ntgen.png"),
        "R?ntgen.png",
    ),
    "Info-ZIP's Unicode path": (with_unicode_path("Röntgen.png"), "Röntgen.png"),
    "a name that is called UTF-8 and is not": (
        flagged(zipped({"Rontgen.png": b"right"}), b"Rontgen.png", b"R\x94ntgen.png"),
        "Röntgen.png",
    ),
    "an extra field of a wrong length": (
        with_unicode_path("x").replace(struct.pack("<HH", 0x7075, 6), struct.pack("<HH", 0x7075, 99)),
        "R?ntgen.png",
    ),
    "a version of tomorrow": (
        zipped({"x.png": b"right"}).replace(b"PK\x01\x02\x14\x03\x14", b"PK\x01\x02\x14\x03\x60"),
        "x.png",
    ),
    "a comment at its end": (zipped({"x.png": b"right"})[:-2] + b"\x05\0Hello", "x.png"),
}


@pytest.mark.parametrize("kind", ZIPS)
def test_the_directory_of_a_zip_is_believed_and_its_entries_are_read(tmp_path, kind):
    data, name = ZIPS[kind]
    (tmp_path / "a.zip").write_bytes(data)
    files = listed(tmp_path / "a.zip", tmp_path)
    with Reader(str(tmp_path)) as reader:
        assert [(file.name, reader.read(view_of(file))) for file in files] == [(name, b"right")]


def test_one_name_that_is_not_utf8_spares_the_others_of_a_zip(tmp_path):
    data = zipped({"Rontgen.png": b"1", "\u80f8.png": b"2", "x.png": b"3"})
    (tmp_path / "a.zip").write_bytes(flagged(data, b"Rontgen.png", b"R\x94ntgen.png"))
    names = [file.name for file in listed(tmp_path / "a.zip", tmp_path)]
    assert names == ["Röntgen.png", "\u80f8.png", "x.png"]

"""An index of an archive with broken containers holds all that is whole, and says what is lost."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from builders import png, radiograph, tar, tar_gz, zipped
from catalogued import nih, put

from cxrpipe import cli, storage
from cxrpipe.archives.index import index
from cxrpipe.archives.reader import Reader
from cxrpipe.archives.study_table_writer import IndexCounts
from cxrpipe.errors import ConfigError
from cxrpipe.programs.index import print_counts
from cxrpipe.records.study_table import StudyTable
from cxrpipe.storage import join

IMAGES = {f"{number:08}_000.png": png(radiograph(seed=number)) for number in range(40)}


def indexed(archive: str, out: str) -> tuple[IndexCounts, StudyTable, list[dict]]:
    """The account, the table, and what was skipped."""
    account = index(archive, join(out, "studies.parquet"))
    return (
        account,
        StudyTable(join(out, "studies.parquet")),
        storage.read_table(join(out, "skipped.parquet")).to_pylist(),
    )


def contents(table: StudyTable) -> dict[str, bytes]:
    with Reader(table.seek_points) as reader:
        return {f"{study.study_id}.png": reader.read(study.views[0]) for study in table.studies()}


@pytest.mark.parametrize(("name", "pack"), [("images_001.tar.gz", tar_gz), ("images_001.tar", tar)])
def test_the_studies_before_a_cut_are_catalogued_and_read(anywhere, capsys, name, pack):
    archive = nih(join(anywhere, "nih"), rows=dict.fromkeys(IMAGES, "No Finding,0,1,050Y,F,PA"), images=[])
    storage.delete(join(archive, "images_001.tar.gz"))
    whole = pack({f"images/{image}": data for image, data in IMAGES.items()})
    storage.write(join(archive, name), whole[: int(len(whole) * 0.605)])
    account, table, skipped = indexed(archive, join(anywhere, "out"))
    read = contents(table)
    assert read == dict(list(IMAGES.items())[: len(read)])
    assert 22 <= len(read) <= 25
    assert account.unmatched == len(IMAGES) - len(read)
    url, (lost, last) = join(archive, name), [list(IMAGES)[len(read)], list(read)[-1]]
    said = f"{url} is cut short at byte {int(len(whole) * 0.605):,}: what follows images/{last} is lost; fetch it again"
    assert skipped == [
        {"url": url, "entry": f"images/{lost}", "reason": "truncated", "detail": None},
        {"url": url, "entry": None, "reason": "truncated", "detail": said},
    ]
    print_counts(account)
    assert f"Lost: {said}\n" in capsys.readouterr().out


def test_one_broken_container_of_many_costs_its_own_studies_only(tmp_path):
    archive = str(tmp_path / "archive")
    for number, (name, data) in enumerate(list(IMAGES.items())[:6]):
        whole = zipped({name: data})
        put(archive, f"{number}.zip", content=whole[:-30] if number == 2 else whole)
    account, table, [skipped] = indexed(archive, str(tmp_path / "out"))
    assert account.studies == 5
    assert (skipped["url"], skipped["reason"]) == (join(archive, "2.zip"), "truncated")
    assert sorted(contents(table)) == [f"{number}.zip/{number:08}_000.png" for number in (0, 1, 3, 4, 5)]


@pytest.mark.parametrize(
    "contents",
    [
        {"a.zip": b"not a zip", "b.tar.gz": tar_gz(IMAGES)[:40], "c.tar": b""},
        {"a.zip": zipped({"more/b.zip": zipped(IMAGES), "c.tar.gz": tar_gz(IMAGES)})},
        {"a.zip": zipped({"more/b.zip": zipped(IMAGES), "readme.txt": b"unpack me"})},
    ],
    ids=["nothing but damage", "nothing but archives", "archives and a note"],
)
def test_an_archive_with_nothing_to_read_is_refused_in_one_line(tmp_path, capsys, contents):
    for name, data in contents.items():
        put(str(tmp_path / "archive"), name, content=data)
    out = str(tmp_path / "out" / "studies.parquet")
    with pytest.raises(SystemExit) as left:
        cli.main("index", ["--archive", str(tmp_path / "archive"), "--out", out, "--layout", "images"])
    assert left.value.code == 2
    complaint = capsys.readouterr().err.splitlines()[-1]
    assert f"{tmp_path}/archive: no study can be read; {tmp_path}/archive/a.zip" in complaint
    assert ("unpack the outer one" in complaint) == ("b.tar.gz" not in contents)
    assert not (tmp_path / "out").exists()


def test_an_archive_of_nothing_but_archives_is_told_to_be_unpacked(tmp_path):
    put(str(tmp_path), "outer.tar", content=tar({"inner.zip": zipped(IMAGES)}))
    with pytest.raises(ConfigError, match=r"outer\.tar!inner\.zip: an archive inside an archive; unpack the outer one"):
        index(str(tmp_path / "outer.tar"), str(tmp_path / "out" / "studies.parquet"))


def test_a_stray_archive_beside_images_is_skipped_and_said(tmp_path, capsys):
    name, data = next(iter(IMAGES.items()))
    put(str(tmp_path), "a.zip", content=zipped({name: data, "old.tgz": tar_gz(IMAGES), "__MACOSX/._old.tgz": b"x"}))
    account, table, [skipped, hidden] = indexed(str(tmp_path / "a.zip"), str(tmp_path / "out"))
    assert contents(table) == {name: data}
    assert (skipped["entry"], skipped["reason"]) == ("old.tgz", "nested_archive")
    assert (hidden["entry"], hidden["reason"]) == ("__MACOSX/._old.tgz", "system_file")
    print_counts(account)
    printed = capsys.readouterr().out
    assert "Skipped: 1 files (nested_archive: an archive inside an archive; unpack the outer one)" in printed
    assert "old.tgz: an archive inside an archive; unpack the outer one and index what comes out" in printed


def test_a_long_account_of_losses_is_cut(tmp_path, capsys):
    put(str(tmp_path), "a.zip", content=zipped({"a.png": b"x", **{f"{number}.zip": b"x" for number in range(15)}}))
    account, _, skipped = indexed(str(tmp_path / "a.zip"), str(tmp_path / "out"))
    print_counts(account)
    assert len(skipped) == 15
    assert capsys.readouterr().out.count("Lost: ") == 11


def test_the_table_holds_the_checksums_of_a_zip_and_of_nothing_else(tmp_path):
    put(str(tmp_path / "a"), "a.zip", content=zipped({"a.png": b"123456789"}))
    put(str(tmp_path / "a"), "b.tar", content=tar({"b.png": b"x"}))
    put(str(tmp_path / "a"), "c.png")
    indexed(str(tmp_path / "a"), str(tmp_path / "out"))
    rows = pq.read_table(Path(tmp_path / "out" / "studies.parquet")).to_pylist()
    assert {row["study_id"]: row["views"][0]["crc32"] for row in rows} == {
        "a.zip/a": 0xCBF43926,
        "b.tar/b": None,
        "c": None,
    }

"""A second index opens only what has changed, and makes the table that a fresh one makes."""

import contextlib
import functools
import itertools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from builders import tar_gz, zipped
from catalogued import nih, put
from dicoms import dicom
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrpipe import storage
from cxrpipe.archives import contents as listed_contents
from cxrpipe.archives.index import index
from cxrpipe.archives.reader import Reader
from cxrpipe.errors import ConfigError
from cxrpipe.records.study_table import StudyTable
from cxrpipe.storage import join

Archive = dict[int, int]
"""Number of a file → number of its content: a night's arrivals, changes and removals make another one."""
RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def image(content: int) -> bytes:
    """Of one length, whatever it holds: no index looks into it."""
    return b"image %d" % content


@functools.cache
def instance(content: int) -> bytes:
    """Three studies of two instances each, a CT and something else."""
    if content == 7:
        return b"not DICOM at all"
    modality = "CT" if content == 6 else "CR"
    return dicom(RAMP, StudyInstanceUID=f"1.{content // 2}", SOPInstanceUID=f"1.{content}", Modality=modality)


def images(files: Archive) -> dict[str, bytes]:
    return {f"2026/{number}.png": image(content) for number, content in files.items()} | {"readme.txt": b"Images."}


def folders_in_zips(files: Archive) -> dict[str, bytes]:
    packed: list[dict[str, bytes]] = [{"NORMAL/0.png": image(0), "Mass/0.png": image(1)}, {}]
    for number, content in files.items():
        packed[number % 2][f"{('NORMAL', 'Mass')[content % 2]}/{number}.png"] = image(content)
    return {f"{number}.zip": zipped(files) for number, files in enumerate(packed)}


def nih_tars(files: Archive) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        rows = {f"{number:08}_000.png": f"Mass,0,{number},50,F,PA" for number in range(6)}
        nih(folder, rows=rows)
        table = (Path(folder) / "Data_Entry_2017_v2020.csv").read_bytes()
    packed: list[dict[str, bytes]] = [{"images/00000099_000.png": image(0)}, {}, {}]
    for number, content in files.items():
        packed[number % 3][f"images/{number:08}_000.png"] = image(content)
    return {"Data_Entry_2017_v2020.csv": table} | {
        f"images_{number:03}.tar.gz": tar_gz(files) for number, files in enumerate(packed)
    }


def dicom_tree(files: Archive) -> dict[str, bytes]:
    tree = {f"a/IM{number}": instance(content) for number, content in files.items() if number % 2}
    packed = {f"p/IM{number}": instance(content) for number, content in files.items() if number % 2 == 0}
    first = dicom(RAMP, StudyInstanceUID="1.99", SOPInstanceUID="1.99.1", PixelSpacing=[0.1, 0.3])
    return tree | {"batch.zip": zipped(packed), "first.dcm": first}


class Night:
    """A folder that is brought from one state to the next, every changed file with a time of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._files, self._time = folder, dict[str, bytes](), itertools.count(1_000)

    def become(self, files: dict[str, bytes]) -> None:
        for name in self._files.keys() - files.keys():
            (self.folder / name).unlink()
        for name, content in files.items():
            if self._files.get(name) != content:
                put(str(self.folder), name, content=content)
                os.utime(self.folder / name, (next(self._time),) * 2)
        self._files = files


def contents(out: str) -> dict[str, list]:
    """All that an index writes as tables, row for row."""
    folder = Path(out).parent
    return {path.name: pq.read_table(path).to_pylist() for path in folder.glob("*.parquet")}


nights = st.lists(st.dictionaries(st.integers(0, 4), st.integers(0, 7), min_size=2), min_size=2, max_size=3)


@pytest.mark.parametrize(
    ("build", "layout"),
    [(images, "images"), (folders_in_zips, "folders"), (nih_tars, "nih"), (dicom_tree, "dicom")],
)
@settings(max_examples=4)
@given(nights)
def test_a_later_index_makes_the_table_of_a_fresh_one(build: Callable, layout: str, nights: list[Archive]):
    with tempfile.TemporaryDirectory() as made:
        folder, previous = Path(made), None
        archive = Night(folder / "archive")
        for number, night in enumerate(nights):
            archive.become(build(night | {9: 1}))
            fresh, later = str(folder / f"fresh{number}/studies.parquet"), str(folder / f"{number}/studies.parquet")
            index(str(archive.folder), fresh, layout=layout)
            index(str(archive.folder), later, layout=layout, previous=previous)
            assert contents(later) == contents(fresh)
            previous = later


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Containers that are listed, and objects of which bytes are read: the last part of each name."""
    told: list[str] = []
    entries, read = listed_contents.entries, storage.read

    def tell(url: str) -> None:
        if not url.endswith((".gzidx", ".parquet")):
            told.append(url.rpartition("/")[2])

    monkeypatch.setattr(listed_contents, "entries", lambda found, where: tell(found.url) or entries(found, where))
    monkeypatch.setattr(storage, "read", lambda url, *place: tell(url) or read(url, *place))
    return told


def test_only_changed_containers_are_opened(anywhere, tmp_path, opened):
    archive, out = join(anywhere, "archive"), join(anywhere, "table", "studies.parquet")
    put(archive, "a.zip", content=zipped({"NORMAL/1.png": image(1)}))
    put(archive, "b.tar.gz", content=tar_gz({"Mass/2.png": image(2)}))
    put(archive, "c.tar.gz", content=tar_gz({"Mass/3.png": image(3)}))
    index(archive, out)
    assert opened == ["a.zip", "b.tar.gz", "c.tar.gz"]
    opened.clear()
    put(archive, "c.tar.gz", content=tar_gz({"Mass/3.png": image(3), "Mass/4.png": image(4)}))
    index(archive, out, previous=out)
    assert opened == ["c.tar.gz"]
    table = StudyTable(out)
    with Reader(table.seek_points) as reader:
        assert [reader.read(study.views[0]) for study in table.studies()] == [image(n) for n in (1, 2, 3, 4)]


def test_only_headers_of_changed_files_are_read(anywhere, opened):
    archive, out = join(anywhere, "archive"), join(anywhere, "table", "studies.parquet")
    put(archive, "a.dcm", content=instance(0))
    put(archive, "b.dcm", content=instance(1))
    put(archive, "ct.dcm", content=instance(6))
    put(archive, "p.zip", content=zipped({"c.dcm": instance(2)}))
    index(archive, out)
    opened.clear()
    put(archive, "b.dcm", content=instance(3))
    put(archive, "d.dcm", content=instance(4))
    index(archive, out, previous=out)
    assert sorted(opened) == ["b.dcm", "d.dcm"]
    assert [study.study_id for study in StudyTable(out).studies()] == ["1.0", "1.1", "1.2"]


def test_a_file_that_was_denied_is_read_again(tmp_path, monkeypatch):
    archive, out = str(tmp_path / "archive"), str(tmp_path / "table" / "studies.parquet")
    put(archive, "a.dcm", content=instance(0))
    put(archive, "b.dcm", content=instance(2))
    read = storage.read

    def refuse(url: str, *place: int) -> bytes:
        if url.endswith("b.dcm"):
            raise PermissionError
        return read(url, *place)

    with monkeypatch.context() as patched:
        patched.setattr(storage, "read", refuse)
        assert index(archive, out, layout="dicom").skipped == {"denied": 1}
    assert index(archive, out, previous=out).studies == 2


def test_a_tar_gz_that_lost_its_seek_points_is_read_again(tmp_path, opened):
    archive, out = str(tmp_path / "archive"), str(tmp_path / "table" / "studies.parquet")
    put(archive, "a.tar.gz", content=tar_gz({"NORMAL/1.png": image(1), "Mass/2.png": image(2)}))
    index(archive, out)
    storage.delete_below(str(tmp_path / "table" / "seek_points"))
    index(archive, out, previous=out)
    assert opened == ["a.tar.gz"] * 2


@pytest.mark.parametrize("indexed_before", [True, False])
@pytest.mark.parametrize("written", range(6))
def test_an_index_that_breaks_while_it_writes_is_mended_by_the_next(tmp_path, monkeypatch, written, indexed_before):
    archive, out = str(tmp_path / "archive"), str(tmp_path / "table" / "a.parquet")
    before = {"train/patient1/study1/view1_frontal.jpg": image(1)}
    after = {"train/patient2/study1/view1_frontal.jpg": image(2)} | before
    if indexed_before:
        put(archive, "a.tar.gz", content=tar_gz(before))
        index(archive, out)
    put(archive, "a.tar.gz", content=tar_gz(after))
    upload, left = storage.upload_file, iter(range(written))

    def until_full(path: Path, url: str) -> None:
        next(left)
        upload(path, url)

    with monkeypatch.context() as patched, contextlib.suppress(StopIteration):
        patched.setattr(storage, "upload_file", until_full)
        index(archive, out, previous=out if indexed_before else None)
    index(archive, out, previous=out if storage.stat(out) else None)
    with Reader(str(tmp_path / "table" / "seek_points")) as reader:
        read = {reader.read(study.views[0]) for study in StudyTable(out).studies()}
    assert read == {image(1), image(2)}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            {"archive": "other"},
            r"previous table has archive .*/archive; expected .*/other: name a table with",
        ),
        ({"layout": "images"}, "previous table has layout folders; expected images"),
        ({"split_seed": 3}, "previous table has split_seed 0; expected 3"),
        ({"previous": "absent/studies.parquet"}, "no study table there"),
    ],
)
def test_a_previous_table_of_something_else_is_refused(tmp_path, change, complaint):
    for name in ("archive", "other"):
        put(str(tmp_path / name), "NORMAL/1.png", "Mass/2.png")
    out = str(tmp_path / "table" / "studies.parquet")
    index(str(tmp_path / "archive"), out)
    asked = {"archive": "archive", "previous": "table/studies.parquet", "split_seed": 0, "layout": "auto"} | change
    with pytest.raises(ConfigError, match=complaint):
        index(
            str(tmp_path / asked["archive"]),
            str(tmp_path / "new.parquet"),
            layout=asked["layout"],
            split_seed=asked["split_seed"],
            previous=str(tmp_path / asked["previous"]),
        )


def test_a_previous_table_without_its_files_is_refused(tmp_path):
    archive, out = put(str(tmp_path / "archive"), "NORMAL/1.png", "Mass/2.png"), tmp_path / "table" / "studies.parquet"
    index(archive, str(out))
    out.with_name("files.parquet").unlink()
    with pytest.raises(ConfigError, match=r"no files\.parquet beside the study table; index without --previous"):
        index(archive, str(out), previous=str(out))


def test_files_that_another_version_kept_are_not_used(tmp_path, opened, capsys):
    archive, out = str(tmp_path / "archive"), tmp_path / "table" / "studies.parquet"
    put(archive, "a.zip", content=zipped({"NORMAL/1.png": image(1), "Mass/2.png": image(2)}))
    index(archive, str(out))
    kept = out.with_name("files.parquet")
    pq.write_table(pq.read_table(kept).replace_schema_metadata({"files_version": "0"}), kept)
    index(archive, str(out), previous=str(out))
    assert opened == ["a.zip"] * 2
    assert "another version of cxrpipe" in capsys.readouterr().err

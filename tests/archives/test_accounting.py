"""Every file of an archive is a view, a mask, a table that was read, or skipped with a reason."""

import os
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from builders import png, radiograph, tar, tar_gz, zipped
from catalogued import IMAGE, NIH_ROWS, found, kermany, montgomery, nih, put, rest, studies, table
from dicoms import dicom

from cxrpipe import storage
from cxrpipe.archives import aside
from cxrpipe.archives.catalogue import Catalogue
from cxrpipe.archives.index import index
from cxrpipe.archives.layouts.base import Skipped, Table
from cxrpipe.errors import ConfigError
from cxrpipe.programs.index import print_counts
from cxrpipe.records import REASONS, Study
from cxrpipe.storage import join, s3

LITTER = {
    "@eaDir/a.png/SYNOPHOTO_THUMB_XL.jpg": "thumbnail",
    ".@__thumb/s800a.png": "thumbnail",
    "x/Thumbs.db": "thumbnail",
    "#recycle/old.png": "recycle_bin",
    "$RECYCLE.BIN/S-1-5/$R1.png": "recycle_bin",
    ".Trash-1000/files/old.png": "recycle_bin",
    "@Recycle/old.png": "recycle_bin",
    "#snapshot/GMT+01/old.png": "snapshot",
    "System Volume Information/IndexerVolumeGuid": "system_file",
    "lost+found/#1234.png": "system_file",
    "__MACOSX/x/._a.png": "system_file",
    "x/desktop.ini": "system_file",
    "x/._a.png": "hidden",
    ".DS_Store": "hidden",
    ".cache/a.png": "hidden",
    "x_$folder$": "folder_marker",
}
PACKED = {
    "a.tar.bz2": "bzip2 -dc a.tar.bz2 | gzip > a.tar.gz",
    "a.TXZ": "xz -dc a.TXZ | gzip > a.tar.gz",
    "a.tar.zst": "zstd -dc a.tar.zst | gzip > a.tar.gz",
    "a.7z": "7z x a.7z -oa",
    "my films.rar": "unrar x 'my films.rar' 'my films'/",
    "a.part02.rar": "unrar x a.part02.rar a/",
    "disc.iso": "7z x disc.iso -odisc",
    "a.zip.001": "cat a.zip.* > a.zip",
    "a.tar.gz.aa": "cat a.tar.gz.* > a.tar.gz",
    "a.z01": "zip -s 0 a.zip --out a_whole.zip",
    "a.dcm.gz": "gunzip a.dcm.gz",
    "a.PNG.xz": "unxz a.PNG.xz",
    "a.nii.gz": "export PNG or DICOM from it",
}
RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def reasons(archive: str, layout: str = "auto") -> dict[str, str]:
    """Name of each skipped file, in its archive or in its container → reason."""
    return {
        each.entry or each.url.removeprefix(archive).lstrip("/"): each.reason
        for each in rest(archive, layout)
        if isinstance(each, Skipped)
    }


# --- The identity ---


def images(folder: str) -> None:
    put(folder, "a.png", "b/c.tiff", "notes.txt", "b/report.pdf", "a.7z", *LITTER)
    put(folder, "old.zip", content=zipped({"d.png": IMAGE, "x.txt": b"x", ".e.png": IMAGE, "f.tgz": b"x", "d/g": b""}))


def classes(folder: str) -> None:
    put(folder, *kermany("train", "test"), "readme.md", "chest_xray/labels.csv", "x.dcm", *LITTER)


def nih_set(folder: str) -> None:
    nih(folder, images=[*NIH_ROWS, "montage.png"], test_list=list(NIH_ROWS)[:1])
    put(folder, "BBox_List_2017.csv", "LOG.txt", "README.pdf", *LITTER)


def lungs(folder: str) -> None:
    montgomery(folder, ["a", "b"], ["a", "c"], ["a", "b"])
    put(folder, "MontgomerySet/ClinicalReadings/a.txt", "MontgomerySet/NLM.pdf", "x.png", *LITTER)


def mine(folder: str) -> None:
    table(folder, "study_id,path,mask_path\ns,1.png,m.png\nt,2.png,\n")
    put(folder, "1.png", "2.png", "m.png", "3.png", "4.dcm", "notes.txt", *LITTER)


def dicoms(folder: str) -> None:
    for number, modality in enumerate(["CR", "DX", "CT"]):
        one = dicom(RAMP, StudyInstanceUID=f"1.{number}", SOPInstanceUID=f"1.{number}.1", Modality=modality)
        put(folder, f"IM{number}", content=one)
    put(folder, "DICOMDIR.txt", content=b"x")
    put(folder, *LITTER)


def medmnist(folder: str) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    np.savez(Path(folder, "pneumoniamnist.npz"), train_images=np.zeros((3, 28, 28), np.uint8))
    put(folder, "readme.txt", "a.png", *LITTER)


def chexpert(folder: str) -> None:
    names = [f"train/patient0000{number}/study1/view1_frontal.jpg" for number in range(3)]
    rows = "Path,Sex,Age,Frontal/Lateral,AP/PA,Pneumonia\n" + "".join(
        f"CheXpert-v1.0-small/{name},F,50,Frontal,AP,1\n" for name in names
    )
    put(folder, "a.zip", content=zipped(dict.fromkeys(names, IMAGE) | {"train.csv": rows.encode(), "x/y.png": IMAGE}))
    put(folder, *LITTER)


LAYOUTS = {
    "images": images,
    "folders": classes,
    "nih": nih_set,
    "montgomery": lungs,
    "table": mine,
    "dicom": dicoms,
    "medmnist": medmnist,
    "chexpert": chexpert,
}


def listed(archive: Path) -> Counter[tuple[str, str | None]]:
    """Every file below a folder, containers taken apart by other code than ours."""
    files: Counter[tuple[str, str | None]] = Counter()
    for path in archive.rglob("*"):
        if path.suffix == ".zip":
            files.update((str(path), name) for name in zipfile.ZipFile(path).namelist())
        elif path.name.endswith(".tar.gz"):
            with tarfile.open(path) as packed:
                files.update((str(path), name) for name in packed.getnames())
        elif path.is_file():
            files[str(path), None] += 1
    return files


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_file_is_a_view_a_mask_a_table_that_was_read_or_skipped(tmp_path, layout):
    LAYOUTS[layout](str(tmp_path / "archive"))
    counted: Counter[tuple[str, str | None]] = Counter()
    for each in found(str(tmp_path / "archive"), layout):
        match each:
            case Study():
                counted.update({(view.url, None if view.compression == "npy" else view.entry) for view in each.views})
                counted.update((mask.url, mask.entry) for mask in each.mask_views)
            case Skipped() | Table():
                counted[each.url, each.entry] += 1
    if layout == "medmnist":
        counted[str(tmp_path / "archive/pneumoniamnist.npz"), None] = 1  # one file, of three views
    assert counted == listed(tmp_path / "archive")


def test_the_words_of_what_is_skipped_are_none_of_those_of_broken_files():
    assert not aside.MEANINGS.keys() & REASONS.keys()


# --- What stands aside ---


@pytest.mark.parametrize("hold", [None, tar, tar_gz, zipped], ids=["tree", "tar", "tar.gz", "zip"])
def test_what_storage_boxes_and_desktops_leave_behind_is_counted_and_is_no_study(tmp_path, hold):
    archive = str(tmp_path / "archive")
    if hold:
        put(
            archive,
            {tar: "a.tar", tar_gz: "a.tar.gz", zipped: "a.zip"}[hold],
            content=hold(dict.fromkeys(["1.png", *LITTER], IMAGE)),
        )
    else:
        put(archive, "1.png", *LITTER)
    assert len(studies(archive)) == 1
    assert reasons(archive) == LITTER


def test_the_account_shows_reasons_and_counts_the_most_frequent_first_and_where_the_list_is(tmp_path, capsys):
    put(str(tmp_path / "a"), "1.png", "x.txt", *LITTER, *(f".{number}" for number in range(9)))
    account = index(str(tmp_path / "a"), str(tmp_path / "out" / "studies.parquet"))
    print_counts(account)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Skipped")]
    counts = [int(line.split()[1]) for line in lines[:-1]]
    assert counts == sorted(counts, reverse=True)
    assert lines[0] == "Skipped: 12 files (hidden: the name of the file, or of a folder above it, begins with a dot)"
    assert lines[-1] == "Skipped files are listed with their reasons in skipped.parquet beside the table"
    skipped = pq.read_table(tmp_path / "out" / "skipped.parquet").to_pylist()
    assert Counter(row["reason"] for row in skipped) == account.skipped


def test_the_account_of_a_table_that_is_not_kept_says_which_program_lists_the_files(tmp_path, capsys):
    put(str(tmp_path / "a"), "1.png", "x.txt")
    print_counts(index(str(tmp_path / "a"), str(tmp_path / "out" / "studies.parquet")), kept=False)
    listed = "Skipped files are listed with their reasons in the skipped.parquet that cxrpipe index writes"
    assert listed in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("name", PACKED)
def test_what_is_packed_otherwise_names_the_command_that_makes_it_readable(tmp_path, name):
    archive = put(str(tmp_path / "beside"), "1.png", name)
    [skipped] = rest(archive)
    assert skipped.reason in ("unsupported_container", "compressed_file")
    assert skipped.detail.startswith(f"{archive}/{name}: ")
    assert skipped.detail.endswith(PACKED[name])
    for alone in (put(str(tmp_path / "alone"), name), join(archive, name)):
        with pytest.raises(ConfigError, match="convert it") as raised:
            found(alone)
        assert PACKED[name] in str(raised.value)


def test_a_file_without_a_usable_name_is_skipped_and_spares_the_others(tmp_path):
    put(str(tmp_path / "a"), "1.png")
    for name in ("r\udcf6ntgen.png", "f\udcf6lder/2.png"):
        path = tmp_path / "a" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(IMAGE)
    account = index(str(tmp_path / "a"), str(tmp_path / "out" / "studies.parquet"))
    assert (account.studies, account.skipped) == (1, {"unusable_name": 2})
    skipped = pq.read_table(tmp_path / "out" / "skipped.parquet").to_pylist()
    assert [row["url"].rpartition("a/")[2] for row in skipped] == ["f\\xf6lder/2.png", "r\\xf6ntgen.png"]
    assert all("rename the file" in row["detail"] for row in skipped)


def test_a_document_beside_images_does_not_hide_them_and_a_table_does(tmp_path):
    put(str(tmp_path), "1.png", "README", "LICENSE.txt", "paper.pdf", "2.png.part")
    assert set(reasons(str(tmp_path)).values()) == {"not_an_image_file", "unfinished_download"}
    with pytest.raises(ConfigError, match="no known layout"):
        found(put(str(tmp_path), "labels.xlsx"))


@pytest.mark.parametrize("suffix", aside.IMAGE_SUFFIXES)
def test_an_image_is_known_by_any_usual_suffix(tmp_path, suffix):
    assert set(studies(put(str(tmp_path), f"a{suffix}", f"B{suffix.upper()}"))) == {"a", "B"}


# --- Links and what is no file ---


def test_links_and_devices_of_a_folder_are_counted_or_followed(tmp_path):
    archive = put(str(tmp_path / "a"), "1.png", "x/2.png")
    put(str(tmp_path / "elsewhere"), "3.png")
    for link, target in {
        "file.png": tmp_path / "elsewhere/3.png",
        "folder": tmp_path / "elsewhere",
        "x/loop": tmp_path / "a",
        "itself.png": "itself.png",
        "gone.png": "gone",
    }.items():
        (tmp_path / "a" / link).symlink_to(target)
    os.mkfifo(tmp_path / "a" / "pipe.png")
    assert reasons(archive) == {"folder": "link", "x/loop": "link", "pipe.png": "special_file"}
    assert set(studies(archive)) == {"1", "x/2", "file", "itself", "gone"}  # the last two will be `missing`


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to root")
def test_a_closed_folder_of_the_system_is_counted_and_another_one_is_not_left_out(tmp_path):
    archive = put(str(tmp_path / "a"), "1.png", "lost+found/x")
    (tmp_path / "a" / "lost+found").chmod(0)
    assert reasons(archive) == {"lost+found": "system_file"}


def test_a_folder_that_may_not_be_listed_stops_the_index_unless_it_is_the_system_s(tmp_path, monkeypatch):
    archive = put(str(tmp_path / "a"), "1.png", "lost+found/x", "ward/2.png")
    scandir = os.scandir
    closed = ["lost+found"]

    def refuse(folder):
        if str(folder).rpartition("/")[2] in closed:
            raise PermissionError(folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    assert reasons(archive) == {"lost+found": "system_file"}
    closed.append("ward")
    with pytest.raises(Exception, match=r"ward: a folder that cannot be listed"):
        found(archive)


# --- The same file twice ---


def tree(seed: int = 0) -> dict[str, bytes]:
    names = kermany("train", "test")
    return {name: png(radiograph(seed=seed + number)) for number, name in enumerate(names)}


def put_all(url: str, files: dict[str, bytes]) -> str:
    for name, content in files.items():
        put(url, name, content=content)
    return url


def copied(files: dict[str, bytes], above: str) -> dict[str, bytes]:
    return {f"{above}/{name}": content for name, content in files.items()}


@pytest.mark.parametrize("hold", [None, tar, tar_gz, zipped], ids=["tree", "tar", "tar.gz", "zip"])
@pytest.mark.parametrize("above", ["chest_xray", "chest_xray - Copy", "chest_xray (1)", "Copy of chest_xray"])
def test_an_archive_that_holds_a_copy_of_itself_is_catalogued_once(tmp_path, hold, above):
    files = tree()
    inner = {f"{above}/{name.removeprefix('chest_xray/')}": content for name, content in files.items()}
    inner = copied(files, "chest_xray") if above == "chest_xray" else inner
    both = files | inner | {"chest_xray/__MACOSX/x": b"x"}
    archive = str(tmp_path / "archive")
    if hold:
        put(archive, "a." + {tar: "tar", tar_gz: "tar.gz", zipped: "zip"}[hold], content=hold(both))
    else:
        put_all(archive, both)
    assert len(studies(archive)) == len(files)
    left = reasons(archive)
    assert {name for name, reason in left.items() if reason == "copy_of_archive"} == set(inner)


def test_a_folder_in_a_folder_of_its_name_with_other_images_is_no_copy(tmp_path):
    """Of the same names and sizes, as those of uncompressed images are."""
    files = {name: name.encode().rjust(200) for name in kermany("train", "test")}
    other = {f"chest_xray/{name}": content[::-1] for name, content in files.items()}
    assert len(studies(put_all(str(tmp_path), files | other))) == 2 * len(files)


def test_a_copy_that_has_more_than_the_original_keeps_what_it_has_more(tmp_path):
    files = tree()
    more = {"chest_xray/chest_xray/train/NORMAL/IM-9999-0001.jpeg": b"more"}
    archive = put_all(str(tmp_path), files | copied(files, "chest_xray") | more)
    assert len(studies(archive)) == len(files) + 1


def test_a_copy_of_which_the_original_has_a_part_counts_that_part(tmp_path):
    files = tree()
    archive = put_all(str(tmp_path), dict(list(files.items())[:2]) | copied(files, "chest_xray"))
    assert len(studies(archive)) == len(files)
    assert list(reasons(archive).values()) == ["copy_of_archive"] * 2


@pytest.mark.parametrize("pack", [("x.zip", zipped), ("x.tar", tar), ("x.tar.gz", tar_gz)], ids=lambda pack: pack[0])
@pytest.mark.parametrize("where", ["x/", ""])
def test_a_container_beside_what_was_unpacked_of_it_is_counted_and_not_read_twice(anywhere, pack, where):
    name, hold = pack
    files = tree()
    put(anywhere, name, content=hold(files))
    put_all(anywhere, {where + each: content for each, content in files.items()})
    assert {study.views[0].entry for study in studies(anywhere).values()} == {None}
    assert set(reasons(anywhere).values()) == {"copy_of_archive"}
    assert len(reasons(anywhere)) == len(files)


def test_a_copy_that_is_gone_by_the_next_index_is_read(tmp_path):
    files = tree()
    archive, out = str(tmp_path / "archive"), str(tmp_path / "out" / "studies.parquet")
    put(archive, "x.zip", content=zipped(files))
    put_all(join(archive, "x"), files)
    assert index(archive, out).skipped == {"copy_of_archive": len(files)}
    storage.delete_below(join(archive, "x"))
    later = index(archive, out, previous=out)
    assert (later.studies, later.skipped) == (len(files), {})


def test_an_object_that_a_store_lists_twice_is_one_file(tmp_path, monkeypatch):
    archive = put(str(tmp_path / "a"), "1.png", "2.png")
    listing = storage.listing
    monkeypatch.setattr(
        storage, "listing", lambda *asked, **more: (each for each in listing(*asked, **more) for _ in "12")
    )
    assert set(studies(archive)) == {"1", "2"}
    assert rest(archive) == []


@pytest.fixture
def s3_url(s3_env: None, bucket: str) -> str:
    return f"s3://{bucket}/archive"


@pytest.mark.s3
def test_keys_with_two_slashes_and_markers_of_folders_are_no_second_studies(s3_url: str):
    put(s3_url, "a/1.png", "b//2.png", "c%20d/3.png", "e+f/4.png")
    for name in ("a/", "x/", "y_$folder$"):
        s3._put(join(s3_url, name), b"")
    assert set(studies(s3_url)) == {"a/1", "b/2", "c%20d/3", "e+f/4"}
    assert reasons(s3_url) == {"y_$folder$": "folder_marker"}


@pytest.mark.s3
def test_two_keys_that_are_one_name_are_both_accounted_for(s3_url: str):
    put(s3_url, "a/1.png", "a//1.png")
    assert set(studies(s3_url)) == {"a/1"}
    assert list(reasons(s3_url).values()) == ["duplicate_instance"]


def test_two_images_that_differ_in_their_suffix_are_two_studies(tmp_path):
    put(str(tmp_path), "a.jpg", content=IMAGE)
    put(str(tmp_path), "a.png", content=IMAGE)
    assert set(studies(str(tmp_path))) == {"a", "a.png"}
    assert rest(str(tmp_path)) == []


def test_the_catalogue_of_a_million_hidden_files_would_hold_none_of_them_in_memory(tmp_path):
    """Files that stand aside lie in the listing, on disk, as others do."""
    put(str(tmp_path / "a"), "1.png", *(f".{number}" for number in range(200)))
    catalogue = Catalogue(str(tmp_path / "a"), tmp_path / "points")
    assert len(catalogue.names()) == 1
    assert not any(isinstance(value, (list, dict, set)) and len(value) > 10 for value in vars(catalogue).values())


def test_an_entry_of_a_zip_without_a_name_is_counted(tmp_path):
    data = zipped({"a.png": IMAGE, "nameless": IMAGE})
    nameless = data.replace(b"nameless", b"\0ameless")  # zipfile ends a name at a zero
    put(str(tmp_path), "set.zip", content=nameless)
    counts = index(str(tmp_path), str(tmp_path.parent / "out" / "studies.parquet"), layout="images")
    assert (counts.studies, sum(counts.skipped.values())) == (1, 1)

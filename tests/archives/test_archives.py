"""Which layout an archive has, and archives that have none."""

from pathlib import Path

import pytest
from builders import tar, tar_gz, zipped
from catalogued import IMAGE, found, kermany, montgomery, nih, put, table, why

from cxrpipe.archives.catalogue import Catalogue
from cxrpipe.archives.layouts import LAYOUTS
from cxrpipe.errors import ConfigError
from cxrpipe.storage import join


@pytest.mark.parametrize("hold", [lambda names: None, tar, tar_gz, zipped], ids=["tree", "tar", "tar.gz", "zip"])
def test_auto_looks_into_containers(tmp_path, hold):
    names = dict.fromkeys(kermany("train"), IMAGE)
    if packed := hold(names):
        put(str(tmp_path), {tar: "a.tar", tar_gz: "a.tar.gz", zipped: "a.zip"}[hold], content=packed)
    else:
        put(str(tmp_path), *names)
    assert why(str(tmp_path)) == ("folders", "images lie in class folders: NORMAL, PNEUMONIA")


def test_auto_says_why(tmp_path):
    assert why(nih(str(tmp_path / "nih"))) == ("nih", "found Data_Entry_2017_v2020.csv")
    assert why(montgomery(str(tmp_path / "m"), *[["a"]] * 3)) == ("montgomery", "found CXR_png/ and ManualMask/")
    assert why(table(str(tmp_path / "t"), "study_id,path\n")) == ("table", "table.csv is a table")


@pytest.mark.parametrize(
    "names",
    [
        ["COVID/images/1.png", "COVID/masks/1.png"],
        ["scans/1.dcm", "readme.txt"],
    ],
)
def test_auto_does_not_guess(tmp_path, names):
    with pytest.raises(ConfigError, match=r"no known layout .*name one with --layout"):
        why(put(str(tmp_path), *names))


def test_an_unknown_layout_is_refused_with_those_that_are_known(tmp_path):
    with pytest.raises(
        ConfigError,
        match=r"'nihh' is unknown; expected auto or one of chexpert, dicom, folders, images, medmnist, mimic-cxr-jpg, "
        r"montgomery, nih, padchest, shenzhen, table",
    ):
        found(put(str(tmp_path), "a.png"), "nihh")


def test_an_archive_that_is_not_there_is_refused(anywhere):
    with pytest.raises(ConfigError, match="nothing there"):
        found(join(anywhere, "absent"))


def test_an_archive_of_hidden_files_is_empty(tmp_path):
    with pytest.raises(ConfigError, match="nothing there"):
        found(put(str(tmp_path), ".DS_Store"))


def test_an_archive_of_nothing_but_names_that_are_not_utf8_is_told_to_rename_them(tmp_path):
    (tmp_path / "r\udcf6ntgen.png").write_bytes(IMAGE)
    with pytest.raises(ConfigError, match=r"1 unusable_name.*r\\xf6ntgen\.png: a name that is not UTF-8.*rename"):
        found(str(tmp_path))


def test_reading_an_archive_is_announced_container_by_container(tmp_path):
    told = []
    put(nih(str(tmp_path / "nih")), "images_002.tar", content=tar({}))
    Catalogue(str(tmp_path / "nih"), tmp_path, told.append).files()
    assert [url.rpartition("/")[2] for url in told] == ["images_001.tar.gz", "images_002.tar"]


@pytest.mark.parametrize(
    ("layout", "names"),
    [
        ("nih", ["Data_Entry_2017.csv", "images_001.tar.gz", "train_val_list.txt"]),
        ("padchest", ["0.zip", "54.zip", "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz"]),
        ("mimic-cxr-jpg", ["mimic-cxr-2.0.0-metadata.csv.gz", "files/p10/p10000032/s50414267/02aa804e-bde0afdd.jpg"]),
        ("chexpert", ["train.csv", "train/patient00001/study1/view1_frontal.jpg"]),
        ("medmnist", ["pneumoniamnist_224.npz"]),
        ("shenzhen", ["CXR_png/CHNCXR_0001_0.png", "mask/CHNCXR_0001_0_mask.png"]),
        ("montgomery", ["CXR_png/MCUCXR_0001_0.png", "ManualMask/leftMask/MCUCXR_0001_0.png"]),
        ("folders", ["train/NORMAL/1.png", "train/PNEUMONIA/2.png"]),
        ("images", ["2024/1.png", "2024/2.png"]),
        ("table", ["mine.csv"]),
    ],
)
def test_auto_knows_every_layout_by_its_names(tmp_path, layout, names):
    assert why(put(str(tmp_path), *names))[0] == layout


def test_the_help_and_the_readme_name_every_layout():
    project = Path(__file__).parents[2]
    settings = (project / "cxrpipe" / "config" / "index.py").read_text()
    setting = settings.partition("Layout of the archive:")[2].partition('"""')[0]
    readme = (project / "README.md").read_text()
    for name in LAYOUTS:
        assert name in setting
        assert f"| `{name}` |" in readme

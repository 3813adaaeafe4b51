"""The drawn radiographs show what their labels say, and the archives have the published layouts."""

import csv
import hashlib
import os
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from cxrpipe.archives.phantom import SyntheticRadiograph, radiograph
from cxrpipe.archives.synthetic import NIH_HEADER, write_montgomery, write_nih

REAL_DATA = Path(os.environ.get("CXRPIPE_REAL_DATA", "../shared/data"))
FINDING_LABELS = {"No Finding", "Pneumonia", "Cardiomegaly", "Cardiomegaly|Pneumonia"}


def film(seed: int, **findings: bool) -> SyntheticRadiograph:
    return radiograph(np.random.default_rng(seed), side_px=128, **findings)


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def nih(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_nih(tmp_path_factory.mktemp("nih"), studies=120, side_px=64)


@pytest.fixture(scope="module")
def montgomery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_montgomery(tmp_path_factory.mktemp("montgomery"), studies=12, side_px=128)


@pytest.fixture(scope="module")
def entries(nih: Path) -> dict[str, bytes]:
    found = {}
    for path in sorted(nih.glob("images_*.tar.gz")):
        with tarfile.open(path) as tar:
            found |= {entry.name: tar.extractfile(entry).read() for entry in tar}
    return found


def nih_rows(folder: Path) -> list[list[str]]:
    with (folder / "Data_Entry_2017_v2020.csv").open(newline="") as file:
        return list(csv.reader(file))


# --- The films ---


def test_pixels_and_masks_have_the_promised_shapes_and_types():
    pixels, left, right = film(0)
    assert [(array.shape, array.dtype) for array in (pixels, left, right)] == [
        ((128, 128), np.uint8),
        ((128, 128), bool),
        ((128, 128), bool),
    ]


def test_equal_generators_draw_equal_films():
    assert all(np.array_equal(a, b) for a, b in zip(film(3), film(3), strict=True))


def test_the_masks_of_the_two_lungs_never_overlap():
    assert not any((drawn.left & drawn.right).any() for drawn in map(film, range(20)))


def test_the_left_lung_lies_on_the_right_of_the_image():
    for drawn in map(film, range(20)):
        assert np.nonzero(drawn.left)[1].min() > np.nonzero(drawn.right)[1].max()


@pytest.mark.parametrize("cardiomegaly", [False, True])
def test_each_lung_covers_a_plausible_part_of_the_film(cardiomegaly: bool):
    for seed in range(20):
        _, left, right = film(seed, cardiomegaly=cardiomegaly)
        assert 0.04 < left.mean() < 0.2
        assert 0.06 < right.mean() < 0.2


def test_each_lung_is_one_piece_inside_the_film():
    for drawn in map(film, range(20)):
        for lung in (drawn.left, drawn.right):
            assert cv2.connectedComponents(lung.astype(np.uint8))[0] == 2  # the background counts as one
            assert not lung[[0, -1]].any()
            assert not lung[:, [0, -1]].any()


def test_lungs_are_darker_than_what_lies_between_them():
    for drawn in map(film, range(20)):
        row = len(drawn.pixels) // 2
        medial = slice(np.nonzero(drawn.right[row])[0].max() + 4, np.nonzero(drawn.left[row])[0].min() - 4)
        assert drawn.pixels[drawn.left | drawn.right].mean() < drawn.pixels[row, medial].mean() - 20


def test_pneumonia_changes_pixels_inside_the_lungs_only():
    for seed in range(20):
        healthy, ill = film(seed), film(seed, pneumonia=True)
        changed = healthy.pixels != ill.pixels
        assert changed.sum() > 100
        assert not changed[~(ill.left | ill.right)].any()


def test_pneumonia_makes_the_lung_denser():
    for seed in range(20):
        healthy, ill = film(seed), film(seed, pneumonia=True)
        assert ill.pixels[ill.left | ill.right].mean() > healthy.pixels[ill.left | ill.right].mean()


def test_pneumonia_leaves_the_masks_as_they_are():
    healthy, ill = film(4), film(4, pneumonia=True)
    assert np.array_equal(healthy.left, ill.left)
    assert np.array_equal(healthy.right, ill.right)


def cardiothoracic_ratio(drawn: SyntheticRadiograph) -> float:
    rows = np.nonzero(drawn.left.any(axis=1) & drawn.right.any(axis=1))[0]
    rows = rows[: len(rows) * 3 // 4]  # below, the domes part the lungs
    gaps = [np.nonzero(drawn.left[row])[0].min() - np.nonzero(drawn.right[row])[0].max() for row in rows]
    return max(gaps) / np.ptp(np.nonzero((drawn.left | drawn.right).any(axis=0))[0])


def test_only_an_enlarged_heart_is_wider_than_half_the_thorax():
    assert max(cardiothoracic_ratio(film(seed)) for seed in range(20)) < 0.52
    assert min(cardiothoracic_ratio(film(seed, cardiomegaly=True)) for seed in range(20)) > 0.52


@pytest.mark.parametrize("finding", ["pneumonia", "cardiomegaly"])
def test_mean_intensity_does_not_give_a_finding_away(finding: str):
    healthy = np.array([film(seed).pixels.mean() for seed in range(100)])
    ill = np.array([film(seed, **{finding: True}).pixels.mean() for seed in range(100, 200)])
    auroc = (ill[:, None] > healthy).mean()
    assert 0.3 < auroc < 0.7


def test_films_of_one_patient_share_the_anatomy():
    one, other = (
        radiograph(np.random.default_rng(7), side_px=64, anatomy=np.random.default_rng(patient)) for patient in (1, 2)
    )
    again = radiograph(np.random.default_rng(7), side_px=64, anatomy=np.random.default_rng(1))
    assert np.array_equal(one.left, again.left)
    assert not np.array_equal(one.left, other.left)


# --- The archives ---


def test_the_nih_archive_has_the_published_file_names(nih: Path):
    assert set(digests(nih)) == {
        "images_001.tar.gz",
        "images_002.tar.gz",
        "Data_Entry_2017_v2020.csv",
        "train_val_list.txt",
        "test_list.txt",
    }


def test_the_nih_table_has_the_published_header(nih: Path):
    with (nih / "Data_Entry_2017_v2020.csv").open() as file:
        assert file.readline().rstrip("\n") == NIH_HEADER


def test_the_header_is_that_of_the_real_table():
    real = REAL_DATA / "nih" / "Data_Entry_2017_v2020.csv"
    if not real.exists():
        pytest.skip("real data not found")
    with real.open() as file:
        assert file.readline().rstrip("\n") == NIH_HEADER


def test_the_nih_table_names_every_image_once(nih: Path, entries: dict[str, bytes]):
    names = [row[0] for row in nih_rows(nih)[1:]]
    assert len(names) == 120
    assert sorted(f"images/{name}" for name in names) == sorted(entries)


def test_an_image_name_holds_patient_and_follow_up(nih: Path):
    for name, _, follow_up, patient, *_ in nih_rows(nih)[1:]:
        assert name == f"{int(patient):08d}_{int(follow_up):03d}.png"


def test_rows_have_as_many_cells_as_the_header(nih: Path):
    assert {len(row) for row in nih_rows(nih)} == {11}


def test_each_finding_is_in_about_two_fifths_of_the_rows(nih: Path):
    labels = [row[1] for row in nih_rows(nih)[1:]]
    assert set(labels) == FINDING_LABELS
    for finding in ("Pneumonia", "Cardiomegaly"):
        assert 0.28 < np.mean([finding in label.split("|") for label in labels]) < 0.52


def test_the_splits_share_no_patient_and_miss_no_image(nih: Path):
    train, test = ((nih / f"{name}_list.txt").read_text().split() for name in ("train_val", "test"))
    assert not {name[:8] for name in train} & {name[:8] for name in test}
    assert sorted(train + test) == sorted(row[0] for row in nih_rows(nih)[1:])
    assert 0.15 < len(test) / 120 < 0.35


def test_a_few_nih_images_are_rgba_and_opaque(entries: dict[str, bytes]):
    images = [cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED) for png in entries.values()]
    rgba = [image for image in images if image.ndim == 3]
    assert 1 <= len(rgba) <= 6
    assert all(image.shape == (64, 64, 4) and (image[..., 3] == 255).all() for image in rgba)
    assert all(image.shape == (64, 64) for image in images if image.ndim == 2)


@pytest.mark.parametrize("write", [write_nih, write_montgomery])
def test_a_seed_gives_the_same_bytes_again(write, tmp_path: Path):
    first, again, other = (
        digests(write(tmp_path / name, studies=4, seed=seed, side_px=64))
        for name, seed in (("first", 5), ("again", 5), ("other", 6))
    )
    assert first == again
    assert first != other


def test_the_montgomery_archive_has_two_masks_and_a_reading_for_each_image(montgomery: Path):
    names = sorted(path.stem for path in (montgomery / "CXR_png").iterdir())
    assert [name[:11] for name in names] == [f"MCUCXR_{number:04d}" for number in range(1, 13)]
    assert {name[11:] for name in names} == {"_0", "_1"}
    for folder in ("ManualMask/leftMask", "ManualMask/rightMask", "ClinicalReadings"):
        assert sorted(path.stem for path in (montgomery / folder).iterdir()) == names


def test_montgomery_images_lie_either_way_up(montgomery: Path):
    shapes = {cv2.imread(str(path), cv2.IMREAD_UNCHANGED).shape for path in montgomery.glob("CXR_png/*.png")}
    assert shapes == {(128, 108), (108, 128)}


def test_montgomery_masks_are_0_or_255_and_fit_their_image(montgomery: Path):
    for path in montgomery.glob("CXR_png/*.png"):
        image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        for side in ("leftMask", "rightMask"):
            mask = cv2.imread(str(montgomery / "ManualMask" / side / path.name), cv2.IMREAD_UNCHANGED)
            assert mask.shape == image.shape
            assert set(np.unique(mask)) == {0, 255}

"""Folds by acquisition: patients whose films look alike stand together, whatever is drawn."""

from pathlib import Path

import numpy as np
import pytest
from builders import png, radiograph

from cxrpipe.archives.acquisition import FILE, Acquisition, StudyAcquisition, acquisition_of, measure
from cxrpipe.archives.index import Source, index
from cxrpipe.config import TrainConfig
from cxrpipe.images.letterbox import Preparation
from cxrpipe.images.squares import decode_view
from cxrpipe.records.study_table import StudyTable
from cxrpipe.training.acquisition_folds import Member, acquisition_folds
from cxrpipe.training.folds import hold_out

PREPARATION = Preparation("voi", 512)


def looks(brightness: float = 0.5, side: float = 10.0, **further: float) -> Acquisition:
    return Acquisition(**{"contrast": 0.2, "border": 0.0, "sharpness": 0.1, "log_aspect": 0.0} | further
                       | {"brightness": brightness, "log_side": side})  # fmt: skip


def member(patient: str, acquired: Acquisition | None, prefix: str = "", label: float | None = 0.0) -> Member:
    return Member(patient, {"A": label}, StudyAcquisition(f"s{patient}", "d", prefix, acquired))


def two_scanners(seed: int = 0) -> list[Member]:
    """Thirty patients of a dark scanner with small films, and thirty of a bright one with large films."""
    rng = np.random.default_rng(seed)
    dark = [member(f"dark{n}", looks(0.3 + rng.normal(0, 0.02), 9 + rng.normal(0, 0.1))) for n in range(30)]
    bright = [member(f"bright{n}", looks(0.6 + rng.normal(0, 0.02), 11 + rng.normal(0, 0.1))) for n in range(30)]
    return [*dark, *bright]


def groups(folds: dict[str, int]) -> list[set[str]]:
    return [{key for key, fold in folds.items() if fold == number} for number in range(max(folds.values()) + 1)]


def test_two_scanners_are_two_groups():
    first, second = groups(acquisition_folds(two_scanners(), 2))
    assert {frozenset(key.rstrip("0123456789") for key in group) for group in (first, second)} == {
        frozenset({"dark"}),
        frozenset({"bright"}),
    }


@pytest.mark.parametrize("number", [2, 3, 5, 7])
def test_groups_have_equal_numbers_of_patients_and_the_order_of_studies_does_not_matter(number):
    members = two_scanners()
    folds = acquisition_folds(members, number)
    sizes = [len(group) for group in groups(folds)]
    assert sum(sizes) == 60
    assert max(sizes) - min(sizes) <= 1
    assert acquisition_folds(members[::-1], number) == folds


def test_a_patient_with_films_of_both_kinds_stands_in_one_group():
    members = [*two_scanners(), member("both", looks(0.3, 9)), member("both", looks(0.6, 11))]
    assert acquisition_folds(members, 2)["both"] in (0, 1)


def test_patients_whose_films_cannot_be_read_are_in_some_group_and_break_none():
    members = [*two_scanners(), member("gone", None)]
    folds = acquisition_folds(members, 3)
    assert len(folds) == 61
    first, second = groups(acquisition_folds(members, 2))
    assert len(first) in (30, 31)
    assert not {key[:4] for key in first - {"gone"}} & {key[:4] for key in second - {"gone"}}


def test_a_prefix_of_file_names_counts_unless_it_tells_the_label(capsys):
    rng = np.random.default_rng(0)
    alike = [looks(0.5 + rng.normal(0, 0.02)) for _ in range(40)]
    named = [member(f"p{n:02d}", alike[n], "IM" if n < 20 else "MC", float(n % 2)) for n in range(40)]
    first, _ = groups(acquisition_folds(named, 2))
    assert first in ({f"p{n:02d}" for n in range(20)}, {f"p{n:02d}" for n in range(20, 40)})
    telling = [each._replace(labels={"A": float(each.acquired.prefix == "IM")}) for each in named]
    first, _ = groups(acquisition_folds(telling, 2))
    assert 4 < len(first & {f"p{n:02d}" for n in range(20)}) < 16
    assert "the prefix 'IM' of file names tells A" in capsys.readouterr().err


def test_every_group_is_described(capsys):
    acquisition_folds(two_scanners(), 2)
    lines = [line for line in capsys.readouterr().err.splitlines() if "group" in line]
    assert len(lines) == 2
    assert "30 studies of 30 patients, A 0%; brightness 0." in lines[0]


# ---- measured -------------------------------------------------------------------------------------------------


def measured(pixels: np.ndarray) -> Acquisition:
    return acquisition_of(decode_view(png(pixels), "film", [PREPARATION]))


def test_brightness_contrast_size_and_border_are_those_of_the_film():
    pixels = np.zeros((400, 200), np.uint8)
    pixels[50:350, 20:180] = np.where(np.indices((300, 160)).sum(axis=0) // 40 % 2, 100, 200)
    film = measured(pixels)
    assert film.brightness == pytest.approx(150 / 255, abs=0.01)
    assert film.contrast == pytest.approx(50 / 255, abs=0.01)
    assert film.border == pytest.approx(1 - 300 * 160 / (400 * 200), abs=0.01)
    assert (film.log_side, film.log_aspect) == pytest.approx((np.log2(400), 1))


def test_a_blurred_film_is_less_sharp_and_a_black_one_has_no_border():
    import cv2

    film = radiograph(rows=256, columns=256)
    assert measured(cv2.GaussianBlur(film, (0, 0), 3)).sharpness < measured(film).sharpness / 2
    assert measured(np.zeros((64, 64), np.uint8)).border == 0


@pytest.fixture
def table(tmp_path: Path) -> StudyTable:
    """Twelve studies: six dark films and six bright ones, and a file that is no image."""
    archive, lines = tmp_path / "archive", ["study_id,path,patient_id,split,label_A"]
    archive.mkdir()
    for number in range(12):
        film = (radiograph(number) * (0.3 if number < 6 else 0.9)).astype(np.uint8)
        (archive / f"film{number}.png").write_bytes(b"broken" if number == 11 else png(film))
        lines.append(f"s{number:02d},film{number}.png,p{number:02d},{'train' if number % 6 else 'test'},{number % 2}")
    (archive / "table.csv").write_text("\n".join(lines))
    index(str(archive / "table.csv"), str(tmp_path / "table" / "studies.parquet"))
    return StudyTable(str(tmp_path / "table" / "studies.parquet"))


def test_statistics_are_measured_once_and_kept_beside_the_table(table, tmp_path):
    decoded = []

    def decode(data, name, preparations):
        decoded.append(name)
        return decode_view(data, name, preparations)

    some = [f"s{number:02d}" for number in range(6)]
    first = measure(table, some, decode)
    assert (tmp_path / "table" / FILE).exists()
    assert (len(decoded), set(first)) == (6, set(some))
    again = measure(table, [*some, "s11"], decode)
    assert len(decoded) == 7
    assert {study: again[study] for study in some} == first
    assert again["s11"].values is None
    assert again["s00"].prefix == "film"
    changed = {**again}
    assert changed["s00"].values is not None
    assert changed["s00"].values.brightness < 0.5


def test_a_study_that_changed_is_measured_again(table, tmp_path):
    import pyarrow.parquet as pq

    before = measure(table, ["s00"], decode_view)
    kept = pq.read_table(tmp_path / "table" / FILE)
    stale = kept.set_column(1, "study_digest", [["other"]]).set_column(3, "brightness", [[0.99]])
    pq.write_table(stale.replace_schema_metadata(kept.schema.metadata), tmp_path / "table" / FILE)
    assert measure(table, ["s00"], decode_view) == before


def test_train_holds_out_the_films_that_look_alike_and_never_the_test_split(table, tmp_path):
    def fold(number: int) -> StudyTable:
        scratch = tmp_path / f"scratch{number}"
        scratch.mkdir()
        wanted = {"folds": 2, "fold": number, "folds_by": "acquisition"}
        config = TrainConfig(task="classify", studies=table.url, out="o", **wanted)
        return hold_out(config, Source(table, scratch)).table

    held_out = [{study.study_id for study in fold(number).studies("test")} for number in (0, 1)]
    assert sorted(map(len, held_out)) == [5, 5]
    assert set.union(*held_out) == {f"s{number:02d}" for number in range(12) if number % 6}
    dark = {f"s{number:02d}" for number in range(1, 6)}
    assert dark in held_out

"""What is doubtful is flagged; what is well is not. On drawn radiographs, and on real ones where they are at hand."""

from pathlib import Path

import numpy as np
import pytest

from cxrpipe.archives import phantom
from cxrpipe.archives.index import index
from cxrpipe.archives.reader import Reader
from cxrpipe.images import fits, flags, letterbox, masks, radiographs
from cxrpipe.images.letterbox import FITS, Preparation
from cxrpipe.records.study_table import StudyTable

SIDE_PX = 128


@pytest.fixture(scope="module")
def drawn() -> list[phantom.SyntheticRadiograph]:
    return [phantom.radiograph(np.random.default_rng(seed), side_px=256) for seed in range(20)]


def image(pixels: np.ndarray, fit: str = "letterbox") -> np.ndarray:
    """The part of a film's square that is no padding."""
    preparation = Preparation("voi", SIDE_PX, fit)
    square = fits.fitted(radiographs.Radiograph(pixels), [preparation])[preparation]
    return square[fits.Frame.of(*pixels.shape, preparation).inside]


def inverted_share(films: list[np.ndarray], fit: str = "letterbox") -> float:
    return float(np.mean([flags.looks_inverted(image(film, fit)) for film in films]))


def cropped_share(lungs: list[np.ndarray]) -> float:
    return float(np.mean([flags.lungs_cropped(letterbox.prepare_mask(each, SIDE_PX), *each.shape) for each in lungs]))


def cut(film: np.ndarray, lungs: np.ndarray, fraction: float, edge: str) -> np.ndarray:
    """What is left of a film when an edge of the picture is moved so far into the lungs' own extent."""
    rows, columns = np.nonzero(lungs)
    high, wide = int(fraction * np.ptp(rows)), int(fraction * np.ptp(columns))
    return {
        "top": film[rows.min() + high :],
        "bottom": film[: rows.max() - high],
        "left": film[:, columns.min() + wide :],
        "right": film[:, : columns.max() - wide],
    }[edge]


@pytest.mark.parametrize("fit", FITS)
def test_an_inverted_radiograph_is_suspected_and_an_upright_one_is_not(drawn, fit):
    films = [each.pixels for each in drawn]
    assert inverted_share(films, fit) == 0
    assert inverted_share([255 - film for film in films], fit) == 1


def test_padding_says_nothing_about_inversion(drawn):
    """It is black around an inverted radiograph too."""
    tall = [film.pixels[:, 40:-40] for film in drawn]
    assert inverted_share(tall) == 0
    assert inverted_share([255 - film for film in tall]) == 1


@pytest.mark.parametrize("size", [(16, 16), (16, 400), (400, 16)])
def test_an_image_of_any_shape_is_judged(size):
    film = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    assert flags.looks_inverted(image(film)) in (True, False)


@pytest.mark.parametrize("edge", ["top", "bottom", "left", "right"])
def test_lungs_that_go_on_outside_the_picture_are_flagged(drawn, edge):
    lungs = [each.left | each.right for each in drawn]
    assert cropped_share([cut(each, each, 0.2, edge) for each in lungs]) == 1
    assert cropped_share(lungs) == 0


def test_no_lung_is_no_cropped_lung():
    assert not flags.lungs_cropped(np.zeros((64, 64), bool), 300, 200)


# ---- quality --------------------------------------------------------------------------------------------------


def quality(mask: np.ndarray, expected_dice: float = 1.0) -> float:
    return masks.quality(mask, expected_dice, *mask.shape)


def test_two_whole_lungs_are_of_the_quality_the_network_says(drawn):
    for film in drawn:
        assert quality(film.left | film.right, 0.9) == pytest.approx(0.9, abs=0.01)


def test_scraps_crumbs_and_nothing_are_of_low_quality(drawn):
    lungs = drawn[0].left | drawn[0].right
    crumbs = np.random.default_rng(0).random(lungs.shape) < 0.2
    assert quality(crumbs) < 0.3
    scrap = np.zeros_like(lungs)
    scrap[100:110, 100:110] = True
    assert quality(scrap) < 0.1
    assert quality(np.zeros_like(lungs)) == 0


# ---- real radiographs -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_real_radiographs_are_suspected_when_they_are_inverted_and_only_then(real_data: Path, tmp_path: Path):
    """Measured: 0 of 220 as they are, 220 of 220 inverted."""
    out = str(tmp_path / "studies.parquet")
    index(str(real_data / "nih"), out)
    table = StudyTable(out)
    with Reader(table.seek_points) as reader:
        views = [view for study in table.studies() for view in study.views]
        films = [radiographs.decode(reader.read(view), "voi").pixels for view in views[::4]]
    assert inverted_share(films) <= 0.05
    assert inverted_share([255 - film for film in films]) >= 0.9


@pytest.mark.slow
def test_real_lungs_are_flagged_when_the_picture_cuts_them_and_seldom_else(real_data: Path):
    """Measured: 2 of 72 as they are (both touch the border); of cut ones all."""
    folder = real_data / "montgomery" / "ManualMask"
    lungs = [
        np.logical_or(*(radiographs.decode_mask((folder / side / path.name).read_bytes()) for side in SIDES))
        for path in sorted((folder / SIDES[0]).iterdir())
    ]
    assert cropped_share(lungs) <= 0.05
    for edge in ("top", "bottom", "left", "right"):
        assert cropped_share([cut(each, each, 0.2, edge) for each in lungs[::3]]) >= 0.9
    assert min(quality(each) for each in lungs) > 0.9


SIDES = ("leftMask", "rightMask")

"""The square around the lungs, on masks and views whose right answer is plain."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from builders import classifier

from cxrpipe.archives import synthetic
from cxrpipe.archives.index import index
from cxrpipe.archives.reader import Reader
from cxrpipe.models import crop as lungs_
from cxrpipe.models.card import Crop
from cxrpipe.models.crop import Cropper, boxes, crop, uncrop
from cxrpipe.models.ensemble import Ensemble
from cxrpipe.models.folder import ModelFolder
from cxrpipe.records.study_table import StudyTable
from cxrpipe.scoring.predict import Predictor
from cxrpipe.training.examples import ExampleSpec, examples

pytestmark = pytest.mark.usefixtures("one_thread")
WHOLE = (0.5, 0.5, 1.0)


def mask(*rectangles: tuple[int, int, int, int], side_px: int = 100) -> torch.Tensor:
    """(1, S, S) bool; each rectangle is top, bottom, left, right."""
    drawn = torch.zeros(1, side_px, side_px, dtype=torch.bool)
    for top, bottom, left, right in rectangles:
        drawn[0, top:bottom, left:right] = True
    return drawn


def box(*rectangles: tuple[int, int, int, int], margin: float = 0.0) -> tuple[float, ...]:
    return tuple(boxes(mask(*rectangles), margin)[0].tolist())


def test_a_box_is_the_square_around_both_lungs():
    assert box((20, 80, 10, 40), (25, 70, 50, 80)) == pytest.approx((0.45, 0.5, 0.7))


def test_the_margin_is_of_the_lungs_extent_and_never_beyond_the_side():
    assert box((20, 80, 30, 70), margin=0.1) == pytest.approx((0.5, 0.5, 0.72))
    assert box((0, 100, 0, 100), margin=0.1) == pytest.approx(WHOLE)


def test_a_speck_does_not_widen_the_box():
    assert box((20, 80, 20, 80), (95, 98, 95, 98)) == pytest.approx((0.5, 0.5, 0.6), abs=0.02)


@pytest.mark.parametrize("rectangles", [(), ((10, 20, 10, 20),)])
def test_without_lungs_to_speak_of_the_whole_view_is_taken(rectangles):
    assert box(*rectangles, margin=0.1) == WHOLE


def test_a_crop_is_what_opencv_cuts_out():
    view = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (96, 96), np.uint8), (0, 0), 3)
    cut = crop(torch.tensor(view)[None, None], torch.tensor([[0.5, 0.375, 0.5]]), 64)[0, 0].numpy()
    expected = cv2.resize(view[12:60, 24:72], (64, 64), interpolation=cv2.INTER_LINEAR)
    assert np.abs(cut[2:-2, 2:-2].astype(int) - expected[2:-2, 2:-2]).max() <= 1  # edges: OpenCV repeats its own


def test_the_whole_view_at_its_own_side_stays_as_it_is():
    views = torch.randint(0, 256, (2, 1, 48, 48), dtype=torch.uint8)
    assert torch.equal(crop(views, torch.tensor([WHOLE, WHOLE]), 48), views)


def test_a_map_goes_back_to_where_it_was_cut_from():
    heat = torch.zeros(1, 1, 8, 8)
    heat[0, 0, 2, 6] = 1.0  # three tenths down, eight tenths right
    back = uncrop(heat, torch.tensor([[0.6, 0.3, 0.4]]), 64)[0, 0]
    down, right = np.unravel_index(int(back.argmax()), back.shape)
    assert (right + 0.5) / 64 == pytest.approx(0.4 + 0.4 * 6.5 / 8, abs=0.02)
    assert (down + 0.5) / 64 == pytest.approx(0.1 + 0.4 * 2.5 / 8, abs=0.02)
    assert float(back[40:].sum()) == 0


# ---- in training and in scoring ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def looks_at_lungs(lungs: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    folder = tmp_path_factory.mktemp("model")
    return classifier(folder, seed=3, side_px=64, crop=Crop(lungs.card.weights_sha256, 0.1))


@pytest.fixture
def prepared(looks_at_lungs: ModelFolder, lungs: ModelFolder, tmp_path) -> dict:
    """Preparation → (N, S, S) uint8, as training decodes them."""
    index(str(synthetic.write_nih(tmp_path / "nih", studies=6, side_px=128)), str(tmp_path / "studies.parquet"))
    table = StudyTable(str(tmp_path / "studies.parquet"))
    spec = ExampleSpec(
        looks_at_lungs.card.preparation, looks_at_lungs.card.findings, for_segmenter=lungs.card.preparation
    )
    with Reader(table.seek_points) as reader:
        found = [example for study in table.studies() for example in examples(study, reader, spec)]
    return {
        spec.preparation: np.stack([example.pixels for example in found]),
        lungs.card.preparation: np.stack([example.for_segmenter for example in found]),
    }


def seen(masks: torch.Tensor, margin: float) -> torch.Tensor:
    """Boxes that differ from view to view, whatever a segmenter of random weights says."""
    number = torch.arange(len(masks)) / len(masks)
    return torch.stack([0.4 + 0.2 * number, 0.6 - 0.2 * number, 0.5 + 0.3 * number], 1)


def test_scoring_gives_the_network_what_training_did(looks_at_lungs, lungs, prepared, monkeypatch):
    monkeypatch.setattr(lungs_, "boxes", seen)
    card = looks_at_lungs.card
    own = prepared[card.preparation], prepared[lungs.card.preparation]
    learned_from = Cropper(lungs, card.crop, card.side_px)(*own)
    whole = ModelFolder(looks_at_lungs.url, replace(card, crop=None))
    expected = Predictor(Ensemble((whole,)), device="cpu").predict({whole.card.preparation: learned_from})
    scored = Predictor(Ensemble((looks_at_lungs,), (lungs,)), device="cpu").predict(prepared)
    np.testing.assert_allclose(scored.probs, expected.probs, atol=1e-5)
    uncropped = Predictor(Ensemble((whole,)), device="cpu").predict({whole.card.preparation: own[0][:, 16:80, 16:80]})
    assert np.abs(scored.probs - uncropped.probs).max() > 1e-3


def test_heat_maps_lie_on_the_whole_view(looks_at_lungs, lungs, prepared, monkeypatch):
    monkeypatch.setattr(lungs_, "boxes", seen)
    (maps,) = Predictor(Ensemble((looks_at_lungs,), (lungs,), explain=True), device="cpu").predict(prepared).maps
    found = seen(torch.zeros(len(maps)), 0.1).numpy()
    for own, (right, down, side) in zip(maps, found, strict=True):
        place = (np.arange(64) + 0.5) / 64
        far_right, far_down = (np.abs(place - centre) > side / 2 + 1 / 64 for centre in (right, down))
        outside = far_down[:, None] | far_right[None]
        assert outside.any()
        assert own[:, outside].max() == 0


def test_no_views_make_no_crops(looks_at_lungs, lungs):
    card = looks_at_lungs.card
    cropped = Cropper(lungs, card.crop, card.side_px)(np.zeros((0, 96, 96), np.uint8), np.array([]))
    assert cropped.shape == (0, 64, 64)

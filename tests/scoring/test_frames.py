"""Masks and heat maps of models with another fit lie in the letterbox of the whole view: by the whole road."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
import torch
from builders import png

from cxrpipe.images import fits, heatmaps, masks
from cxrpipe.images.letterbox import Letterbox, Preparation
from cxrpipe.models import architectures, weights
from cxrpipe.models.card import Card
from cxrpipe.models.ensemble import Ensemble
from cxrpipe.models.folder import ModelFolder, save_model
from cxrpipe.models.tensors import packed
from cxrpipe.records import Study, View
from cxrpipe.scoring.batch import Predicted
from cxrpipe.scoring.finish import finish
from cxrpipe.scoring.loop import score
from cxrpipe.scoring.predict import Predictor
from cxrpipe.scoring.predictions import Predictions
from cxrpipe.scoring.prepare import Preparer

pytestmark = pytest.mark.usefixtures("one_thread")
SIDE_PX = 128
SIZES = [(300, 200), (200, 300), (240, 240)]  # portrait, landscape, square


def film(rows: int, columns: int, down: float, right: float) -> np.ndarray:
    """Black, with a bright disc whose centre lies at fractions of the film."""
    pixels = np.zeros((rows, columns), np.uint8)
    cv2.circle(pixels, (round(right * columns), round(down * rows)), 20, 255, -1)
    return pixels


def sees_brightness(url: Path, **card: Any) -> ModelFolder:
    """A small CNN whose last feature map is the brightness of the film, and whose logit is the mean of that map."""
    made = Card(
        task="classify", architecture="smallcnn", side_px=SIDE_PX, mean=0.0, std=1.0, findings=("Spot",), **card
    )
    network = architectures.build_from_card(made)
    for name, value in network.named_parameters():
        torch.nn.init.ones_(value) if name.endswith("1.weight") and value.ndim == 1 else torch.nn.init.zeros_(value)
    with torch.no_grad():
        for block in (network.block1, network.block2, network.block3, network.block4):
            block[0].weight[0, 0, 1, 1] = 1
        cells = (SIDE_PX // 16) ** 2
        network.dense.weight[0, :cells] = 1 / cells
        network.head.weight[0, 0] = 10
    return save_model(str(url), made, weights.weights_bytes(network), facts={})


def scored(folder: Path, films: dict[str, np.ndarray], ensemble: Ensemble) -> dict[str, dict[str, Any]]:
    """Study id → row, by the plain loop."""
    studies = []
    for study_id, pixels in films.items():
        (folder / f"{study_id}.png").write_bytes(png(pixels))
        view = View(url=str(folder / f"{study_id}.png"), length=1)
        studies.append(Study(study_id=study_id, patient_id=None, study_digest="d", views=(view,)))
    tables = score(studies, Preparer(None, ensemble, None), Predictor(ensemble, "cpu"))
    return {row["study_id"]: row for table in tables for row in table.to_pylist()}


def centre(values: np.ndarray) -> np.ndarray:
    """(down, right), in fractions of the square."""
    places = np.mgrid[: len(values), : len(values)] + 0.5
    return (places * values).sum((1, 2)) / values.sum() / len(values)


@pytest.mark.parametrize(
    ("card", "away"),
    [
        ({"fit": "center-crop"}, 0.22),
        ({"fit": "center-crop", "crop_fraction": 0.8, "resize": "bicubic"}, 0.15),
        ({"fit": "squash"}, 0.25),
    ],
)
def test_a_heat_map_of_a_spot_lies_on_the_spot(tmp_path, card, away):
    """`away`: how far the spots lie from the centre, as far as the crop allows."""
    ensemble = Ensemble((sees_brightness(tmp_path / "m", **card),), explain=True)
    places = [(0.5, 0.5), (0.5 - away, 0.5 + away), (0.5 + away, 0.5 - away)]
    films = {f"{size}{place}": film(*size, *place) for size in SIZES for place in places}
    rows = scored(tmp_path, films, ensemble)
    for study_id, pixels in films.items():
        ((heat,),) = rows[study_id]["heatmaps"]
        found = heatmaps.decode(heat["png"])
        preparation = Preparation("voi", heatmaps.SIDE_PX)
        expected = fits.fitted(radiograph_of(pixels), [preparation])[preparation]
        assert np.abs(centre(found) - centre(expected)).max() < 0.05, study_id  # the map has 8 × 8 cells
        assert found[expected > 200].min() > 0.5 * found.max()


def radiograph_of(pixels: np.ndarray) -> Any:
    from cxrpipe.images.radiographs import Radiograph

    return Radiograph(pixels)


def test_outside_of_a_crop_a_heat_map_is_black(tmp_path):
    ensemble = Ensemble((sees_brightness(tmp_path / "m", fit="center-crop"),), explain=True)
    bright = np.full((300, 200), 200, np.uint8)
    bright[::2] = 180
    ((heat,),) = scored(tmp_path, {"bright": bright}, ensemble)["bright"]["heatmaps"]
    found = heatmaps.decode(heat["png"])
    box = Letterbox.of(300, 200, heatmaps.SIDE_PX)
    rows, columns = np.nonzero(found)
    assert (rows.min(), rows.max()) == (11, 52)  # the middle 200 of 300 rows: 64 / 6 = 10.7 to 53.3
    assert (columns.min(), columns.max() + 1) == (box.inside[1].start, box.inside[1].stop)


def drawn_by_hand(squares: np.ndarray, ensemble: Ensemble, size: tuple[int, int]) -> dict[str, Any]:
    """The row of a study with one view of `size`, of which a segmenter drew (T, S, S) bool squares."""
    row = {
        "study_id": "s",
        "patient_id": None,
        "study_digest": "d",
        "fingerprint": "f",
        "status": "ok",
        "n_views": 1,
        "n_views_ok": 1,
        "flags": [],
        "views": [{"status": "ok", "rows_px": size[0], "columns_px": size[1]}],
    }
    lungs = squares[[ensemble.structures.index(name) for name in ("left_lung", "right_lung")]].any(0)
    bits = packed(torch.from_numpy(squares).flatten(1)).numpy()[None]
    lung_bits = packed(torch.from_numpy(lungs).flatten()[None]).numpy()
    predictions = Predictions(np.zeros((0, 1, 0), np.float32), lung_bits, np.ones(1, np.float32), structure_bits=bits)
    marks = pa.table(
        {
            "predict_s": pa.array([0.1], pa.float32()),
            "predicted_at": [0.1],
            "predicted_by": ["w"],
            "computed_on": ["cpu"],
        }
    )
    (made,) = finish([row], Predicted(predictions, np.array([1]), (None,), marks), ensemble).to_pylist()
    return made


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("fit", ["center-crop", "squash", "letterbox"])
def test_masks_of_any_fit_are_those_of_the_whole_view(size, fit):
    """Two lungs inside of every crop, drawn on the film and as a segmenter of that fit sees them."""
    names = ("right_lung", "heart", "left_lung")
    card = Card(task="segment", architecture="unet-resnet18", side_px=96, mean=0.5, std=0.25, fit=fit, structures=names)
    ensemble = Ensemble((), (ModelFolder("/models/anatomy", card),))
    parts = [film(*size, 0.5, right) > 0 for right in (0.4, 0.5, 0.6)]
    squares = np.stack([fits.fitted_mask(part, card.preparation) for part in parts])
    row = drawn_by_hand(squares, ensemble, size)
    assert [structure["name"] for structure in row["structures"][0]] == list(names)
    for part, structure in zip(parts, row["structures"][0], strict=True):
        found = masks.on_image(masks.decode(structure["png"]), *size)
        assert 2 * (found & part).sum() / (found.sum() + part.sum()) > 0.93
    lungs = parts[0] | parts[2]
    found = masks.decode(row["masks"][0])
    assert found.shape == (96, 96)
    assert row["views"][0]["lung_fraction"] == pytest.approx(lungs.mean(), rel=0.05)
    assert row["views"][0]["right_fraction"] == pytest.approx(lungs.mean() / 2, rel=0.15)
    assert row["views"][0]["mask_quality"] > 0.3
    assert "lungs_cropped" not in row["flags"]

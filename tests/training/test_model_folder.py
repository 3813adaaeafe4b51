"""What a training leaves beside its weights: a card fitted on the valid split by study, a table, pictures."""

import csv
import io
from dataclasses import replace

import builders
import cv2
import numpy as np
import pytest
import torch

from cxrpipe.models import architectures, consensus, out_of_distribution, weights
from cxrpipe.models.card import Card
from cxrpipe.records import Study, View
from cxrpipe.training.epochs import Epoch
from cxrpipe.training.examples import key_of
from cxrpipe.training.model_folder import by_study, draw, fitted, keys_to_draw
from cxrpipe.training.predictions import Predictions, ViewMasks, ViewPredictions, ViewPredictor

pytestmark = pytest.mark.usefixtures("one_thread")
CARD = Card(
    task="classify",
    architecture="resnet18",
    side_px=64,
    mean=0.5,
    std=0.25,
    findings=("A", "B"),
    aggregation={"A": "max", "B": "mean"},
    thresholds={"A": 0.5, "B": 0.5},
)
LUNGS = Card(task="segment", architecture="unet-resnet18", side_px=32, mean=0.5, std=0.25)
EPOCHS = [
    Epoch(
        epoch=number,
        train_loss=1 / number,
        valid_loss=None if number == 2 else 0.5,
        score=[0.7, 0.9, 0.8][number - 1],
        accuracy=None if number == 2 else 0.75,
        per_finding={"A": 0.9, "B": None},
        learning_rate=1e-3,
        seconds=2.0,
    )
    for number in (1, 2, 3)
]
STUDIES = [
    Study(study_id=f"study{number}", split="valid", views=(View(url=f"/{number}.png"),), patient_id=f"patient{number}")
    for number in range(40)
]


def predicted(
    prob: np.ndarray, target: np.ndarray, key: np.ndarray | None = None, channels: int = 3
) -> ViewPredictions:
    """Views of STUDIES in their order, one each."""
    own = np.array([key_of(study.study_id) for study in STUDIES[: len(prob)]]) if key is None else key
    embedding = np.random.default_rng(0).normal(size=(len(prob), channels)).astype(np.float32)
    return ViewPredictions(
        own, prob.astype(np.float32), target.astype(np.float32), embedding, np.full(len(prob), np.nan)
    )


def overconfident(studies: int = 40) -> ViewPredictions:
    """The logit of A is thrice what it should be and one more, and B is always absent."""
    rng = np.random.default_rng(1)
    logit = rng.normal(0, 1.5, studies)
    target = rng.random(studies) < 1 / (1 + np.exp(-logit))
    prob = 1 / (1 + np.exp(-(3 * logit + 1)))
    both = np.stack([prob, np.full(studies, 0.2)], 1), np.stack([target, np.zeros(studies)], 1)
    return predicted(*both, key=np.arange(studies) if studies > len(STUDIES) else None)


def test_views_of_a_study_become_one_opinion_under_the_rule_of_each_finding():
    probs = np.array([[0.1, 0.2], [0.9, 0.6], [0.5, 0.5]])
    found = by_study(predicted(probs, np.array([[1, 0], [0, 1], [1, 0]]), key=np.array([7, 3, 7])), CARD.rules)
    assert found.key.tolist() == [3, 7]
    np.testing.assert_allclose(found.prob, [[0.9, 0.6], [0.5, 0.35]])
    assert found.target.tolist() == [[0, 1], [1, 0]]


def test_calibration_undoes_what_training_made_of_the_odds_and_the_threshold_is_on_what_is_calibrated():
    card = fitted(CARD, Predictions(overconfident(400), None, []))
    slope, intercept = card.calibration["A"]
    assert slope == pytest.approx(1 / 3, abs=0.12)
    assert intercept == pytest.approx(-1 / 3, abs=0.3)
    probs = consensus.calibrate(overconfident(400).prob[:, 0], np.array(slope), np.array(intercept))
    present = overconfident(400).target[:, 0] == 1
    assert card.thresholds["A"] == present.mean()
    called = probs >= card.thresholds["A"]
    assert called[present].mean() + (~called[~present]).mean() > 1.3


def test_a_finding_of_one_kind_keeps_its_probabilities_and_says_so(capsys):
    card = fitted(CARD, Predictions(overconfident(), None, []))
    assert card.thresholds["B"] == 0.5
    assert "B" not in card.calibration
    assert "B is not calibrated, and its threshold stays 0.5: 0 positive or negative studies" in capsys.readouterr().err


def test_the_card_keeps_what_views_look_like_and_an_alien_one_is_beyond_its_limit():
    card = fitted(CARD, Predictions(overconfident(), overconfident(), []))
    assert card.embedding is not None
    views = overconfident().embedding
    assert (out_of_distribution.distance(views, card.embedding) > card.embedding.limit).mean() <= 0.05
    assert out_of_distribution.distance(np.full((1, 3), 9.0), card.embedding) > card.embedding.limit


def test_a_network_without_a_free_embedding_has_none_in_its_card():
    plain = overconfident()._replace(embedding=np.zeros((40, 0), np.float32))
    assert fitted(CARD, Predictions(plain, plain, [])).embedding is None


def test_a_segmenter_has_nothing_to_fit():
    assert fitted(LUNGS, Predictions(predicted(np.zeros((3, 0)), np.zeros((3, 0))), None, [])) == LUNGS


PREDICTIONS = Predictions(overconfident(), overconfident(), [])


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return draw(fitted(CARD, PREDICTIONS), EPOCHS, "score", PREDICTIONS, STUDIES)


def test_history_is_a_table_with_a_row_an_epoch_and_nothing_where_nothing_is_defined(files):
    rows = list(csv.DictReader(io.StringIO(files["history.csv"].decode())))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [row["valid_loss"] for row in rows] == ["0.5", "", "0.5"]
    assert (rows[0]["auroc_A"], rows[0]["auroc_B"], rows[0]["learning_rate"]) == ("0.9", "", "0.001")
    assert [row["accuracy"] for row in rows] == ["0.75", "", "0.75"]


def test_a_classifier_is_drawn_with_curves_roc_and_confusion(files):
    assert sorted(files) == ["confusion.png", "curves.png", "history.csv", "roc.png"]
    for name in ("confusion.png", "curves.png", "roc.png"):
        assert cv2.imdecode(np.frombuffer(files[name], np.uint8), cv2.IMREAD_COLOR).std() > 5


def test_a_segmenter_is_drawn_with_curves_and_panels_of_studies():
    masks = [np.pad(np.ones((size, size), bool), ((4, 28 - size), (4, 28 - size))) for size in (8, 12)]
    pixels = builders.radiograph(rows=32, columns=32)
    shown = [ViewMasks(key_of("study1"), pixels, *masks), ViewMasks(key_of("study0"), pixels, masks[0], masks[0])]
    predictions = Predictions(predicted(np.zeros((2, 0)), np.zeros((2, 0))), None, shown)
    files = draw(LUNGS, EPOCHS, "score", predictions, STUDIES)
    assert sorted(files) == ["curves.png", "history.csv", "panels.png"]
    sheet = cv2.imdecode(np.frombuffer(files["panels.png"], np.uint8), cv2.IMREAD_COLOR)
    assert sheet.shape[1] > sheet.shape[0] > 300  # three beside each other, two below


def test_the_worst_and_the_best_are_shown_and_some_between():
    views = predicted(np.zeros((40, 0)), np.zeros((40, 0)))._replace(dice=np.linspace(1, 0.5, 40))
    keys = keys_to_draw(views)
    assert (keys[0], keys[-1], len(keys)) == (views.key[-1], views.key[0], 5)
    assert len(keys_to_draw(predicted(np.zeros((2, 0)), np.zeros((2, 0))))) == 2


def test_a_predictor_says_what_the_network_says_with_its_last_features():
    torch.manual_seed(0)
    network = architectures.build_from_card(CARD).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (4, 64, 64), dtype=np.uint8)
    asked = {"key": np.arange(4), "pixels": pixels, "target": np.zeros((4, 2), np.float32)}
    said = ViewPredictor(CARD, weights.weights_bytes(network))(asked)
    plain = network(((torch.from_numpy(pixels)[:, None] / 255) - 0.5) / 0.25).sigmoid().detach().numpy()
    np.testing.assert_allclose(said.prob, plain, atol=1e-5)
    assert said.embedding.shape == (4, 512)
    head = replace(CARD, head="mlp-16")
    without = ViewPredictor(head, weights.weights_bytes(architectures.build_from_card(head)))(asked)
    assert (without.prob.shape, without.embedding.shape) == ((4, 2), (4, 0))


def test_a_predictor_of_masks_says_how_well_they_fit():
    torch.manual_seed(0)
    predictor = ViewPredictor(LUNGS, weights.weights_bytes(architectures.build_from_card(LUNGS)))
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    masks = predictor.masks(pixels)
    said = predictor({"key": np.arange(3), "pixels": pixels, "target": masks.astype(np.uint8)})
    assert said.dice.tolist() == [1, 1, 1]
    assert consensus.aggregate_views(np.ones((1, 0)), ()).shape == said.prob[0].shape == (0,)

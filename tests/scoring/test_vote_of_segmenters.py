"""Several segmenters vote: the mean of their probabilities is cut at one half."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import FINDINGS, png, radiograph, segmenter
from torch.nn.functional import interpolate

from cxrpipe.errors import ConfigError
from cxrpipe.images import masks
from cxrpipe.images.letterbox import Preparation
from cxrpipe.models import weights
from cxrpipe.models.card import Card, Crop
from cxrpipe.models.ensemble import Ensemble
from cxrpipe.models.folder import ModelFolder
from cxrpipe.models.normalise import normalise
from cxrpipe.records import Study, View
from cxrpipe.scoring.loop import score
from cxrpipe.scoring.predict import Predictor
from cxrpipe.scoring.predictions import Predictions
from cxrpipe.scoring.prepare import Preparer

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL, LARGE = Preparation("voi", 32), Preparation("voi", 64)
NUMBER = 3
LEFT_FIRST, HEART_FIRST = ("left_lung", "right_lung", "heart"), ("heart", "aorta", "right_lung", "left_lung")


@pytest.fixture(scope="module")
def voters(tmp_path_factory) -> tuple[ModelFolder, ...]:
    """Three segmenters: of lungs alone at 64 px, and two that name structures, in their own orders, at 32 px."""
    folder = tmp_path_factory.mktemp("voters")
    return (
        segmenter(folder / "a", seed=1, side_px=64),
        segmenter(folder / "b", seed=2, structures=LEFT_FIRST),
        segmenter(folder / "c", seed=3, structures=HEART_FIRST),
    )


@pytest.fixture(scope="module")
def pixels() -> dict[Preparation, np.ndarray]:
    rng = np.random.default_rng(0)
    return {each: rng.integers(0, 256, (NUMBER, each.side_px, each.side_px), np.uint8) for each in (SMALL, LARGE)}


def predicted(pixels: dict, *segmenters: ModelFolder, **settings: object) -> Predictions:
    ensemble = Ensemble((), segmenters, **settings)
    return Predictor(ensemble, "cpu").predict({each: pixels[each] for each in ensemble.preparations})


@pytest.fixture(scope="module")
def probs(voters, pixels) -> list[torch.Tensor]:
    """Of each voter, as its network alone gives them: (N, 1 or T, 64, 64)."""
    made = []
    with torch.inference_mode():
        for voter in voters:
            views = torch.from_numpy(pixels[voter.card.preparation])[:, None]
            of_voter = weights.load(voter)(normalise(views, voter.card)).sigmoid()
            made.append(interpolate(of_voter, (64, 64), mode="bilinear"))
    return made


def agrees(drawn: np.ndarray, mean: torch.Tensor) -> bool:
    """Whether a mask is where the mean exceeds one half, but for places that rounding decides."""
    sure = (mean - 0.5).abs() > 1e-5
    assert 0.01 < float(mean.gt(0.5).float().mean()) < 0.99
    return bool((torch.from_numpy(drawn)[sure] == mean.gt(0.5)[sure]).all())


def test_the_mask_is_where_the_mean_probability_exceeds_one_half_in_the_largest_frame(voters, pixels, tmp_path):
    small = segmenter(tmp_path, seed=5)
    with torch.inference_mode():
        first = weights.load(voters[0])(normalise(torch.from_numpy(pixels[LARGE])[:, None], voters[0].card))
        other = weights.load(small)(normalise(torch.from_numpy(pixels[SMALL])[:, None], small.card))
    mean = (first.sigmoid() + interpolate(other.sigmoid(), (64, 64), mode="bilinear"))[:, 0] / 2
    found = predicted(pixels, small, voters[0])
    assert found.masks.shape == (NUMBER, 64, 64)
    assert agrees(found.masks, mean)
    assert not np.array_equal(found.masks, predicted(pixels, voters[0]).masks)
    drawn = mean > 0.5
    dice = 2 * (mean * drawn).sum((1, 2)) / (mean.sum((1, 2)) + drawn.sum((1, 2)))
    np.testing.assert_allclose(found.expected_dice, dice, atol=1e-4)


def test_a_structure_is_decided_by_those_that_name_it_and_the_lungs_by_all(voters, pixels, probs):
    found = predicted(pixels, *voters)
    names = Ensemble((), voters).structures
    assert names == ("left_lung", "right_lung", "heart", "aorta")
    drawn = np.stack([found.structures(view) for view in range(NUMBER)], 1)
    lungs, left_first, heart_first = probs
    expected = {
        "left_lung": (left_first[:, 0] + heart_first[:, 3]) / 2,
        "right_lung": (left_first[:, 1] + heart_first[:, 2]) / 2,
        "heart": (left_first[:, 2] + heart_first[:, 0]) / 2,
        "aorta": heart_first[:, 1],
    }
    for mask, name in zip(drawn, names, strict=True):
        assert agrees(mask, expected[name]), name
    surer = left_first[:, :2].amax(1), heart_first[:, 2:].amax(1)
    mean = (lungs[:, 0] + sum(surer)) / 3  # resized after the maximum of two lungs, so places of the seam differ
    assert (found.masks == (mean > 0.5).numpy()).mean() > 0.99


@pytest.mark.slow
def test_two_votes_of_one_segmenter_draw_what_it_draws_alone(voters, pixels):
    for voter in voters:
        alone, twice = predicted(pixels, voter), predicted(pixels, voter, voter)
        np.testing.assert_array_equal(twice.masks, alone.masks)
        np.testing.assert_array_equal(twice.expected_dice, alone.expected_dice)
        np.testing.assert_array_equal(twice.structure_bits, alone.structure_bits)


def test_the_order_of_voters_changes_no_mask(voters, pixels):
    np.testing.assert_array_equal(predicted(pixels, *voters).masks, predicted(pixels, *voters[::-1]).masks)


def test_no_views_give_masks_of_the_common_frame(voters, pixels):
    some, none = (predicted({key: each[:number] for key, each in pixels.items()}, *voters) for number in (NUMBER, 0))
    assert none.mask_bits.shape == (0, *some.mask_bits.shape[1:])
    assert none.structure_bits.shape == (0, *some.structure_bits.shape[1:])


@pytest.mark.parametrize("fit", ["letterbox", "squash", "center-crop"])
def test_masks_lie_in_the_letterbox_of_the_largest_side(fit, tmp_path):
    """The way back to the view is that of the frame on which the voters draw."""
    voters = [segmenter(tmp_path / name, side_px=side, fit=fit) for name, side in (("a", 32), ("b", 64))]
    (tmp_path / "x.png").write_bytes(png(radiograph(0, 80, 50)))
    study = Study(study_id="x", study_digest="d", views=(View(url=str(tmp_path / "x.png")),))
    ensemble = Ensemble((), (*voters,))
    (rows,) = score([study], Preparer(None, ensemble, None), Predictor(ensemble, "cpu"))
    ((mask,),) = rows["masks"].to_pylist()
    drawn = masks.decode(mask)
    assert drawn.shape == (64, 64)
    if fit != "letterbox":
        assert not drawn[:, :12].any()  # beside the view
        assert drawn.any()


# ---- what does not go together -----------------------------------------------------------------------------------

LUNGS = Card(task="segment", architecture="unet-resnet18", side_px=32, mean=0.5, std=0.25, weights_sha256="1" * 64)
CROPS = Card(
    task="classify",
    architecture="resnet18",
    side_px=32,
    mean=0.5,
    std=0.25,
    findings=FINDINGS,
    crop=Crop(LUNGS.weights_sha256, 0.1),
)


def ensemble(*segmenters: Card, members: tuple[Card, ...] = ()) -> Ensemble:
    of_cards = [ModelFolder(f"/lungs/{number}", card) for number, card in enumerate(segmenters)]
    return Ensemble(tuple(ModelFolder("/models/a", member) for member in members), (*of_cards,))


@pytest.mark.parametrize(
    "changed", [{"fit": "squash"}, {"fit": "center-crop"}, {"fit": "center-crop", "crop_fraction": 0.9}]
)
def test_segmenters_that_fit_views_differently_do_not_vote(changed):
    other = replace(LUNGS, **changed)
    assert ensemble(other, replace(other, side_px=64)).mask_frame.side_px == 64
    with pytest.raises(
        ConfigError, match=r"/lungs/0 and /lungs/1 differ in fit: letterbox 1 against .* fit views alike"
    ):
        ensemble(LUNGS, other)


def test_segmenters_alone_see_the_same_views():
    with pytest.raises(ConfigError, match=r"/lungs/0 and /lungs/1 differ in views: frontal against all"):
        ensemble(LUNGS, replace(LUNGS, views="all"))


def test_a_member_that_crops_to_the_lungs_of_one_takes_no_vote():
    other = replace(LUNGS, weights_sha256="2" * 64)
    assert ensemble(LUNGS, members=(CROPS,)).segmenters[0].card == LUNGS
    with pytest.raises(
        ConfigError, match=r"/models/a: crops .* --segmenter, without the other 1 \(weights_sha256 1111"
    ):
        ensemble(LUNGS, other, members=(CROPS,))
    with pytest.raises(ConfigError, match=r"name that one with --segmenter \(weights_sha256 1111"):
        ensemble(other, members=(CROPS,))


def test_the_fingerprint_covers_every_voter():
    other, third = replace(LUNGS, weights_sha256="2" * 64), replace(LUNGS, weights_sha256="3" * 64)
    votes = [(LUNGS,), (other,), (LUNGS, other), (LUNGS, third), (LUNGS, other, third), (LUNGS, LUNGS)]
    assert len({ensemble(*voters).fingerprint for voters in votes}) == len(votes)


def test_one_segmenter_keeps_the_fingerprint_that_it_had_before_there_were_votes():
    assert ensemble(LUNGS).fingerprint == "c4dfa4380b5419a553c3e7d3252d66d3"

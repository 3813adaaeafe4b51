"""Prepared pixels through real, small networks."""

import numpy as np
import pytest
import torch
from builders import FINDINGS, segmenter, small_classifier
from torch import Tensor
from torchvision.transforms import functional

from cxrpipe.errors import DeviceLostError
from cxrpipe.images.letterbox import Preparation
from cxrpipe.models import architectures, weights
from cxrpipe.models.card import Card
from cxrpipe.models.ensemble import VARIANTS, Ensemble, Variant
from cxrpipe.models.folder import ModelFolder, save_model
from cxrpipe.models.normalise import normalise
from cxrpipe.models.tensors import moved
from cxrpipe.scoring.predict import Predictor
from cxrpipe.scoring.predictions import Predictions

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL, LARGE = Preparation("voi", 32), Preparation("voi", 64)
TOLERANCE = 1e-5


def views(number: int, side_px: int, seed: int = 0) -> np.ndarray:
    """(N, S, S) uint8"""
    return np.random.default_rng(seed).integers(0, 256, (number, side_px, side_px), dtype=np.uint8)


def pixels(number: int) -> dict[Preparation, np.ndarray]:
    return {SMALL: views(number, 32), LARGE: views(number, 64, seed=1)}


@pytest.fixture(scope="module")
def predictor(members, lungs) -> Predictor:
    return Predictor(Ensemble(members, (lungs,)), device="cpu")


def test_normalisation_equals_numpys():
    card = Card(task="classify", architecture="resnet18", side_px=32, mean=0.449, std=0.226, findings=FINDINGS)
    own = normalise(torch.from_numpy(views(3, 32))[:, None], card)
    expected = (views(3, 32)[:, None].astype(np.float64) / 255 - 0.449) / 0.226
    assert own.dtype == torch.float32
    np.testing.assert_allclose(own.numpy(), expected, atol=1e-6)


def test_predictions_are_probabilities_of_every_member_and_masks(predictor):
    found = predictor.predict(pixels(5))
    probs, lungs = found.probs, found.masks
    assert (probs.shape, probs.dtype) == ((2, 5, len(FINDINGS)), np.float32)
    assert ((probs > 0) & (probs < 1)).all()
    assert (lungs.shape, lungs.dtype) == ((5, 32, 32), np.bool_)


def test_a_view_is_judged_alike_alone_and_in_a_batch(predictor):
    found = predictor.predict(pixels(5))
    probs, lungs = found.probs, found.masks
    assert probs.std(axis=1).min() > 100 * TOLERANCE  # so a mix-up would show
    for number in range(5):
        alone = predictor.predict({key: all_[number : number + 1] for key, all_ in pixels(5).items()})
        np.testing.assert_allclose(alone.probs[:, 0], probs[:, number], atol=TOLERANCE)
        assert np.mean(alone.masks[0] != lungs[number]) < 0.005  # a logit of nearly zero may fall on either side


def test_members_stand_in_the_order_of_the_ensemble_each_with_its_own_side(predictor, members):
    probs = predictor.predict(pixels(4)).probs
    reversed_ = Predictor(Ensemble(members[::-1]), device="cpu").predict(pixels(4)).probs
    np.testing.assert_allclose(reversed_, probs[::-1], atol=TOLERANCE)
    assert np.abs(probs[0] - probs[1]).max() > 0.01


def test_a_member_that_knows_fewer_findings_has_nan_for_the_others_and_changes_no_other_number(tmp_path, members):
    single = small_classifier(tmp_path / "single", seed=3, findings=("Cardiomegaly",))
    found = Predictor(Ensemble((single, members[0])), device="cpu").predict({SMALL: views(4, 32)}).probs
    alone = [
        Predictor(Ensemble((each,)), device="cpu").predict({SMALL: views(4, 32)}).probs for each in (single, members[0])
    ]
    assert found.shape == (2, 4, 2)
    np.testing.assert_array_equal(found[0, :, 0], alone[0][0, :, 0])
    assert np.isnan(found[0, :, 1]).all()
    np.testing.assert_array_equal(found[1], alone[1][0][:, ::-1])  # Cardiomegaly, the first to appear, stands first


def test_a_member_predicts_what_its_network_says_of_its_normalised_pixels(members):
    member = members[0]
    with torch.inference_mode():
        logits = weights.load(member)(normalise(torch.from_numpy(views(4, 32))[:, None], member.card))
    own = Predictor(Ensemble((member,)), device="cpu").predict({SMALL: views(4, 32)}).probs[0]
    np.testing.assert_allclose(own, logits.sigmoid().numpy(), atol=TOLERANCE)


def constant_segmenter(url: str, prob: float) -> ModelFolder:
    """A U-Net that says `prob` of every pixel."""
    card = Card(task="segment", architecture="unet-resnet18", side_px=32, mean=0.5, std=0.25, views="all")
    network = architectures.build_from_card(card)
    head = network.segmentation_head[0]
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.constant_(head.bias, float(np.log(prob / (1 - prob))))
    return save_model(url, card, weights.weights_bytes(network), facts={})


@pytest.mark.parametrize(("prob", "drawn"), [(0.499, False), (0.501, True)])
def test_a_pixel_is_lung_above_a_probability_of_one_half(prob, drawn, tmp_path):
    segmenter = constant_segmenter(str(tmp_path), prob)
    lungs = Predictor(Ensemble((), (segmenter,)), device="cpu").predict({SMALL: views(2, 32)}).masks
    assert (lungs == drawn).all()


def test_a_segmenter_alone_gives_masks_and_no_probabilities(lungs):
    predictions = Predictor(Ensemble((), (lungs,)), device="cpu").predict({SMALL: views(2, 32)})
    assert predictions.probs.shape == (0, 2, 0)
    assert predictions.masks.shape == (2, 32, 32)


def test_without_a_segmenter_there_are_no_masks(members):
    assert Predictor(Ensemble(members), device="cpu").predict(pixels(1)).masks is None


def test_no_views_give_no_rows_of_the_same_shape(predictor):
    found = predictor.predict(pixels(0))
    probs, lungs = found.probs, found.masks
    assert probs.shape == (2, 0, len(FINDINGS))
    assert lungs.shape == (0, 32, 32)


def test_read_only_pixels_are_taken_without_a_warning_and_left_as_they_are(predictor):
    given = pixels(2)
    for array in given.values():
        array.flags.writeable = False
    torch.set_warn_always(True)  # else torch says it once in a process, and another test may have heard it
    try:
        probs = predictor.predict(given).probs
    finally:
        torch.set_warn_always(False)
    np.testing.assert_array_equal(probs, predictor.predict(pixels(2)).probs)


def test_device_precision_and_kernels_are_told(predictor):
    assert predictor.computed_on == "cpu float32 fused"


# ---- as the card says -----------------------------------------------------------------------------------------


def by_hand(member: ModelFolder, films: Tensor) -> Tensor:
    """(N, outputs) logits of (N, 1, S, S) float, 0..1."""
    with torch.inference_mode():
        return weights.load(member)(normalise(films, member.card))


@pytest.mark.parametrize("tta", [False, True])
def test_a_softmax_counts_the_output_that_is_dropped(tmp_path, tta):
    names = {"output": "softmax", "outputs": ("", "Pneumonia", "Cardiomegaly")}
    member = small_classifier(tmp_path, **names)
    found = Predictor(Ensemble((member,), tta=tta), device="cpu").predict({SMALL: views(4, 32)}).probs[0]
    plain = torch.from_numpy(views(4, 32))[:, None] / 255
    looks = [plain, *(moved(plain, variant) for variant in (VARIANTS if tta else ()))]
    exponents = [by_hand(member, look).double().exp() for look in looks]
    expected = torch.stack([each[:, 1:] / each.sum(1, keepdim=True) for each in exponents]).mean(0)
    np.testing.assert_allclose(found, expected.numpy(), atol=TOLERANCE)
    assert (found.sum(1) < 0.99).all()


def test_an_output_that_is_no_finding_is_dropped(tmp_path):
    member = small_classifier(tmp_path, outputs=("Pneumonia", "", "Cardiomegaly", ""))
    found = Predictor(Ensemble((member,)), device="cpu").predict({SMALL: views(4, 32)}).probs[0]
    logits = by_hand(member, torch.from_numpy(views(4, 32))[:, None] / 255)
    np.testing.assert_allclose(found, logits[:, [0, 2]].sigmoid().numpy(), atol=TOLERANCE)


def test_every_channel_has_its_own_mean_and_std():
    card = {"task": "classify", "architecture": "resnet18", "side_px": 32, "findings": FINDINGS, "channels": 3}
    films = torch.from_numpy(views(2, 32))[:, None]
    found = normalise(films, Card(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), **card))
    expected = functional.normalize((films / 255).expand(-1, 3, -1, -1), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    torch.testing.assert_close(found, expected)
    alike = normalise(films, Card(mean=0.5, std=0.25, **card))
    torch.testing.assert_close(alike, (films / 255).expand(-1, 3, -1, -1) * 4 - 2)


# ---- structures -----------------------------------------------------------------------------------------------

STRUCTURES = ("heart", "left_lung", "aorta", "right_lung")


@pytest.fixture(scope="module")
def anatomy(tmp_path_factory) -> ModelFolder:
    return segmenter(tmp_path_factory.mktemp("anatomy"), structures=STRUCTURES)


def test_structures_are_where_their_logits_are_positive_and_the_lungs_are_two_of_them(anatomy):
    found = Predictor(Ensemble((), (anatomy,)), device="cpu").predict({SMALL: views(3, 32)})
    logits = by_hand(anatomy, torch.from_numpy(views(3, 32))[:, None] / 255).numpy()
    for view in range(3):
        drawn = found.structures(view)
        assert drawn.shape == (len(STRUCTURES), 32, 32)
        sure = np.abs(logits[view]) > 1e-4
        assert np.array_equal(drawn[sure], logits[view][sure] > 0)
        assert np.array_equal(found.masks[view], drawn[1] | drawn[3])
    assert 0.05 < found.masks.mean() < 0.95
    assert not np.array_equal(found.structures(0)[0], found.structures(0)[2])


def test_the_expected_dice_is_that_of_the_lungs(anatomy):
    found = Predictor(Ensemble((), (anatomy,)), device="cpu").predict({SMALL: views(3, 32)})
    logits = by_hand(anatomy, torch.from_numpy(views(3, 32))[:, None] / 255)
    probs = logits[:, [1, 3]].sigmoid().amax(1)
    drawn = probs > 0.5
    expected = 2 * (probs * drawn).sum((1, 2)) / (probs.sum((1, 2)) + drawn.sum((1, 2)))
    np.testing.assert_allclose(found.expected_dice, expected, atol=1e-4)


def test_structures_of_some_views_and_of_none_keep_their_shape(anatomy):
    predictor = Predictor(Ensemble((), (anatomy,)), device="cpu")
    every, none = (predictor.predict({SMALL: views(number, 32)}) for number in (5, 0))
    assert none.structure_bits.shape == (0, *every.structure_bits.shape[1:])
    joined = Predictions.joined([every.of(slice(0, 2)), none, every.of(slice(2, 5))])
    assert np.array_equal(joined.structure_bits, every.structure_bits)


# ---- variants -------------------------------------------------------------------------------------------------


def test_a_variant_that_changes_nothing_is_the_view_itself():
    films = torch.from_numpy(views(2, 32))[:, None] / 255
    torch.testing.assert_close(moved(films, Variant(1.0, 0.0, 0.0)), films, atol=1e-5, rtol=0)


def test_a_variant_is_shifted_to_the_right_and_down_and_black_comes_in():
    films = torch.zeros(1, 1, 10, 10)
    films[..., 4, 5] = 1.0
    found = moved(films, Variant(1.0, 0.2, 0.1))[0, 0]
    assert found.argmax() == 5 * 10 + 7
    assert moved(torch.ones(1, 1, 10, 10), Variant(1.0, 0.2, 0.0))[0, 0, 0].tolist() == [0, 0, *[1] * 8]


def test_a_variant_is_enlarged_about_the_centre():
    films = torch.zeros(1, 1, 40, 40)
    films[..., 15:25, 15:25] = 1.0
    found = moved(films, Variant(1.2, 0.0, 0.0))[0, 0]
    assert float(found.sum()) == pytest.approx(144, rel=0.02)
    torch.testing.assert_close(found, found.flip(0, 1), atol=1e-5, rtol=0)


def test_variants_are_averaged_as_probabilities_and_masks_are_of_the_view_itself(members, lungs):
    member = members[1]
    predictor = Predictor(Ensemble((member,), (lungs,), tta=True), device="cpu")
    found = predictor.predict(pixels(3))
    plain = torch.from_numpy(views(3, 64, seed=1))[:, None] / 255
    network = weights.load(member)
    with torch.inference_mode():
        looks = [plain, *(moved(plain, variant) for variant in VARIANTS)]
        expected = torch.stack([network(normalise(look, member.card)).sigmoid() for look in looks]).mean(0)
    np.testing.assert_allclose(found.probs[0], expected.numpy(), atol=TOLERANCE)
    once = Predictor(Ensemble((member,), (lungs,)), device="cpu").predict(pixels(3))
    np.testing.assert_array_equal(found.masks, once.masks)
    assert np.abs(found.probs - once.probs).max() > 100 * TOLERANCE


def test_no_variant_is_mirrored():
    """The heart would lie on the right."""
    assert all(variant.scale > 0 for variant in VARIANTS)


# ---- how sure the segmenter is --------------------------------------------------------------------------------


@pytest.mark.parametrize("prob", [0.501, 0.8, 0.999])
def test_the_expected_dice_follows_from_the_probabilities_of_the_mask(prob, tmp_path):
    segmenter = constant_segmenter(str(tmp_path), prob)
    found = Predictor(Ensemble((), (segmenter,)), device="cpu").predict({SMALL: views(2, 32)})
    assert found.expected_dice == pytest.approx([2 * prob / (prob + 1)] * 2, abs=1e-4)


def test_predictions_of_some_views_are_their_own(predictor):
    every = predictor.predict(pixels(5))
    own = every.of(slice(1, 3))
    np.testing.assert_array_equal(own.probs, every.probs[:, 1:3])
    np.testing.assert_array_equal(own.masks, every.masks[1:3])
    np.testing.assert_array_equal(own.expected_dice, every.expected_dice[1:3])
    assert (own.maps, own.out_of_distribution) == (None, None)


# ---- memory of the device, and a device that is lost ------------------------------------------------------------


class Small:
    """A device with memory for so many views."""

    def __init__(self, predictor: Predictor, views: int, error: Exception) -> None:
        self._queue, self._views, self._error = predictor._queue, views, error
        self.given: list[int] = []

    def __call__(self, pixels: dict[Preparation, np.ndarray]) -> object:
        self.given.append(len(pixels[SMALL]))
        if self.given[-1] > self._views:
            raise self._error
        return self._queue(pixels)


NO_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried to"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:114] data. DefaultCPUAllocator: not enough memory: you tried to"),
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    MemoryError("bad allocation"),
    RuntimeError("could not create a primitive"),
]


@pytest.mark.parametrize("error", NO_MEMORY, ids=[str(error)[:30] for error in NO_MEMORY])
def test_without_memory_for_a_batch_it_is_halved_and_the_size_that_worked_is_kept(members, lungs, monkeypatch, error):
    said: list[str] = []
    predictor = Predictor(Ensemble(members[:1], (lungs,)), device="cpu", say=said.append)
    whole = predictor.predict(pixels(8))
    small = Small(predictor, 3, error)
    monkeypatch.setattr(predictor, "_queue", small)
    for _ in range(2):
        halved = predictor.predict(pixels(8))
        np.testing.assert_allclose(halved.probs, whole.probs, atol=TOLERANCE)
        assert halved.masks.shape == whole.masks.shape
    assert small.given == [8, 4, 2, 2, 2, 2, 2, 2, 2, 2]
    assert said == [
        "no memory for 8 views at once; from now on 4 at a time",
        "no memory for 4 views at once; from now on 2 at a time",
    ]


def test_heat_maps_and_embeddings_of_halves_are_those_of_the_whole(members):
    predictor = Predictor(Ensemble(members, explain=True), device="cpu", say=lambda line: None)
    whole = predictor.predict(pixels(5))
    predictor.views_at_once = 2
    halved = predictor.predict(pixels(5))
    for one, other in zip(whole.maps, halved.maps, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_what_onednn_does_not_support_is_raised_at_once(members, lungs, monkeypatch):
    logged_lines: list[str] = []
    predictor = Predictor(Ensemble(members[:1], (lungs,)), device="cpu", say=logged_lines.append)
    unsupported = RuntimeError("could not create a primitive descriptor for the convolution")
    monkeypatch.setattr(predictor, "_queue", Small(predictor, 3, unsupported))
    with pytest.raises(RuntimeError, match="primitive descriptor"):
        predictor.predict(pixels(8))
    assert not logged_lines


def test_a_view_that_does_not_fit_alone_is_raised(members, lungs, monkeypatch):
    predictor = Predictor(Ensemble(members[:1], (lungs,)), device="cpu", say=lambda line: None)
    monkeypatch.setattr(predictor, "_queue", Small(predictor, 0, NO_MEMORY[0]))
    with pytest.raises(torch.OutOfMemoryError):
        predictor.predict(pixels(4))


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: device-side assert triggered"),
        RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be"),
        RuntimeError("CUDA error: unspecified launch failure"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    ],
)
def test_an_error_after_which_a_device_answers_no_more_is_no_fault_of_a_study(members, monkeypatch, error):
    predictor = Predictor(Ensemble(members[:1]), device="cpu")
    monkeypatch.setattr(predictor, "_queue", Small(predictor, 0, error))
    with pytest.raises(DeviceLostError, match="cpu fails: ") as caught:
        predictor.predict(pixels(4))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("words", ["mat1 and mat2 shapes cannot be multiplied", "CUDA error: invalid argument"])
def test_an_error_of_one_call_is_raised_as_it_is(members, monkeypatch, words):
    predictor = Predictor(Ensemble(members[:1]), device="cpu")
    monkeypatch.setattr(predictor, "_queue", Small(predictor, 0, RuntimeError(words)))
    with pytest.raises(RuntimeError, match=words):
        predictor.predict(pixels(4))

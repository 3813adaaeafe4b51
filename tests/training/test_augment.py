"""Variation of training images: bounds, masks that follow, and what is never done unasked."""

import pytest
import torch

from cxrpipe.config import TrainConfig
from cxrpipe.config.augment import AugmentConfig
from cxrpipe.config.train_sections import LossConfig
from cxrpipe.errors import ConfigError
from cxrpipe.training.augment import augment, mix
from cxrpipe.training.degrade import blur

pytestmark = pytest.mark.usefixtures("one_thread")
SIDE_PX = 32
ALL = AugmentConfig(
    rotation_deg=10,
    shift_fraction=0.1,
    shear_deg=5,
    zoom_fraction=0.1,
    gamma=0.5,
    brightness=0.2,
    contrast=0.2,
    blur_fraction=0.03,
    resolution_fraction=0.7,
    noise=0.05,
    erase_fraction=0.4,
    crop=0.5,
    jitter=0.2,
)
GEOMETRY = {
    "crop": 0.3,
    "rotation_deg": 30.0,
    "shift_fraction": 0.2,
    "shear_deg": 20.0,
    "zoom_fraction": 0.5,
    "flip": True,
}


def disc(row: int, column: int, number: int = 16) -> torch.Tensor:
    """(N, 1, S, S) uint8: black, and white within 4 px of a place."""
    rows, columns = torch.meshgrid(torch.arange(SIDE_PX), torch.arange(SIDE_PX), indexing="ij")
    inside = (rows - row) ** 2 + (columns - column) ** 2 <= 16
    return (inside[None, None] * 255).to(torch.uint8).repeat(number, 1, 1, 1)


def varied(pixels: torch.Tensor, seed: int = 0, masks: torch.Tensor | None = None, **settings: object) -> torch.Tensor:
    torch.manual_seed(seed)
    return augment(pixels, masks, AugmentConfig(**settings))[0]  # type: ignore[arg-type]


def test_without_settings_nothing_changes():
    pixels, masks = disc(10, 20), (disc(10, 20) > 0).float()
    same, same_masks = augment(pixels, masks, AugmentConfig())
    assert torch.equal(same, pixels.float() / 255)
    assert same_masks is masks


def test_what_comes_out_is_a_float_of_the_same_shape_between_0_and_1():
    noisy = torch.randint(0, 256, (8, 1, SIDE_PX, SIDE_PX), dtype=torch.uint8)
    out, _ = augment(noisy, None, ALL)
    assert (out.shape, out.dtype) == (noisy.shape, torch.float32)
    assert 0 <= float(out.min()) < float(out.max()) <= 1


@pytest.mark.parametrize("setting", GEOMETRY)
def test_masks_follow_their_images(setting):
    pixels = disc(10, 20)
    torch.manual_seed(1)
    moved, masks = augment(pixels, (pixels > 0).float(), AugmentConfig(**{setting: GEOMETRY[setting]}))
    assert torch.equal(masks, (moved >= 0.5).float())
    assert not torch.equal(masks, (pixels > 0).float())


@pytest.mark.parametrize("setting", [*GEOMETRY, "jitter", "gamma", "brightness", "contrast", "noise"])
def test_every_image_is_varied_for_itself_and_the_same_under_the_same_seed(setting):
    settings = {setting: GEOMETRY.get(setting, 0.3)}
    first, same, other = (varied(disc(10, 20) // 2 + 60, seed, **settings) for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert len({tuple(image.flatten().tolist()) for image in first}) == (2 if setting == "flip" else 16)


def test_a_random_crop_shows_a_part_of_the_image_of_the_asked_size_and_shape():
    rows, columns = (torch.arange(64.0)[:, None].expand(64, 64), torch.arange(64.0)[None].expand(64, 64))
    places = torch.stack([rows, columns]).to(torch.uint8)[:, None]  # two images: their values are their places
    torch.manual_seed(0)
    parts = [augment(places[:1].repeat(300, 1, 1, 1), None, AugmentConfig(crop=0.25), 32)[0]]
    torch.manual_seed(0)
    parts += [augment(places[1:].repeat(300, 1, 1, 1), None, AugmentConfig(crop=0.25), 32)[0]]
    down, across = (part[:, 0] * 255 for part in parts)
    assert down.shape == (300, 32, 32)
    height = (down[:, -1, 0] - down[:, 0, 0]) * 32 / 31 / 64
    width = (across[:, 0, -1] - across[:, 0, 0]) * 32 / 31 / 64
    assert float(down.min()) >= 0
    assert float(across.max()) <= 63
    area, ratio = height * width, width / height
    assert 0.24 < float(area.min()) < 0.3
    assert 0.93 < float(area.max()) <= 1.001
    assert 0.74 < float(ratio.min()) < 0.8
    assert 1.25 < float(ratio.max()) < 1.35
    assert float((height * width).mean()) == pytest.approx(0.62, abs=0.03)


def test_colour_jitter_scales_brightness_and_contrast_about_the_mean():
    pixels = torch.tensor([100, 120, 140, 160], dtype=torch.uint8).repeat(300, 1).view(300, 1, 2, 2)
    jittered = varied(pixels, jitter=0.2)
    means = jittered.mean(dim=(1, 2, 3)) / (130 / 255)
    spans = (jittered.amax(dim=(1, 2, 3)) - jittered.amin(dim=(1, 2, 3))) / (60 / 255)
    assert 0.8 - 1e-4 <= float(means.min()) < 0.81
    assert 1.19 < float(means.max()) <= 1.2 + 1e-4
    contrast = spans / means
    assert 0.8 - 1e-4 <= float(contrast.min()) < 0.81
    assert 1.19 < float(contrast.max()) <= 1.2 + 1e-4


def test_a_shift_stays_within_its_bound_in_both_directions():
    weight = torch.arange(SIDE_PX) + 0.5
    moved = varied(disc(16, 16, 200), shift_fraction=0.1)[:, 0]  # (N, S, S)
    rows = (moved.sum(dim=2) * weight).sum(dim=1) / moved.sum(dim=(1, 2)) - 16.5
    assert float(rows.abs().max()) <= 0.1 * SIDE_PX + 0.05
    assert float(rows.min()) < -2
    assert float(rows.max()) > 2


def test_zoom_makes_larger_and_smaller_within_its_bound():
    area = varied(disc(16, 16, 200), zoom_fraction=0.2).sum(dim=(1, 2, 3)) / float((disc(16, 16, 1) > 0).sum())
    assert float(area.min()) == pytest.approx(1 / 1.44, abs=0.06)
    assert float(area.max()) == pytest.approx(1.44, abs=0.06)


def test_nothing_is_mirrored_unasked():
    left = disc(16, 6, 200)
    moved = varied(left, rotation_deg=15, shift_fraction=0.1, shear_deg=10, zoom_fraction=0.1)
    halves = moved[..., : SIDE_PX // 2].sum(dim=(1, 2, 3)), moved[..., SIDE_PX // 2 :].sum(dim=(1, 2, 3))
    assert bool((halves[0] > halves[1]).all())
    mirrored = varied(left, flip=True)
    assert torch.equal(mirrored.flip(3).flatten(1).amax(1), mirrored.flatten(1).amax(1))
    on_the_right = int((mirrored[..., SIDE_PX // 2 :].sum(dim=(1, 2, 3)) > 0).sum())
    assert 70 < on_the_right < 130


def test_what_comes_from_beyond_the_border_is_what_lies_there():
    white = torch.full((50, 1, SIDE_PX, SIDE_PX), 255, dtype=torch.uint8)
    moved = varied(white, shift_fraction=0.3, rotation_deg=10, zoom_fraction=0.3)
    assert float(moved.min()) == pytest.approx(1)


def test_contrast_keeps_the_mean_and_brightness_the_differences():
    pixels = torch.randint(110, 140, (8, 1, SIDE_PX, SIDE_PX), dtype=torch.uint8)
    stretched = varied(pixels, contrast=0.5)
    plain = pixels.float() / 255
    torch.testing.assert_close(stretched.mean(dim=(1, 2, 3)), plain.mean(dim=(1, 2, 3)), rtol=1e-4, atol=1e-4)
    shifted = varied(pixels, brightness=0.2) - plain
    torch.testing.assert_close(shifted.amax(dim=(1, 2, 3)), shifted.amin(dim=(1, 2, 3)), rtol=0, atol=1e-5)
    assert float(shifted.abs().max()) <= 0.2 + 1e-5


def test_black_may_come_from_beyond_the_border_and_is_in_no_mask():
    white = torch.full((50, 1, SIDE_PX, SIDE_PX), 255, dtype=torch.uint8)
    torch.manual_seed(0)
    moved, masks = augment(white, (white > 0).float(), AugmentConfig(shift_fraction=0.3, border="black"))
    assert float(moved.min()) == 0
    assert torch.equal(masks, (moved >= 0.5).float())


def test_gamma_keeps_black_and_white_and_goes_in_both_directions():
    steps = torch.tensor([0, 64, 255], dtype=torch.uint8).repeat(200, 1)[:, None, None].expand(200, 1, 3, 3)
    varied_steps = varied(steps, gamma=0.5)[:, 0, 0]
    assert torch.equal(varied_steps[:, [0, 2]], torch.tensor([0.0, 1.0]).expand(200, 2))
    bounds = [(64 / 255) ** 1.5, (64 / 255) ** (1 / 1.5)]
    assert bounds[0] - 1e-6 <= float(varied_steps[:, 1].min()) < bounds[0] + 0.02
    assert bounds[1] - 0.02 < float(varied_steps[:, 1].max()) <= bounds[1] + 1e-6


def test_every_image_is_blurred_by_a_gaussian_of_its_own():
    import cv2

    pixels = torch.rand(4, 1, SIDE_PX, SIDE_PX)
    sigmas = torch.tensor([0.0, 0.5, 1.0, 2.0])
    blurred = blur(pixels, sigmas, 2.0)
    torch.testing.assert_close(blurred[0], pixels[0])
    for number, sigma in enumerate(sigmas[1:].tolist(), start=1):
        expected = cv2.GaussianBlur(pixels[number, 0].numpy(), (13, 13), sigma, borderType=cv2.BORDER_REPLICATE)
        torch.testing.assert_close(blurred[number, 0], torch.from_numpy(expected), rtol=0, atol=2e-3)


def test_half_of_the_images_lose_resolution():
    noisy = torch.randint(0, 256, (200, 1, SIDE_PX, SIDE_PX), dtype=torch.uint8)
    coarser = varied(noisy, seed=0, resolution_fraction=0.8)
    same = (coarser == noisy.float() / 255).flatten(1).all(dim=1)
    assert 70 < int(same.sum()) < 130
    assert float(coarser[~same].std()) < float(coarser[same].std())


def test_erased_rectangles_cover_half_of_the_images_within_their_bound():
    black = torch.zeros((400, 1, SIDE_PX, SIDE_PX), dtype=torch.uint8)
    erased = varied(black, erase_fraction=0.5) > 0
    covered = erased.flatten(1).any(dim=1)
    assert 150 < int(covered.sum()) < 250
    assert int(erased.sum(dim=2).max()) <= 0.5 * SIDE_PX + 1
    assert int(erased.sum(dim=3).max()) <= 0.5 * SIDE_PX + 1
    assert float(erased[covered].float().mean()) > 0.02


def test_mixing_adds_images_and_targets_in_the_same_shares():
    torch.manual_seed(0)
    pixels = torch.eye(8).view(8, 1, 1, 8)  # every image has its own place
    mixed, targets = mix(pixels, pixels.view(8, 8), alpha=1.0)
    torch.testing.assert_close(mixed.view(8, 8), targets)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(8))
    assert bool((targets.diagonal() >= 0.5).all())
    assert float(targets.diagonal().min()) < 0.95


def test_a_target_that_is_not_known_stays_unknown_in_its_mixture():
    torch.manual_seed(1)
    targets = torch.tensor([[1.0, torch.nan], [0.0, 1.0]]).repeat(8, 1)
    _, mixed = mix(torch.zeros(16, 1, 2, 2), targets, alpha=1.0)
    assert bool(mixed[::2, 1].isnan().all())
    assert not bool(mixed[:, 0].isnan().any())


def test_mixing_is_refused_where_a_mixture_means_nothing():
    wanted = {"studies": "t", "out": "o", "augment": AugmentConfig(mixup=0.2)}
    with pytest.raises(ConfigError, match="a segmenter"):
        TrainConfig(task="segment", **wanted)
    with pytest.raises(ConfigError, match="third class"):
        TrainConfig(task="classify", loss=LossConfig(uncertain="multi-class"), **wanted)

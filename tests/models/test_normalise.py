"""What a network is shown: pixels by fixed statistics, or by those of each image."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cxrpipe.models.card import Card
from cxrpipe.models.normalise import middle, normalise

FIXED = Card(task="segment", architecture="unet-resnet18", side_px=32, mean=0.4, std=0.2, views="all")
SAMPLEWISE = replace(FIXED, samplewise=True)


@pytest.fixture(scope="module")
def views() -> torch.Tensor:
    rng = np.random.default_rng(0)
    pixels = [rng.integers(low, high, (1, 32, 32), dtype=np.uint8) for low, high in ((0, 50), (100, 255))]
    return torch.from_numpy(np.stack(pixels))


def test_samplewise_every_image_is_standardised_by_itself_as_keras_does(views):
    pixels = views.numpy() / 255
    expected = [(image - image.mean()) / (image.std() + 1e-6) for image in pixels]
    torch.testing.assert_close(normalise(views, SAMPLEWISE), torch.tensor(np.stack(expected), dtype=torch.float32))


def test_samplewise_brightness_and_contrast_of_an_image_change_nothing(views):
    changed = views.float() / 255 * 0.5 + 0.1
    torch.testing.assert_close(normalise(changed, SAMPLEWISE), normalise(views, SAMPLEWISE), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(normalise(changed, FIXED), normalise(views, FIXED), atol=0.1)


def test_samplewise_an_image_without_contrast_is_0_everywhere():
    assert not normalise(torch.full((1, 1, 32, 32), 200, dtype=torch.uint8), SAMPLEWISE).any()


def test_samplewise_three_channels_hold_the_same(views):
    three = normalise(views, replace(SAMPLEWISE, channels=3))
    assert three.shape == (2, 3, 32, 32)
    assert all(torch.equal(three[:, channel : channel + 1], normalise(views, SAMPLEWISE)) for channel in range(3))


def test_the_middle_of_an_image_is_as_far_from_every_border(views):
    assert torch.equal(middle(views, 28), views[..., 2:30, 2:30])
    assert torch.equal(middle(views, 32), views)

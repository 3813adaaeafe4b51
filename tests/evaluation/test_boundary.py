import numpy as np
import pytest
from scipy.ndimage import binary_erosion, distance_transform_edt

from cxrpipe.evaluation.boundary import Boundary, distances_px


def scipys(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    edges = [mask & ~binary_erosion(mask) for mask in (predicted, truth)]
    return np.concatenate([distance_transform_edt(~edges[1])[edges[0]], distance_transform_edt(~edges[0])[edges[1]]])


@pytest.mark.parametrize("seed", range(4))
def test_distances_equal_scipys(seed):
    rng = np.random.default_rng(seed)
    predicted, truth = (np.kron(rng.random((5, 6)) < 0.4, np.ones((9, 7))).astype(bool) for _ in range(2))
    assert np.sort(distances_px(predicted, truth)) == pytest.approx(np.sort(scipys(predicted, truth)), abs=1e-4)


def test_equal_masks_have_no_distance():
    mask = np.zeros((30, 30), bool)
    mask[5:20, 3:25] = True
    assert Boundary.of(distances_px(mask, mask)) == (0, 0)


def test_a_mask_that_is_three_pixels_off_is_three_pixels_off():
    mask = np.zeros((60, 60), bool)
    mask[10, 10:50] = True  # a line: all of it is outline
    assert Boundary.of(distances_px(mask, np.roll(mask, 3, axis=0))) == (3, 3)


def test_an_empty_mask_has_no_distance_to_anything():
    mask = np.ones((5, 5), bool)
    assert Boundary.of(distances_px(mask, ~mask)) is None

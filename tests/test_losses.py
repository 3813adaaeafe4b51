"""What training minimises, against slow references."""

import math

import pytest
import torch

from cxrpipe.losses import dice_bce, masked_bce

NAN = float("nan")
LOGITS = torch.tensor([[2.0, -1.0], [0.5, 3.0], [-4.0, 0.25]])
TARGETS = torch.tensor([[1.0, NAN], [0.0, 1.0], [NAN, 0.0]])
POS_WEIGHT = torch.tensor([3.0, 0.5])


def test_masked_bce_is_the_mean_over_the_cells_with_a_label():
    costs = []
    for row in range(3):
        for column in range(2):
            prob, target = 1 / (1 + math.exp(-LOGITS[row, column])), float(TARGETS[row, column])
            if target == 1:
                costs.append(-float(POS_WEIGHT[column]) * math.log(prob))
            elif target == 0:
                costs.append(-math.log(1 - prob))
    assert float(masked_bce(POS_WEIGHT)(LOGITS, TARGETS)) == pytest.approx(sum(costs) / 4, rel=1e-6)


def test_ignored_cells_have_no_gradient_and_all_others_have_one():
    logits = LOGITS.clone().requires_grad_()
    masked_bce(POS_WEIGHT)(logits, TARGETS).backward()
    assert torch.equal(logits.grad == 0, TARGETS.isnan())


def test_a_batch_without_any_label_costs_nothing_and_moves_nothing():
    logits = LOGITS.clone().requires_grad_()
    loss = masked_bce(POS_WEIGHT)(logits, torch.full((3, 2), NAN))
    loss.backward()
    assert float(loss.detach()) == 0
    assert torch.equal(logits.grad, torch.zeros(3, 2))


def masks() -> torch.Tensor:
    """(2, 1, 8, 8) of 0 and 1: half of one image, nothing of the other."""
    targets = torch.zeros(2, 1, 8, 8)
    targets[0, :, :4] = 1
    return targets


def test_perfect_masks_cost_nothing_empty_ones_included():
    assert float(dice_bce(100 * (masks() - 0.5), masks())) == pytest.approx(0, abs=1e-6)


def test_wrong_masks_cost_about_one_for_dice_and_their_logit_for_each_pixel():
    loss = dice_bce(-100 * (masks() - 0.5), masks())
    assert float(loss) == pytest.approx(1 + 50, abs=0.02)


def test_dice_counts_every_image_alike_however_small_its_mask():
    targets = torch.zeros(2, 1, 8, 8)
    targets[0], targets[1, 0, 0, :2] = 1, 1
    drawn = torch.full((2, 1, 8, 8), 50.0)  # right in the first image, 62 of 64 pixels too many in the second
    dice = (1 - (2 * 64 + 1) / (128 + 1) + 1 - (2 * 2 + 1) / (66 + 1)) / 2
    assert float(dice_bce(drawn, targets)) == pytest.approx(dice + 50 * 62 / 128, rel=1e-5)


def test_an_empty_mask_still_has_a_finite_gradient():
    logits = torch.zeros(1, 1, 8, 8, requires_grad=True)
    dice_bce(logits, torch.zeros(1, 1, 8, 8)).backward()
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad > 0).all()

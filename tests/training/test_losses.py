"""What training minimises, against slow references."""

import math

import pytest
import torch

from cxrpipe.training.losses import cross_entropy, dice_bce, finding_loss, mask_loss, masked_bce

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


ALL_LOSSES = [
    pytest.param(finding_loss("bce", POS_WEIGHT, 0.1, 2.0), 2, id="bce"),
    pytest.param(finding_loss("focal", POS_WEIGHT, 0.0, 2.0), 2, id="focal"),
    pytest.param(finding_loss("cross-entropy", POS_WEIGHT, 0.1, 2.0), 2, id="cross-entropy"),
    pytest.param(finding_loss("bce", POS_WEIGHT, 0.0, 2.0, multi=(1,)), 3, id="multi-class"),
]


@pytest.mark.parametrize(("loss", "outputs"), ALL_LOSSES)
class TestEveryLossOfFindings:
    def test_adds_up_over_batches(self, loss, outputs):
        logits = torch.randn(3, outputs, generator=torch.Generator().manual_seed(0))
        parts = [(logits[:1], TARGETS[:1]), (logits[1:], TARGETS[1:])]
        assert float(sum(loss.cost(*part) for part in parts)) == pytest.approx(float(loss.cost(logits, TARGETS)))
        assert int(sum(loss.cells(targets) for _, targets in parts)) == int(loss.cells(TARGETS))

    def test_costs_nothing_and_moves_nothing_without_labels(self, loss, outputs):
        logits = torch.randn(3, outputs).requires_grad_()
        nothing = loss(logits, torch.full((3, 2), NAN))
        nothing.backward()
        assert (float(nothing.detach()), bool(logits.grad.any())) == (0, False)

    def test_is_lower_for_the_right_answer(self, loss, outputs):
        targets = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        right = torch.zeros(2, outputs)
        right[:, :2] = 4 * (targets - 0.5)
        wrong = torch.zeros(2, outputs)
        wrong[:, :2] = -4 * (targets - 0.5)
        assert float(loss(right, targets)) < float(loss(wrong, targets))


def test_smoothing_moves_labels_towards_the_middle_by_half_of_itself():
    smooth = finding_loss("bce", torch.ones(2), 0.1, 2.0)
    moved = torch.where(TARGETS == 1, 0.95, torch.where(TARGETS == 0, 0.05, NAN))
    assert float(smooth(LOGITS, TARGETS)) == pytest.approx(float(masked_bce(torch.ones(2))(LOGITS, moved)), rel=1e-6)


def test_focal_without_gamma_is_bce_and_with_it_forgives_what_is_right():
    assert float(finding_loss("focal", POS_WEIGHT, 0.0, 0.0)(LOGITS, TARGETS)) == pytest.approx(
        float(masked_bce(POS_WEIGHT)(LOGITS, TARGETS)), rel=1e-6
    )
    right, one = torch.tensor([[2.0]]), torch.ones(1)
    prob = 1 / (1 + math.exp(-2))
    cost = float(finding_loss("focal", one, 0.0, 2.0)(right, one[None]))
    assert cost == pytest.approx(-((1 - prob) ** 2) * math.log(prob), rel=1e-5)


def test_cross_entropy_of_one_finding_is_bce():
    logits, targets = LOGITS[:, :1], torch.tensor([[1.0], [0.0], [NAN]])
    plain = masked_bce(POS_WEIGHT[:1])
    assert float(cross_entropy(POS_WEIGHT[:1])(logits, targets)) == pytest.approx(
        float(plain(logits, targets)), rel=1e-6
    )


def test_cross_entropy_is_over_the_findings_and_none_of_them():
    targets = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, NAN]])
    costs = []
    for row, kind in ((0, 1), (1, 0)):
        powers = [1.0, *(math.exp(float(logit)) for logit in LOGITS[row])]
        costs.append(-math.log(powers[kind] / sum(powers)))
    assert float(cross_entropy(torch.ones(2))(LOGITS, targets)) == pytest.approx(sum(costs) / 2, rel=1e-6)


def test_a_third_kind_has_a_cost_of_its_own_and_leaves_the_first_logit_its_meaning():
    loss = finding_loss("bce", torch.ones(2), 0.0, 2.0, multi=(1,))
    logits = torch.tensor([[0.3, 1.5, -0.7]] * 3)
    targets = torch.tensor([[NAN, 0.0], [NAN, 1.0], [NAN, -1.0]])
    powers = [1.0, math.exp(1.5), math.exp(-0.7)]  # absent, present, uncertain
    for row, power in enumerate(powers):
        cost = float(loss.cost(logits[row : row + 1], targets[row : row + 1]))
        assert cost == pytest.approx(-math.log(power / sum(powers)), rel=1e-5)
    weighted = finding_loss("bce", POS_WEIGHT, 0.0, 2.0, multi=(1,))
    ratios = [float(weighted.cost(logits[n : n + 1], targets[n : n + 1])) for n in range(3)]
    plain = [float(loss.cost(logits[n : n + 1], targets[n : n + 1])) for n in range(3)]
    assert ratios == pytest.approx([plain[0], 0.5 * plain[1], plain[2]])
    given_not_uncertain = powers[1] / (powers[0] + powers[1])
    assert float(logits[0, 1].sigmoid()) == pytest.approx(given_not_uncertain)


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


@pytest.mark.parametrize("name", ["auto", "dice-bce", "dice", "bce", "focal"])
def test_every_loss_of_masks_adds_up_over_images_and_prefers_the_right_mask(name):
    loss, targets = mask_loss(name, 0.0, 2.0), masks()
    logits = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    apart = loss.cost(logits[:1], targets[:1]) + loss.cost(logits[1:], targets[1:])
    assert float(apart) == pytest.approx(float(loss.cost(logits, targets)), rel=1e-6)
    assert int(loss.cells(targets)) == 2
    assert float(loss(4 * (targets - 0.5), targets)) < float(loss(-4 * (targets - 0.5), targets))


def test_drawing_on_an_empty_mask_costs_dice_the_more_the_more_is_drawn():
    empty = torch.zeros(1, 1, 8, 8)
    costs = []
    for pixels in (0, 1, 4, 64):
        drawn = torch.full((64,), -50.0)
        drawn[:pixels] = 50
        costs.append(float(mask_loss("dice", 0.0, 2.0)(drawn.view(1, 1, 8, 8), empty)))
    assert costs == pytest.approx([0, 1 / 2, 4 / 5, 64 / 65], abs=1e-6)

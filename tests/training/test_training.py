"""The plain loop over epochs, on tasks so small that what is right is known."""

import io
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import sklearn.metrics
import torch
from torch import nn

from cxrpipe.config.train import TrainConfig
from cxrpipe.config.train_sections import OptimConfig
from cxrpipe.models import architectures, weights
from cxrpipe.models.card import Card
from cxrpipe.models.normalise import normalise
from cxrpipe.training.distributed import ALONE, WorkerGroup
from cxrpipe.training.epochs import Epoch, best_epoch, from_json, rank, rank_once, to_json
from cxrpipe.training.fit import Batch, StepOptions, Validation, backward, fit, validate
from cxrpipe.training.losses import dice_bce, finding_loss, masked_bce
from cxrpipe.training.optim import Schedule

pytestmark = pytest.mark.usefixtures("one_thread")
SIDE_PX, BATCH = 16, 8
NAN = float("nan")
CARD = Card(
    task="classify", architecture="resnet18", side_px=SIDE_PX, mean=0.449, std=0.226, findings=("Right", "Bright")
)
SEGMENTER = Card(task="segment", architecture="unet-resnet18", side_px=SIDE_PX, mean=0.5, std=0.25, views="all")
LOSS = masked_bce(torch.ones(2))


def squares(number: int, seed: int = 0) -> Batch:
    """(N, 1, S, S) uint8 noise with a square on the left or right, dim or bright, and (N, 2) which of both."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 60, (number, 1, SIDE_PX, SIDE_PX), dtype=np.uint8)
    targets = rng.integers(0, 2, (number, 2))
    for image, (right, bright) in zip(pixels, targets, strict=True):
        row, column = rng.integers(0, SIDE_PX - 5), 8 * right + rng.integers(0, 3)
        image[0, row : row + 5, column : column + 5] = 250 if bright else 130
    return torch.from_numpy(pixels), torch.from_numpy(targets).float()


TRAIN, VALID = squares(64), squares(32, seed=1)


def batches_of(batch: Batch, order: torch.Tensor | None = None) -> Iterator[Batch]:
    pixels, targets = batch if order is None else (batch[0][order], batch[1][order])
    yield from zip(pixels.split(BATCH), targets.split(BATCH), strict=True)


def shuffled(epoch: int) -> Iterator[Batch]:
    return batches_of(TRAIN, torch.randperm(len(TRAIN[0]), generator=torch.Generator().manual_seed(epoch)))


def small_network() -> nn.Module:
    """With all that makes resuming hard: BatchNorm's statistics and dropout's randomness."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 5, stride=4, padding=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(128, 2),
    )


@dataclass
class Training:
    """A network and what trains it."""

    seed: int = 0
    planned: int = 4
    """Epochs of the schedule."""
    learning_rate: float = 0.02
    results: list[Epoch] = field(default_factory=list)

    def __post_init__(self) -> None:
        torch.manual_seed(self.seed)
        self.network = small_network()
        self.optimizer = torch.optim.AdamW(self.network.parameters(), self.learning_rate)
        self.schedule = Schedule(OptimConfig(), self.optimizer, self.planned, steps=8)

    def epochs(self, epochs: range) -> "Training":
        parts = self.network, CARD, LOSS, self.optimizer, self.schedule
        results = fit(*parts, train=shuffled, valid=lambda: batches_of(VALID), epochs=epochs, seed=self.seed)
        self.results += list(results)
        return self

    def saved(self) -> bytes:
        """All that a checkpoint holds, as bytes."""
        state = {
            "weights": weights.weights_bytes(self.network),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }
        data = io.BytesIO()
        torch.save(state, data)
        return data.getvalue()

    def restore(self, data: bytes) -> "Training":
        state = torch.load(io.BytesIO(data), weights_only=True)
        self.network.load_state_dict(safetensors.torch.load(state["weights"]))
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        return self

    def said(self) -> list[dict[str, Any]]:
        """The results, but for the time they took."""
        return [asdict(result) | {"seconds": 0} for result in self.results]


# ---- fit ------------------------------------------------------------------------------------------------------


def test_it_learns_a_task_that_is_easy_to_see():
    results = Training(planned=12).epochs(range(12)).results
    assert results[-1].score > 0.99
    assert results[-1].train_loss < 0.5 * results[0].train_loss
    assert results[-1].valid_loss < results[0].valid_loss


def test_epochs_are_counted_from_one_and_given_as_they_end():
    training = Training()
    parts = training.network, CARD, LOSS, training.optimizer, training.schedule
    results = fit(*parts, train=shuffled, valid=lambda: batches_of(VALID), epochs=range(2))
    before = weights.weights_bytes(training.network)
    assert next(results).epoch == 1
    after_one = weights.weights_bytes(training.network)
    assert after_one != before
    assert next(results).epoch == 2
    assert weights.weights_bytes(training.network) != after_one
    assert next(results, None) is None


def test_the_same_seed_gives_the_same_training_and_another_seed_another():
    first, same, other = (Training(seed=seed).epochs(range(2)) for seed in (3, 3, 4))
    assert first.said() == same.said()
    assert weights.weights_bytes(first.network) == weights.weights_bytes(same.network)
    assert first.said() != other.said()


def test_a_training_resumed_from_a_checkpoint_ends_as_the_undisturbed_one():
    undisturbed = Training().epochs(range(4))
    killed = Training().epochs(range(2))
    resumed = Training(seed=0).restore(killed.saved())
    torch.manual_seed(99)  # whatever happened in between
    resumed.epochs(range(2, 4))
    assert killed.said() + resumed.said() == undisturbed.said()
    assert weights.weights_bytes(resumed.network) == weights.weights_bytes(undisturbed.network)


def test_a_training_that_diverged_ranks_below_every_other_epoch():
    diverged = Training(learning_rate=1e30).epochs(range(1)).results[0]
    assert diverged.score is None
    worst = Epoch(epoch=1, train_loss=9.0, valid_loss=9e3, score=None, per_finding={}, learning_rate=0.1, seconds=1.0)
    assert rank(diverged) < rank(worst)


def test_the_last_epoch_can_be_kept_whatever_the_valid_split_says():
    better = Epoch(epoch=1, train_loss=0.1, valid_loss=0.1, score=0.9, per_finding={}, learning_rate=0.1, seconds=1.0)
    history = [better, replace(better, epoch=2, score=0.5, valid_loss=9.0)]
    assert best_epoch(history) == better
    assert best_epoch(history, "last").epoch == 2
    assert TrainConfig(task="classify", studies="t", out="o", best="last").watched == "score"


# ---- steps ----------------------------------------------------------------------------------------------------


def gradient(batches: list[Batch], precision: str = "fp32") -> tuple[torch.Tensor, torch.Tensor]:
    """All gradients of the small network as one vector, and cost and cells. BatchNorm judges by its statistics."""
    torch.manual_seed(0)
    network = small_network().eval()
    said = backward(network, CARD, LOSS, batches, precision, ALONE)
    return torch.cat([parameter.grad.flatten() for parameter in network.parameters()]), said


def uneven(batch: Batch) -> Batch:
    """With labels that are missing, more of them at the front: a mean of means would show."""
    targets = batch[1].clone()
    targets[:15, 0] = NAN
    return batch[0], targets


def test_batches_that_share_a_step_give_the_gradient_of_one_large_batch():
    pixels, targets = uneven(VALID)
    at_once, said = gradient([(pixels, targets)])
    in_four, said_in_four = gradient(list(batches_of((pixels, targets))))
    torch.testing.assert_close(in_four, at_once, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(said_in_four, said)
    assert float(said[1]) == 64 - 15


def test_accumulated_batches_are_one_step_and_those_left_over_another():
    training = Training()
    steps = []
    training.optimizer.register_step_post_hook(lambda *_: steps.append(1))
    parts = training.network, CARD, LOSS, training.optimizer, training.schedule
    list(fit(*parts, shuffled, lambda: batches_of(VALID), range(1), options=StepOptions(accumulate=3)))
    assert len(steps) == 3  # of eight batches


def test_a_gradient_is_clipped_to_the_length_asked_for():
    training = Training()
    lengths = []

    def measure(*_: Any) -> None:
        grads = [parameter.grad.flatten() for parameter in training.network.parameters()]
        lengths.append(float(torch.cat(grads).norm()))

    training.optimizer.register_step_pre_hook(measure)
    parts = training.network, CARD, LOSS, training.optimizer, training.schedule
    list(fit(*parts, shuffled, lambda: batches_of(VALID), range(1), options=StepOptions(clip=0.01)))
    assert max(lengths) == pytest.approx(0.01, rel=1e-3)


def test_bf16_gives_nearly_the_gradient_of_fp32():
    exact, rounded = gradient([VALID])[0], gradient([VALID], "bf16")[0]
    assert torch.nn.functional.cosine_similarity(exact, rounded, dim=0) > 0.99
    assert not torch.equal(exact, rounded)


def test_the_train_loss_is_the_mean_over_cells_and_not_over_batches():
    torch.manual_seed(0)
    network = small_network().eval()
    frozen = torch.optim.SGD(network.parameters(), 0.0)
    parts = network, CARD, LOSS, frozen, Schedule(OptimConfig(), frozen, 1, 4)
    network.train = lambda mode=True: network  # dropout and batch statistics stay out of it
    (result,) = fit(*parts, lambda _: batches_of(uneven(VALID)), lambda: batches_of(VALID), range(1))
    pixels, targets = uneven(VALID)
    assert result.train_loss == pytest.approx(float(LOSS(network(normalise(pixels, CARD)), targets).detach()), rel=1e-5)


# ---- validate -------------------------------------------------------------------------------------------------


def judged(batch: Batch, gather: Callable[[list], list] = list, network: nn.Module | None = None) -> Validation:
    torch.manual_seed(0)
    return validate(network or small_network(), CARD, LOSS, batches_of(batch), WorkerGroup(gather=gather))


def test_validation_moves_nothing_in_the_network():
    network = small_network().train()
    before = weights.weights_bytes(network)
    judged(VALID, network=network)
    assert weights.weights_bytes(network) == before


def test_a_network_is_validated_as_it_will_score():
    network = small_network().train()
    again = judged(VALID, network=network)
    pixels, targets = VALID
    with torch.inference_mode():
        logits = network.eval()(normalise(pixels, CARD))
    aurocs = [sklearn.metrics.roc_auc_score(targets[:, finding], logits[:, finding]) for finding in (0, 1)]
    assert list(again.per_finding.values()) == pytest.approx(aurocs, abs=1e-9)
    assert again.score == pytest.approx(np.mean(aurocs), abs=1e-9)
    assert again.valid_loss == pytest.approx(float(LOSS(logits, targets)), rel=1e-5)


def test_outputs_that_training_alone_needs_are_not_judged():
    torch.manual_seed(0)
    network = small_network()
    network[-1] = nn.Linear(128, 3)
    loss = finding_loss("bce", torch.ones(2), 0.0, 2.0, multi=(1,))
    outcome = validate(network, CARD, loss, batches_of(VALID))
    architectures.keep_outputs(network, 2)
    assert outcome.per_finding == validate(network, CARD, LOSS, batches_of(VALID)).per_finding


def test_two_workers_together_judge_as_one_that_has_seen_all():
    pixels, targets = VALID
    targets = targets.clone()
    targets[:15, 0] = NAN  # unevenly: a mean of means would show
    first, second = (pixels[:20], targets[:20]), (pixels[20:], targets[20:])
    of_first: list[Any] = []
    alone = judged(first, lambda own: of_first.extend(own) or own), judged(second)
    together, whole = judged(second, lambda own: [*of_first, *own]), judged((pixels, targets))
    assert together.score == pytest.approx(whole.score, abs=1e-9)
    assert together.per_finding == pytest.approx(whole.per_finding, abs=1e-9)
    assert together.valid_loss == pytest.approx(whole.valid_loss, rel=1e-6)
    assert abs(np.mean([one.score for one in alone]) - whole.score) > 0.01  # so it is no mean of both


def test_batches_do_not_change_the_validation_loss_where_labels_are_missing():
    pixels, targets = VALID
    targets = targets.clone()
    targets[:15, 0] = NAN
    torch.manual_seed(0)
    at_once = validate(small_network(), CARD, LOSS, [(pixels, targets)])
    assert judged((pixels, targets)).valid_loss == pytest.approx(at_once.valid_loss, rel=1e-6)


def test_accuracy_is_the_mean_over_findings_of_the_labels_that_are_right_at_one_half():
    pixels, targets = VALID
    targets = targets.clone()
    targets[:15, 0] = NAN
    network = small_network()
    with torch.inference_mode():
        called = network.eval()(normalise(pixels, CARD)) >= 0
    right = (called == (targets == 1)).float()
    expected = (float(right[15:, 0].mean()) + float(right[:, 1].mean())) / 2
    assert judged((pixels, targets), network=network).accuracy == pytest.approx(expected)


def test_a_finding_seen_on_one_side_only_has_no_auroc_and_leaves_the_others_theirs():
    pixels, targets = VALID
    targets = targets.clone()
    targets[:, 1] = 0
    outcome = judged((pixels, targets))
    assert math.isnan(outcome.per_finding["Bright"])
    assert outcome.score == outcome.per_finding["Right"]


def test_a_valid_split_of_one_kind_has_a_loss_and_no_score():
    outcome = judged((VALID[0], torch.zeros(32, 2)))
    assert math.isnan(outcome.score)
    assert outcome.valid_loss > 0


def test_a_valid_split_without_labels_has_neither_loss_nor_score():
    outcome = judged((VALID[0], torch.full((32, 2), NAN)))
    assert math.isnan(outcome.valid_loss)
    assert math.isnan(outcome.score)
    assert all(math.isnan(outcome.per_finding[finding]) for finding in ("Right", "Bright"))


def test_numbers_that_are_not_finite_are_null_in_the_history():
    epoch = Epoch.of(
        epoch=1,
        train_loss=math.inf,
        valid_loss=0.5,
        score=NAN,
        per_finding={"A": NAN, "B": 0.7},
        learning_rate=0.1,
        seconds=1.0,
    )
    (read,) = from_json(to_json([epoch]))
    assert read == epoch
    assert (read.train_loss, read.valid_loss, read.score, read.per_finding) == (None, 0.5, None, {"A": None, "B": 0.7})


def epoch_of(score: float | None, valid_loss: float | None, epoch: int = 1, accuracy: float | None = None) -> Epoch:
    return Epoch(
        epoch=epoch,
        train_loss=0.5,
        valid_loss=valid_loss,
        score=score,
        accuracy=accuracy,
        per_finding={},
        learning_rate=0.1,
        seconds=1.0,
    )


def test_an_epoch_may_be_the_best_by_its_accuracy():
    exact, sharp = epoch_of(score=0.8, valid_loss=0.6, accuracy=0.9), epoch_of(0.9, 0.5, 2, accuracy=0.8)
    assert best_epoch([exact, sharp], "accuracy") is exact
    assert best_epoch([exact, sharp]) is best_epoch([exact, sharp], "loss") is sharp


@pytest.mark.parametrize("best", ["score", "loss", "accuracy"])
def test_of_epochs_that_are_equally_good_the_first_one_is_kept(best):
    history = [epoch_of(0.8, 0.5, epoch, accuracy=0.75) for epoch in range(1, 200)]
    history[0] = epoch_of(0.7, 0.6, 1, accuracy=0.7)
    ranks = [rank_once(epoch, best) for epoch in history]
    assert history[ranks.index(max(ranks))] is best_epoch(history, best) is history[1]
    assert len(set(ranks)) == len(ranks)


def test_an_epoch_of_an_older_history_has_no_accuracy():
    (read,) = from_json(to_json([epoch_of(0.8, 0.5)]).replace(', "accuracy": null', ""))
    assert read.accuracy is None


def test_an_epoch_without_a_score_ranks_below_any_and_then_by_its_loss():
    score, low, high, nothing = (
        epoch_of(score=0.0, valid_loss=1e9),
        epoch_of(score=None, valid_loss=0.2),
        epoch_of(score=None, valid_loss=0.7),
        epoch_of(score=None, valid_loss=None),
    )
    assert best_epoch([nothing, high, low, score]) is score
    assert best_epoch([nothing, high, low]) is low
    assert best_epoch([nothing, high]) is high
    assert all(math.isfinite(rank(epoch)) for epoch in (score, low, high, nothing))


# ---- the segmenter --------------------------------------------------------------------------------------------


class BrightIsLung(nn.Module):
    """Says of every pixel whether it is brighter than the mean of the card."""

    def __init__(self) -> None:
        super().__init__()
        self.steepness = nn.Parameter(torch.tensor(4.0))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.steepness * pixels


def test_a_segmenters_score_is_the_mean_dice_of_its_images():
    pixels = torch.zeros(3, 1, SIDE_PX, SIDE_PX, dtype=torch.uint8)
    truth = torch.zeros(3, 1, SIDE_PX, SIDE_PX)
    pixels[0, :, :8], truth[0, :, :4] = 255, 1  # twice too much: 2 · 64 / (128 + 64)
    pixels[1, :, :2], truth[1, :, :2] = 255, 1  # right
    pixels[2], truth[2] = 0, 0  # nothing where nothing is
    for batches in ([(pixels, truth)], [(pixels[:2], truth[:2]), (pixels[2:], truth[2:])]):
        outcome = validate(BrightIsLung(), SEGMENTER, dice_bce, batches)
        assert outcome.score == pytest.approx((2 / 3 + 1 + 1) / 3)
        assert outcome.valid_loss == pytest.approx(
            float(dice_bce(BrightIsLung()(normalise(pixels, SEGMENTER)), truth).detach()), rel=1e-5
        )
        assert outcome.per_finding == {}


def test_a_segmenter_learns_what_is_bright():
    pixels, _ = squares(8)
    examples = [(pixels, (pixels > 100).float())]
    torch.manual_seed(0)
    network = nn.Conv2d(1, 1, 1)  # one pixel's brightness, and where to cut
    optimizer = torch.optim.AdamW(network.parameters(), 0.3)
    constant = Schedule(OptimConfig(schedule="constant"), optimizer, 8, steps=8)
    parts = network, SEGMENTER, dice_bce, optimizer, constant
    first, *_, last = fit(*parts, train=lambda _: examples * 8, valid=lambda: examples, epochs=range(8))
    assert first.score < 0.9
    assert last.score > 0.99

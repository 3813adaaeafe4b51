"""A training from its first phase to its last, killed and resumed, on a network of a few hundred weights."""

import functools
import io
import itertools
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from test_training import BATCH, CARD, LOSS, TRAIN, VALID, batches_of, shuffled, small_network
from torch import nn

from cxrpipe.config import TrainConfig
from cxrpipe.config.augment import AugmentConfig
from cxrpipe.config.train_sections import FreezeConfig, OptimConfig
from cxrpipe.models.weights import weights_bytes
from cxrpipe.training.epochs import Epoch
from cxrpipe.training.examples import UNCERTAIN
from cxrpipe.training.fit import Batch, OnStep, ignore_steps
from cxrpipe.training.self_training import Teacher
from cxrpipe.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")
STEPS = len(TRAIN[0]) // BATCH
AUGMENT = AugmentConfig(rotation_deg=5, shift_fraction=0.05, brightness=0.1, noise=0.02)


def trainer(seed: int = 0, epochs: int = 4, on_step: OnStep = ignore_steps, **settings: Any) -> Trainer:
    config = TrainConfig(
        **{"task": "classify", "studies": "t", "out": "o", "epochs": epochs, "learning_rate": 0.02} | settings
    )
    torch.manual_seed(seed)
    return Trainer(config, CARD, small_network(), LOSS, STEPS, on_step=on_step)


def results(own: Trainer) -> Iterator[Epoch]:
    return own.epochs(shuffled, lambda: batches_of(VALID))


def said(found: list[Epoch]) -> list[dict[str, Any]]:
    """All but the time it took."""
    return [asdict(result) | {"seconds": 0} for result in found]


def saved(own: Trainer) -> dict[str, Any]:
    """The state, through a file."""
    data = io.BytesIO()
    torch.save(own.state(), data)
    data.seek(0)
    return torch.load(data, weights_only=True)


def test_the_network_sees_training_and_validation_images_in_the_same_range():
    own, seen = trainer(epochs=1), {True: [], False: []}
    own.network.register_forward_pre_hook(lambda network, given: seen[network.training].append(given[0]))
    assert len(list(results(own))) == 1
    trained, judged = (torch.cat(seen[training]) for training in (True, False))
    for bound in (torch.amin, torch.amax):
        assert float(bound(trained, (0, 1, 2, 3))) == pytest.approx(float(bound(judged, (0, 1, 2, 3))), abs=0.1)


KINDS = {
    "one-cycle": {},
    "plateau": {"optim": OptimConfig(schedule="plateau", patience=0, decay=0.5)},
    "cosine, sgd": {"optim": OptimConfig(schedule="cosine", optimizer="sgd", warmup_epochs=1.0, accumulate=3)},
    "augmented": {"augment": AUGMENT},
    "partial": {"freeze": FreezeConfig(policy="partial")},
    "progressive": {"freeze": FreezeConfig(policy="progressive")},
    "adaptive": {"freeze": FreezeConfig(policy="adaptive", epochs=(1, 3), fraction=1.0)},
    "early stop": {"stop_after": 2},
    "averaged": {"optim": OptimConfig(average=0.9)},
    "every phase stops early": {
        "stop_after": 1,
        "watch": "loss",
        "best": "accuracy",
        "freeze": FreezeConfig(policy="progressive", epochs=(2, 2, 2), early_stop="each"),
        "optim": OptimConfig(average=0.5),
        "learning_rate": 0.3,
        "epochs": 6,
    },
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("killed_after", [1, 2])
def test_a_training_resumed_from_a_checkpoint_ends_as_the_undisturbed_one(kind, killed_after):
    undisturbed = trainer(**KINDS[kind])
    expected = said(list(results(undisturbed)))
    killed = trainer(**KINDS[kind])
    before = list(itertools.islice(results(killed), killed_after))
    resumed = trainer(seed=5, **KINDS[kind])  # its own start weights are not used
    resumed.restore(saved(killed))
    torch.manual_seed(99)  # whatever happened in between
    assert said(before) + said(list(results(resumed))) == expected
    assert weights_bytes(resumed.network) == weights_bytes(undisturbed.network)
    assert weights_bytes(resumed.validated) == weights_bytes(undisturbed.validated)


def test_the_average_follows_the_network_and_is_what_is_kept():
    steps: list[torch.Tensor] = []
    own = trainer(optim=OptimConfig(average=0.75), on_step=lambda *_: steps.append(weight.detach().clone()))
    weight = next(own.network.parameters())
    for _ in results(own):
        expected = functools.reduce(lambda average, step: 0.75 * average + 0.25 * step, steps)
        torch.testing.assert_close(next(own.validated.parameters()), expected)
        assert own.state()["weights"] == weights_bytes(own.validated) != weights_bytes(own.network)


def test_without_an_average_the_network_itself_is_judged():
    own = trainer()
    assert own.validated is own.network


def test_a_finished_training_has_no_epochs_left():
    own = trainer(epochs=2)
    list(results(own))
    again = trainer(epochs=2)
    again.restore(saved(own))
    assert list(results(again)) == []


def changes(own: Trainer) -> Iterator[set[str]]:
    """Of every epoch: what it changed."""
    before = {name: value.clone() for name, value in own.network.state_dict().items()}
    for _ in results(own):
        now = own.network.state_dict()
        yield {name for name, value in now.items() if not torch.equal(value, before[name])}
        before = {name: value.clone() for name, value in now.items()}


def test_progressive_trains_the_head_first_and_then_all_at_rates_of_their_own():
    rates = FreezeConfig(policy="progressive", epochs=(1, 1, 1), fraction=1.0, learning_rates=(0.03, 0.02, 0.01))
    own = trainer(epochs=3, freeze=rates, optim=OptimConfig(schedule="constant"))
    head_only, again, everything = changes(own)
    assert head_only == again == {"5.weight", "5.bias"}
    assert {"0.weight", "1.weight", "1.running_mean", "5.weight"} <= everything
    assert [epoch.learning_rate for epoch in own.history] == pytest.approx([0.03, 0.02, 0.01])


def test_adaptive_trains_the_head_and_then_what_matters():
    own = trainer(epochs=3, freeze=FreezeConfig(policy="adaptive", epochs=(1, 2), fraction=0.0))
    head_only, everything, _ = changes(own)
    assert head_only == {"5.weight", "5.bias"}
    assert {"0.weight", "1.running_mean"} <= everything


def test_adaptive_names_the_layers_that_it_freezes(capsys):
    adaptive_trainer = trainer(epochs=2, freeze=FreezeConfig(policy="adaptive", epochs=(0, 2), count=1))
    head_only, _ = changes(adaptive_trainer)
    assert head_only == {"5.weight", "5.bias"}
    measuring, frozen = capsys.readouterr().err.splitlines()
    assert measuring.endswith("measuring the validation loss without each of 1 layers")
    assert frozen.endswith("frozen, because the loss rises least without them: 0")


def test_it_stops_after_so_many_epochs_without_a_better_one():
    still = trainer(epochs=9, stop_after=2, learning_rate=1e-12)
    found = list(results(still))
    assert len(found) < 9
    best = max(range(len(found)), key=lambda epoch: found[epoch].score)
    assert len(found) == best + 1 + 2


def test_it_does_not_stop_before_its_last_phase():
    freeze = FreezeConfig(policy="progressive", epochs=(3, 3, 3), learning_rates=(1e-12, 1e-12, 1e-12))
    own = trainer(epochs=9, stop_after=1, freeze=freeze)
    assert 7 <= len(list(results(own))) < 9


class Seen(nn.Module):
    """Keeps what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[torch.Tensor] = []
        self.steepness = nn.Linear(1, 1)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.shown.append(pixels.detach().clone())
        return self.steepness(pixels.mean(dim=(1, 2, 3))[:, None]).repeat(1, 2)


def test_every_phase_may_stop_early_and_the_next_begins_with_its_best_epoch():
    freeze = FreezeConfig(policy="head-then-last-1", epochs=(6, 3), learning_rates=(5.0, 0.01), early_stop="each")
    own = trainer(epochs=9, stop_after=2, watch="loss", freeze=freeze, optim=OptimConfig(schedule="constant"))
    begun: list[bytes] = []
    ended: list[bytes] = []

    def train(epoch: int) -> Iterator[Batch]:
        begun.append(weights_bytes(own.network))
        return shuffled(epoch)

    for _ in own.epochs(train, lambda: batches_of(VALID)):
        ended.append(weights_bytes(own.network))
    first = [epoch for epoch in own.history if epoch.learning_rate == 5.0]
    best = min(first, key=lambda epoch: epoch.valid_loss)
    assert len(first) == best.epoch + 2 < 6
    assert [epoch.epoch for epoch in own.history] == [*range(1, len(own.history) + 1)]
    assert begun[len(first)] == ended[best.epoch - 1]
    assert begun[1] == ended[0]


def test_early_stopping_watches_another_quantity_than_the_one_that_is_best():
    own = trainer(epochs=9, stop_after=1, watch="loss", learning_rate=5.0, optim=OptimConfig(schedule="constant"))
    losses = [epoch.valid_loss for epoch in results(own)]
    rises = next(number for number, pair in enumerate(itertools.pairwise(losses)) if pair[1] >= pair[0])
    assert len(losses) == rises + 2 < 9


def test_training_images_are_varied_and_validation_images_are_not():
    config = TrainConfig(task="classify", studies="t", out="o", epochs=1, augment=AUGMENT)
    seen: list[Batch] = []

    def valid() -> Iterator[Batch]:
        for batch in batches_of(VALID):
            seen.append(batch)
            yield batch

    own = Trainer(config, CARD, Seen(), LOSS, STEPS)
    (first,) = own.epochs(lambda _: batches_of(TRAIN), valid)
    plain = Trainer(replace(config, augment=AugmentConfig()), CARD, Seen(), LOSS, STEPS)
    (unvaried,) = plain.epochs(lambda _: batches_of(TRAIN), valid)
    assert not torch.equal(own.network.shown[0], plain.network.shown[0])
    assert all(torch.equal(*pair) for pair in zip(seen[0], seen[len(seen) // 2], strict=True))
    assert first.epoch == unvaried.epoch == 1


def test_a_teacher_is_asked_before_images_are_varied():
    targets = torch.full((len(TRAIN[0]), 2), UNCERTAIN)
    asked: list[torch.Tensor] = []

    class Says(Teacher):
        def teach(self, pixels: torch.Tensor, unknown: torch.Tensor) -> torch.Tensor:
            asked.append(pixels)
            return super().teach(pixels, unknown)

    teacher = Says(small_network(), CARD, CARD.findings, (0, 1))
    config = TrainConfig(task="classify", studies="t", out="o", epochs=1, augment=AUGMENT)
    own = Trainer(config, CARD, small_network(), LOSS, STEPS, teacher=teacher)
    (first,) = own.epochs(lambda _: batches_of((TRAIN[0], targets)), lambda: batches_of(VALID))
    assert torch.equal(torch.cat(asked), TRAIN[0])
    assert 0.3 < first.train_loss < 1.2  # of probabilities; -1 for a target would be far below


def test_whoever_watches_hears_of_every_step_what_the_epoch_has_cost_so_far():
    heard: list[tuple[list[float], float]] = []
    config = TrainConfig(task="classify", studies="t", out="o", epochs=1, optim=OptimConfig(schedule="constant"))
    torch.manual_seed(0)
    own = Trainer(
        config, CARD, small_network(), LOSS, STEPS, on_step=lambda total, rate: heard.append((total.tolist(), rate))
    )
    (result,) = results(own)
    assert [rate for _, rate in heard] == [config.learning_rate] * STEPS
    cost, cells = heard[-1][0]
    assert cost / cells == pytest.approx(result.train_loss)
    assert heard[0][0][1] < cells


def test_a_refit_stops_where_the_folds_said_and_asks_for_no_valid_split():
    config = TrainConfig(task="classify", studies="t", out="o", epochs=4, learning_rate=0.02, stop_after=1)
    torch.manual_seed(0)
    own = Trainer(config, CARD, small_network(), LOSS, STEPS, stop_at=3)
    found = list(own.epochs(shuffled, lambda: iter(())))
    assert [epoch.epoch for epoch in found] == [1, 2, 3]
    assert all(epoch.train_loss is not None and not epoch.validated for epoch in found)
    whole = trainer(epochs=4)
    expected = [epoch for epoch, _ in zip(results(whole), range(3), strict=False)]
    assert [epoch.train_loss for epoch in found] == [epoch.train_loss for epoch in expected]  # the same schedule
    assert [epoch.learning_rate for epoch in found] == [epoch.learning_rate for epoch in expected]

"""Optimisers and the course of the learning rate."""

import io
import math

import pytest
import torch
from torch import nn

from cxrpipe.config.train_sections import OptimConfig
from cxrpipe.errors import ConfigError
from cxrpipe.training.optim import Schedule, make_optimizer

RATE, EPOCHS, STEPS = 0.1, 4, 5


def rates(ranks: tuple[float, ...] = (), rate: float = RATE, **settings: object) -> list[float]:
    """The learning rate of every step of four epochs of five."""
    config = OptimConfig(**settings)  # type: ignore[arg-type]
    optimizer = make_optimizer(config, [nn.Parameter(torch.zeros(1))], rate)
    schedule = Schedule(config, optimizer, EPOCHS, STEPS)
    found = []
    for epoch in range(EPOCHS):
        for _ in range(STEPS):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        schedule.epoch_ended(ranks[epoch] if ranks else 0.0)
    return found


def test_constant_is_constant():
    assert rates(schedule="constant") == pytest.approx([RATE] * 20)


def test_cosine_falls_from_the_highest_rate_to_nothing():
    found = rates(schedule="cosine")
    assert found == pytest.approx([RATE * 0.5 * (1 + math.cos(math.pi * step / 20)) for step in range(20)])


def test_exponential_falls_by_its_factor_in_every_epoch():
    found = rates(schedule="exponential", decay=0.5)
    assert found[::STEPS] == pytest.approx([RATE, RATE / 2, RATE / 4, RATE / 8])


def test_one_cycle_rises_to_the_highest_rate_and_falls_below_its_start():
    found = rates(schedule="one-cycle")
    assert max(found) == pytest.approx(RATE, rel=0.05)
    assert found.index(max(found)) == 5  # of 20: after 30%
    assert found[-1] < found[0] / 100
    assert rates(schedule="one-cycle", warmup_epochs=2.0).index(RATE) == 9


@pytest.mark.parametrize("schedule", ["constant", "cosine", "exponential", "plateau"])
def test_warm_up_rises_evenly_to_the_highest_rate(schedule):
    found = rates(schedule=schedule, warmup_epochs=1.0)
    assert found[:6] == pytest.approx([RATE * share for share in (0.01, 0.2, 0.4, 0.6, 0.8, 1.0)])


def test_plateau_falls_where_epochs_bring_nothing_and_then_waits_anew():
    found = rates((0.5, 0.6, 0.6, 0.6), schedule="plateau", decay=0.5, patience=0)
    assert found[::STEPS] == pytest.approx([RATE, RATE, RATE, RATE / 2])
    assert rates((0.5, 0.6, 0.7, 0.8), schedule="plateau", decay=0.5, patience=0) == pytest.approx([RATE] * 20)


def test_plateau_stops_at_its_floor_and_never_raises_a_rate():
    falls = {"schedule": "plateau", "decay": 0.2, "patience": 0}
    assert rates((0.5, 0.5, 0.5, 0.5), floor=0.01, **falls)[::STEPS] == pytest.approx([0.1, 0.1, 0.02, 0.01])
    assert rates((0.5, 0.5, 0.5, 0.5), floor=0.3, **falls) == pytest.approx([RATE] * 20)
    assert rates((0.5, 0.5, 0.5, 0.5), decay=1e-9, schedule="plateau", patience=0)[-1] == pytest.approx(RATE / 100)


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine", "plateau"])
def test_a_schedule_that_was_saved_goes_on_where_it_was(schedule):
    config = OptimConfig(schedule=schedule, warmup_epochs=1.0, patience=0, decay=0.5)

    def made() -> tuple[torch.optim.Optimizer, Schedule]:
        optimizer = make_optimizer(config, [nn.Parameter(torch.zeros(1))], RATE)
        return optimizer, Schedule(config, optimizer, EPOCHS, STEPS)

    def run(optimizer: torch.optim.Optimizer, schedule: Schedule, epochs: int) -> list[float]:
        found = []
        for _ in range(epochs):
            for _ in range(STEPS):
                optimizer.step()
                schedule.step()
                found.append(optimizer.param_groups[0]["lr"])
            schedule.epoch_ended(0.5)
        return found

    undisturbed = run(*made(), EPOCHS)
    first, second = made(), made()
    found = run(*first, 2)
    saved = io.BytesIO()
    torch.save([part.state_dict() for part in first], saved)
    saved.seek(0)
    for part, state in zip(second, torch.load(saved, weights_only=True), strict=True):
        part.load_state_dict(state)
    assert found + run(*second, 2) == undisturbed


@pytest.mark.parametrize(
    ("name", "kind"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)]
)
def test_every_optimizer_moves_what_learns_and_nothing_else(name, kind):
    moving, frozen = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2), requires_grad=False)
    optimizer = make_optimizer(OptimConfig(optimizer=name), [moving, frozen], 0.1)
    assert type(optimizer) is kind
    (moving.square().sum() + frozen.sum()).backward()
    optimizer.step()
    assert bool((moving < 1).all())
    assert torch.equal(frozen, torch.ones(2))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"optimizer": "lion"}, "expected one of adamw, adam, sgd"),
        ({"schedule": "linear"}, "expected one of one-cycle, cosine"),
        ({"accumulate": 0}, "optim.accumulate must be at least 1"),
        ({"clip": -1.0}, "optim.clip must be at least 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        OptimConfig(**settings)

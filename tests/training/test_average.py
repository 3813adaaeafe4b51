"""The moving average of a network over the steps of its training."""

import torch
from test_training import small_network
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cxrpipe.training.average import MovingAverage


def step(network: nn.Module, by: float) -> None:
    """Change weights and statistics, and count a batch, as a step of training does."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += by
    network.train()(torch.rand(4, 1, 16, 16))


def test_weights_and_statistics_are_averaged_as_torch_does():
    network = small_network()
    own = MovingAverage(network, 0.9)
    other = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    for by in (0.5, -0.2, 0.1):
        step(network, by)
        own.update()
        other.update_parameters(network)
    expected = other.module.state_dict()
    for name, value in own.module.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, expected[name], rtol=0, atol=0)


def test_counters_are_left_alone_after_the_first_step():
    network = small_network()
    own = MovingAverage(network, 0.9)
    for _ in range(3):
        step(network, 0.1)
        own.update()
    assert int(network.get_buffer("1.num_batches_tracked")) == 3
    assert int(own.module.get_buffer("1.num_batches_tracked")) == 1


def test_an_average_that_has_begun_is_not_replaced_by_the_next_step():
    network = small_network()
    own = MovingAverage(network, 0.9)
    before = next(own.module.parameters()).clone()
    own.begin()
    step(network, 1.0)
    own.update()
    torch.testing.assert_close(next(own.module.parameters()), before + 0.1)

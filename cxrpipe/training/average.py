"""The moving average of a network over the steps of its training."""

import copy
import itertools

import torch
from torch import nn


class MovingAverage:
    """Averages weights and BatchNorm statistics: after every step the average keeps the fraction `share` of itself.

    Integers, such as BatchNorm's count of batches, are copied once and then left alone: scoring does not read them.
    torch's `AveragedModel` averages them one by one (a ResNet-50 has 53 of them, and 858 operations a step instead of
    one), and asks the GPU at every step whether it is the first.
    """

    def __init__(self, network: nn.Module, share: float) -> None:
        self.module = copy.deepcopy(network)
        self._network, self._share, self._begun = network, share, False

    @torch.no_grad()
    def update(self) -> None:
        """Take in the network as it is after a step; the first step replaces the average."""
        mine, others = _values(self.module), _values(self._network)
        if not self._begun:
            self.begin()
            self.module.load_state_dict(self._network.state_dict())
            return
        torch._foreach_lerp_(mine, others, 1 - self._share)

    def begin(self) -> None:
        """Count from here on as begun, as after a restart: the next step is averaged, and replaces nothing."""
        self._begun = True


def _values(network: nn.Module) -> list[torch.Tensor]:
    """List the weights and buffers that are no integers."""
    tensors = itertools.chain(network.parameters(), network.buffers())
    return [tensor for tensor in tensors if tensor.is_floating_point()]

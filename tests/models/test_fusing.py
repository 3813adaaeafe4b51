"""On a CPU a convolution and what follows it are one call, with the same answers."""

import pytest
import torch
from test_execution import lively
from torch import Tensor, nn

from cxrpipe.models import architectures, exact, fusing
from cxrpipe.models.onednn import Convolution

pytestmark = pytest.mark.usefixtures("one_thread")


def calls(network: nn.Module) -> list[Convolution]:
    return [module for module in network.modules() if isinstance(module, Convolution)]


@pytest.mark.parametrize(
    ("architecture", "convolutions", "activations", "overwriting"),
    [
        ("resnet18", 20, 17, 7),  # eight blocks, of which the first adds what a pooling made
        ("densenet121", 120, 59, 0),
        ("efficientnet_b0", 81, 49, 0),
        ("mobilenet_v3_small", 52, 32, 6),
        ("unet-resnet18", 31, 27, 7),
        ("unet-efficientnet-b0", 11, 10, 0),  # convolutions of the encoder pad by themselves
    ],
)
@torch.inference_mode()
def test_single_calls_say_the_same(architecture, convolutions, activations, overwriting):
    network = fusing.fused(lively(architecture, 1)).to(memory_format=torch.channels_last)
    views = torch.rand(3, 1, 64, 64).contiguous(memory_format=torch.channels_last)
    expected = network(views)
    faster = fusing.in_single_calls(network, 64)
    made = calls(faster)
    assert len(made) == convolutions
    assert sum(call.activation != "none" for call in made) == activations
    assert sum(call.overwrites for call in made) == overwriting
    largest = float(expected.abs().max())
    torch.testing.assert_close(faster(views), expected, rtol=0, atol=1e-5 * largest)
    torch.testing.assert_close(faster(views), expected, rtol=0, atol=1e-5 * largest)  # nothing was overwritten
    assert not calls(network)


class _Residual(nn.Module):
    """Every way to use what a convolution gave after it was added."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = (nn.Conv2d(width, 8, 3, padding=1) for width in (1, 8, 8))

    def forward(self, views: Tensor) -> Tensor:
        first = self.one(views)
        second = self.two(first) + first  # `first` is its own input
        third = self.three(second.relu()) + second  # a view of `second` is needed later
        return third + first.relu() + second.flatten(1).mean(1)[:, None, None, None]


@torch.inference_mode()
def test_nothing_is_overwritten_that_is_needed_later():
    torch.manual_seed(0)
    network, views = _Residual().eval(), torch.rand(2, 1, 16, 16)
    expected = network(views)
    faster = fusing.in_single_calls(network, 16)
    assert len(calls(faster)) == 3
    assert not any(call.overwrites for call in calls(faster))
    torch.testing.assert_close(faster(views), expected)


class _Broadcast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.shift = nn.Conv2d(1, 4, 1), nn.Parameter(torch.rand(1, 4, 1, 1))

    def forward(self, views: Tensor) -> Tensor:
        return self.one(views) + self.shift


@torch.inference_mode()
def test_a_network_that_onednn_cannot_take_stays_as_it_is_and_says_so(capsys):
    network = _Broadcast().eval()
    assert fusing.in_single_calls(network, 8) is network
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "convolutions stay apart from what follows them (Add Fusion's inputs should have same shape)" in line


@torch.inference_mode()
def test_a_network_that_reads_attributes_of_its_layers_stays_as_it_is(capsys):
    network = architectures.build("timm:test_vit", 2, 64, channels=3).eval()
    assert fusing.in_single_calls(network, 64, channels=3) is network
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="oneDNN has no bf16 on this CPU")
@torch.inference_mode()
def test_two_terms_in_a_single_call_are_nearer_to_float32_than_rounded_weights():
    torch.manual_seed(0)
    convolution, views = nn.Conv2d(16, 16, 3, bias=False), torch.rand(4, 16, 12, 12).bfloat16()

    def convolved(weight: Tensor) -> Tensor:
        return nn.functional.conv2d(views.double(), weight.double())

    def shift(answer: Tensor) -> float:
        """The largest shift of a channel's mean, which all later layers inherit."""
        return float((answer.double() - expected).mean((0, 2, 3)).abs().max())

    expected, rounded = convolved(convolution.weight), convolved(convolution.weight.bfloat16())
    call = Convolution(exact.InTwoTerms(convolution, torch.bfloat16), "none")
    assert shift(call(views)) < 0.2 * shift(rounded)

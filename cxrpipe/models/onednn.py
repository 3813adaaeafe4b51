"""A convolution with what follows it, in one call of oneDNN, the library that torch multiplies with on a CPU."""

import torch
from torch import Tensor, nn

from cxrpipe.models.exact import InFloat32, InTwoTerms

Layer = nn.Conv2d | InFloat32 | InTwoTerms
_start = torch.ops.mkldnn._convolution_pointwise  # torch's own compiler calls these three
_add_to = torch.ops.mkldnn._convolution_pointwise_
_pack = torch.ops.mkldnn._reorder_convolution_weight

_VIEWS = 8
"""Views of a usual call, for which oneDNN chooses the order of the weights."""


class Convolution(nn.Module):
    """A convolution of a CPU, an addition and an activation: activation(convolution(views) + other).

    layer       the convolution; the first call copies its weights in oneDNN's order, so that no later call has to
    activation  as oneDNN names it, or `none`
    """

    def __init__(self, layer: Layer, activation: str) -> None:
        super().__init__()
        convolution = layer if isinstance(layer, nn.Conv2d) else layer.layer
        assert isinstance(convolution, nn.Conv2d)
        self._geometry = (
            *(list(sizes) for sizes in (convolution.padding, convolution.stride, convolution.dilation)),
            convolution.groups,
        )
        terms = [(convolution.weight, convolution.bias)]
        if isinstance(layer, InTwoTerms):
            terms.append((layer.rest, layer.rest_of_bias))
        self._weights = [weight.detach().contiguous(memory_format=torch.channels_last) for weight, _ in terms]
        self._biases = [bias if bias is None else bias.detach() for _, bias in terms]
        self._is_packed = False
        self.activation = activation
        self._dtype = convolution.weight.dtype
        self._output_dtype = layer.dtype if isinstance(layer, InFloat32) else self._dtype
        self.overwrites = False
        """Whether the result may take the memory of `other`, which nothing else needs any more."""

    def forward(self, views: Tensor, other: Tensor | None = None) -> Tensor:
        """(N, C, H, W), and (N, D, h, w) to add → (N, D, h, w)."""
        views = views.to(self._dtype)
        total = other if other is None or self.overwrites else other.clone()
        (weight, bias), *rests = zip(self._packed(views), self._biases, strict=True)
        for rest, rest_of_bias in rests:
            total = self._add(total, views, rest, rest_of_bias, "none")
        return self._add(total, views, weight, bias, self.activation).to(self._output_dtype)

    def _packed(self, views: Tensor) -> list[Tensor]:
        """The weights in oneDNN's order for views of this size. In an order for no size some layers take 20 times."""
        if not self._is_packed:
            size = [_VIEWS, *views.shape[1:]]
            self._weights = [_pack(weight, *self._geometry, size) for weight in self._weights]
            self._is_packed = True
        return self._weights

    def _add(self, total: Tensor | None, views: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
        output: Tensor
        if total is None:
            output = _start(views, weight, bias, *self._geometry, activation, [], "")
        else:  # as a sum in place. oneDNN takes twice as long to add a tensor that it must not overwrite
            unary = None if activation == "none" else activation
            output = _add_to(total, views, weight, bias, *self._geometry, "add", 1.0, unary, [], None)
        return output

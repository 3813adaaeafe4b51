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
        terms = [convolution.weight.detach()]
        if isinstance(layer, InTwoTerms):
            terms.append(layer.rest)
        self._terms = [term.contiguous(memory_format=torch.channels_last) for term in terms]
        self._is_packed = False
        self._bias = None if convolution.bias is None else convolution.bias.detach()
        self.activation = activation
        self._dtype = convolution.weight.dtype
        self._output_dtype = layer.dtype if isinstance(layer, InFloat32) else self._dtype
        self.overwrites = False
        """Whether the result may take the memory of `other`, which nothing else needs any more."""

    def forward(self, views: Tensor, other: Tensor | None = None) -> Tensor:
        """(N, C, H, W), and (N, D, h, w) to add → (N, D, h, w)."""
        views = views.to(self._dtype)
        total = other if other is None or self.overwrites else other.clone()
        weight, *rests = self._packed(views)
        for rest in rests:
            total = self._add(total, views, rest, None, "none")
        return self._add(total, views, weight, self._bias, self.activation).to(self._output_dtype)

    def _packed(self, views: Tensor) -> list[Tensor]:
        """The terms of the weights in oneDNN's order for views of this size. For an unknown size some take 20 times."""
        if not self._is_packed:
            size = [_VIEWS, *views.shape[1:]]
            self._terms = [_pack(term, *self._geometry, size) for term in self._terms]
            self._is_packed = True
        return self._terms

    def _add(self, total: Tensor | None, views: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
        output: Tensor
        if total is None:
            output = _start(views, weight, bias, *self._geometry, activation, [], "")
        else:  # as a sum in place. oneDNN takes twice as long to add a tensor that it must not overwrite
            unary = None if activation == "none" else activation
            output = _add_to(total, views, weight, bias, *self._geometry, "add", 1.0, unary, [], None)
        return output

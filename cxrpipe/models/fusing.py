"""Fuses layers of a network: batch normalisation into convolutions, and on a CPU a convolution with what follows it."""

import copy
import operator
from typing import Any

import torch
from torch import fx, nn
from torch.fx.experimental.optimization import fuse as fuse_traced
from torch.nn import functional

from cxrpipe import console
from cxrpipe.models.exact import InFloat32, InTwoTerms
from cxrpipe.models.onednn import Convolution

_UNTRACEABLE = (ValueError, TypeError, RuntimeError, AssertionError, AttributeError, NotImplementedError)
"""Errors of torch.fx for control flow, for arguments that it does not know, and for objects that it cannot copy."""

_ACTIVATIONS: dict[Any, str] = {
    nn.ReLU: "relu",
    functional.relu: "relu",
    torch.relu: "relu",
    nn.SiLU: "swish",
    nn.Hardswish: "hardswish",
}
"""oneDNN's names."""
_ACTIVATIONS_OF_SUMS = ("relu",)
"""The only one that oneDNN, as torch calls it, applies to a sum."""
_ADDITIONS = (operator.add, operator.iadd, torch.add)


def fused(network: nn.Module) -> nn.Module:
    """Fold every batch normalisation into the convolution before it. This uses `network` up.

    A network that torch.fx cannot trace as a whole is fused child by child. A U-Net, for example, checks the shape of
    its input.
    """
    if not any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        return network
    try:
        return fuse_traced(_traced(network), inplace=True, no_trace=True)
    except _UNTRACEABLE:
        for name, child in network.named_children():
            setattr(network, name, fused(child))
        return network


@torch.inference_mode()
def in_single_calls(network: nn.Module, side_px: int, channels: int = 1) -> nn.Module:
    """A network on a CPU → the same, with one call of oneDNN for a convolution, an addition and the activation.

    Each of them would pass over memory once more, which took half of a ResNet-50's time in bf16. The weights are stored
    as oneDNN wants them. A trial shows whether oneDNN can do so on this machine; otherwise one line is logged and the
    network stays as it is.

    docs/decisions.md#on-a-cpu-one-call-takes-a-convolution-and-what-follows
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return network
    try:
        faster = _rewritten(network)
        faster(torch.zeros(1, channels, side_px, side_px).contiguous(memory_format=torch.channels_last))
    except AttributeError:  # a transformer of timm reads attributes of a child, which tracing takes from it
        return network
    except RuntimeError as error:
        console.log(f"convolutions stay apart from what follows them ({str(error).strip().splitlines()[0]})")
        return network
    return faster


class _Tracer(fx.Tracer):
    """Takes layers that stay exact, and all kinds of convolutions, as they are."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, InFloat32 | InTwoTerms | nn.Conv2d) or super().is_leaf_module(module, name)


def _traced(network: nn.Module) -> fx.GraphModule:
    graph = copy.deepcopy(network.graph) if isinstance(network, fx.GraphModule) else _Tracer().trace(network)
    return fx.GraphModule(network, graph)


def _rewritten(network: nn.Module) -> nn.Module:
    """The network with `Convolution`s, child by child where torch.fx cannot trace the whole. `network` is unchanged."""
    try:
        whole = _traced(network)
    except _UNTRACEABLE:
        parent = copy.copy(network)
        parent._modules = {name: child and _rewritten(child) for name, child in network._modules.items()}
        return parent
    for node in list(whole.graph.nodes):
        layer = _called(whole, node)
        if _is_plain_convolution(layer) and len(node.args) == 1:
            _rewrite(whole, node, layer)
    order = {node: number for number, node in enumerate(whole.graph.nodes)}
    for node in whole.graph.nodes:
        layer = _called(whole, node)
        if isinstance(layer, Convolution) and len(node.args) > 1:
            layer.overwrites = _is_last_to_need(whole, node, order)
    whole.delete_all_unused_submodules()
    whole.graph.lint()
    whole.recompile()
    return whole.eval()


def _called(whole: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return whole.get_submodule(str(node.target)) if node.op == "call_module" else None


def _is_plain_convolution(layer: nn.Module | None) -> bool:
    """Whether oneDNN pads as the layer does. Subclasses of Conv2d, such as timm's, may pad by themselves."""
    convolution = layer.layer if isinstance(layer, InFloat32 | InTwoTerms) else layer
    return (
        type(convolution) is nn.Conv2d
        and convolution.padding_mode == "zeros"
        and not isinstance(convolution.padding, str)
    )


def _rewrite(whole: fx.GraphModule, node: fx.Node, layer: Any) -> None:
    """Put one node in the place of a convolution, the addition behind it, and the activation behind that."""
    nodes, other, activation = [node], None, "none"
    user = _only_user(nodes[-1])
    if user and user.op == "call_function" and user.target in _ADDITIONS and len(user.args) == 2 and not user.kwargs:
        (other,) = [term for term in user.args if term is not node] or [None]
        if isinstance(other, fx.Node):
            nodes.append(user)
        else:
            other = None  # a number, or twice the convolution itself
    user = _only_user(nodes[-1])
    called = user and _ACTIVATIONS.get(user.target if user.op == "call_function" else type(_called(whole, user)))
    is_sum = other is not None or isinstance(layer, InTwoTerms)
    if user and called and (called in _ACTIVATIONS_OF_SUMS or not is_sum):
        activation = called
        nodes.append(user)
    place = f"{str(node.target).replace('.', '_')}_{len(whole._modules)}"
    whole.add_module(place, Convolution(layer, activation))
    with whole.graph.inserting_after(nodes[-1]):
        single = whole.graph.call_module(place, (node.args[0], *([other] if other else [])))
    nodes[-1].replace_all_uses_with(single)
    for replaced in reversed(nodes):
        whole.graph.erase_node(replaced)


def _only_user(node: fx.Node) -> fx.Node | None:
    users = list(node.users)
    return users[0] if len(users) == 1 else None


def _is_last_to_need(whole: fx.GraphModule, node: fx.Node, order: dict[fx.Node, int]) -> bool:
    """Whether a convolution may write its result over what it adds.

    What it adds is then the output of a convolution, of which no other layer holds a view and which no later one reads.
    """
    views, other = node.args
    assert isinstance(other, fx.Node)
    only_convolutions = all(isinstance(_called(whole, each), Convolution) for each in (other, *other.users))
    return only_convolutions and views is not other and max(order[user] for user in other.users) == order[node]

"""Which layers learn, and that those that do not stay as they are to the bit."""

import copy
import functools

import pytest
import torch
from torch import nn

from cxrpipe.config.train_sections import FreezeConfig
from cxrpipe.errors import ConfigError
from cxrpipe.models import architectures
from cxrpipe.models.weights import weights_bytes
from cxrpipe.training.freezing import check, freeze, freeze_unused, frozen_in, layers, least_important, train_mode

pytestmark = pytest.mark.usefixtures("one_thread")
VIT = "timm:vit_tiny_patch16_224,depth=4"


@functools.cache
def built(architecture: str) -> nn.Module:
    torch.manual_seed(0)
    return architectures.build(architecture, 1 if architecture.startswith("unet") else 2, 32)


def network(architecture: str = "resnet18") -> nn.Module:
    return copy.deepcopy(built(architecture))


def learning(own: nn.Module) -> set[str]:
    """The parts of the network that learn, by the first word of their names."""
    return {name.split(".")[0] for name, parameter in own.named_parameters() if parameter.requires_grad}


def frozen_by(own: nn.Module, phase: int = 0, **settings: object) -> nn.Module:
    freeze(own, frozen_in(own, FreezeConfig(**settings), phase))  # type: ignore[arg-type]
    return own


def test_layers_are_what_has_weights_with_its_normalisation_in_order_without_the_head():
    names = [layer.name for layer in layers(network())]
    assert len(names) == 20  # 17 convolutions, and 3 where a block shrinks
    assert names[:3] == ["conv1", "layer1.0.conv1", "layer1.0.conv2"]
    assert [len(layer.parameters) for layer in layers(network())[:2]] == [3, 3]  # weight, and BatchNorm's two


@pytest.mark.parametrize(
    "architecture",
    ["resnet18", "smallcnn", "densenet121", "efficientnet_b0", "unet-resnet18", "unet-classic", VIT, "timm:resnet10t"],
)
def test_layers_and_head_are_all_of_the_network_and_each_once(architecture):
    own = network(architecture)
    in_layers = [id(parameter) for layer in layers(own) for parameter in layer.parameters]
    frozen_by(own, policy="all")
    learns = [id(parameter) for parameter in own.parameters() if parameter.requires_grad]
    assert learns
    assert sorted(in_layers + learns) == sorted(id(parameter) for parameter in own.parameters())


def test_a_block_of_a_transformer_is_one_layer_behind_the_embedding_of_its_patches():
    assert [layer.name for layer in layers(network(VIT))] == [
        "",
        "patch_embed.proj",
        *(f"blocks.{n}" for n in range(4)),
    ]
    last = frozen_by(network(VIT), policy="last-1")
    assert learning(last) == {"blocks", "norm", "head"}
    assert [any(weight.requires_grad for weight in block.parameters()) for block in last.blocks] == [False] * 3 + [True]


@pytest.mark.parametrize(
    ("settings", "learns"),
    [
        ({"policy": "none"}, {"cls_token", "pos_embed", "patch_embed", "blocks", "norm", "head"}),
        ({"policy": "all"}, {"head"}),
        ({"policy": "partial", "fraction": 0.5}, {"blocks", "norm", "head"}),
        ({"policy": "progressive"}, {"head"}),
        ({"policy": "adaptive"}, {"head"}),
    ],
)
def test_every_policy_works_on_a_transformer(settings, learns):
    assert learning(frozen_by(network(VIT), **settings)) == learns


def test_none_lets_everything_learn():
    own = frozen_by(frozen_by(network(), policy="all"), policy="none")
    assert all(parameter.requires_grad for parameter in own.parameters())


def test_all_lets_the_head_alone_learn():
    assert learning(frozen_by(network(), policy="all")) == {"fc"}
    assert learning(frozen_by(network("unet-resnet18"), policy="all")) == {"decoder", "segmentation_head"}
    assert learning(frozen_by(network("unet-classic"), policy="all")) == {"decoder", "segmentation_head"}


def test_partial_freezes_the_first_part():
    own = frozen_by(network(), policy="partial", fraction=0.5)
    assert learning(own) == {"layer3", "layer4", "fc"}
    assert not any(layer.parameters[0].requires_grad for layer in layers(own)[:10])
    assert all(layer.parameters[0].requires_grad for layer in layers(own)[10:])


@pytest.mark.parametrize(("last", "learns"), [("last-1", {"layer4", "fc"}), ("last-6", {"layer3", "layer4", "fc"})])
def test_last_n_lets_the_last_n_layers_learn(last, learns):
    own = frozen_by(network(), policy=last)
    assert learning(own) == learns
    assert sum(layer.parameters[0].requires_grad for layer in layers(own)) == int(last[5:])


def test_last_n_of_more_layers_than_there_are_is_all_of_them():
    assert all(parameter.requires_grad for parameter in frozen_by(network(), policy="last-500").parameters())


def test_the_last_nine_layers_are_the_last_thirty_of_keras():
    """Keras counts 175 layers of a ResNet-50: the last 30 begin behind the first convolution of the last stage."""
    own = frozen_by(network("resnet50"), policy="last-9")
    first, *others = (layer for layer in layers(own) if layer.name.startswith("layer4."))
    assert (first.name, first.parameters[0].requires_grad) == ("layer4.0.conv1", False)
    assert len(others) == 9
    assert all(layer.parameters[0].requires_grad for layer in others)
    assert learning(own) == {"layer4", "fc"}


def test_the_head_learns_first_and_then_the_last_layers_too():
    own = network()
    assert learning(frozen_by(own, 0, policy="head-then-last-6")) == {"fc"}
    assert learning(frozen_by(own, 1, policy="head-then-last-6")) == {"layer3", "layer4", "fc"}
    assert sum(layer.parameters[0].requires_grad for layer in layers(own)) == 6


@pytest.mark.parametrize("architecture", ["resnet18", "resnet50", "resnet152"])
def test_everything_before_a_part_of_the_network_is_frozen_in_every_resnet(architecture):
    with torch.device("meta"):
        own = architectures.build(architecture, 2, 32)
    assert learning(frozen_by(own, policy="partial", until="layer4")) == {"layer4", "fc"}
    assert learning(frozen_by(own, 1, policy="progressive", until="layer3")) == {"layer3", "layer4", "fc"}


def test_a_part_may_be_a_single_layer():
    own = frozen_by(network(), policy="partial", until="layer4.1.conv2")
    assert [layer.name for layer in layers(own) if layer.parameters[0].requires_grad] == ["layer4.1.conv2"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"policy": "partial", "until": "layer5"}, "no such part; it has conv1, layer1, layer2, layer3, layer4"),
        ({"policy": "partial", "until": "layer"}, "no such part"),
        ({"policy": "adaptive", "count": 21}, "resnet18 has 20 layers before its head"),
    ],
)
def test_what_a_network_does_not_have_is_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        check(network(), FreezeConfig(**settings), "resnet18")


def test_progressive_goes_from_the_head_to_all():
    own = network()
    by_phase = [learning(frozen_by(own, phase, policy="progressive")) for phase in range(3)]
    assert by_phase[0] == {"fc"}
    assert by_phase[1] == {"layer3", "layer4", "fc"}
    assert by_phase[2] == {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc"}


def test_a_frozen_layer_keeps_parameters_and_statistics_and_the_others_do_not():
    own = frozen_by(network(), policy="partial")
    before = copy.deepcopy(own.state_dict())
    optimizer = torch.optim.SGD([value for value in own.parameters() if value.requires_grad], 0.1)
    train_mode(own)
    own(torch.randn(4, 1, 32, 32)).square().sum().backward()
    optimizer.step()
    frozen = {name for name in before if name.split(".")[0] in ("conv1", "bn1", "layer1", "layer2")}
    changed = {name for name, value in own.state_dict().items() if not torch.equal(value, before[name])}
    assert not changed & {name for name in frozen if not name.startswith("layer3")}
    assert {"layer4.1.bn2.running_mean", "layer4.1.bn2.running_var", "layer4.1.conv2.weight", "fc.weight"} <= changed


def test_all_statistics_move_where_all_layers_learn():
    own = frozen_by(network(), policy="none")
    before = copy.deepcopy(own.state_dict())
    train_mode(own)
    own(torch.randn(4, 1, 32, 32))
    after = own.state_dict()
    assert not any(torch.equal(after[name], before[name]) for name in before if name.endswith("running_mean"))


# ---- adaptive -------------------------------------------------------------------------------------------------


def chain() -> nn.Module:
    """Four layers that multiply by 1, 1.01, 10 and 2, and a head."""
    own = nn.Sequential(*(nn.Linear(1, 1, bias=False) for _ in range(4)), nn.Linear(1, 1))
    with torch.no_grad():
        for layer, factor in zip(own, (1.0, 1.01, 10.0, 2.0, 1.0), strict=True):
            layer.weight.fill_(factor)
    return own


def test_the_layers_whose_absence_costs_least_are_chosen():
    own, costs = chain(), {0: 5.0, 1: -0.5, 2: 0.3, 3: 9.0}

    def loss() -> float:
        absent = [number for number, layer in enumerate(own) if not layer.weight.any()]
        return sum(costs[number] for number in absent)

    assert least_important(own, loss, 0.5) == ["1", "2"]
    assert least_important(own, loss, 0.0) == []
    assert len(least_important(own, loss, 1.0)) == 4
    assert least_important(own, loss, 0.0, count=3) == ["0", "1", "2"]


def test_a_layer_without_which_the_loss_is_not_finite_is_the_most_important():
    own = chain()
    assert least_important(own, lambda: 0.0 if own[2].weight.any() else float("nan"), 0.75) == ["0", "1", "3"]


def test_measuring_restores_every_weight_exactly_and_asks_once_for_every_layer():
    own, asked = network("smallcnn"), []
    before = weights_bytes(own)
    least_important(own, lambda: float(len(asked.append(1) or asked)), 0.3)
    assert weights_bytes(own) == before
    assert len(asked) == 1 + len(layers(own))


def test_weights_are_restored_where_measuring_breaks():
    own = network("smallcnn")
    before = weights_bytes(own)
    calls = iter([0.0])
    with pytest.raises(StopIteration):
        least_important(own, lambda: next(calls), 0.3)
    assert weights_bytes(own) == before


# ---- settings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "epochs", "expected"),
    [
        ({}, 10, [(range(10), 1e-3)]),
        ({"learning_rates": (5e-4,)}, 10, [(range(10), 5e-4)]),
        ({"policy": "progressive"}, 10, [(range(3), 1e-3), (range(3, 6), 1e-3 / 3), (range(6, 10), 1e-3 / 9)]),
        (
            {"policy": "progressive", "epochs": (1, 2, 3), "learning_rates": (1e-2, 1e-3, 1e-4)},
            6,
            [(range(1), 1e-2), (range(1, 3), 1e-3), (range(3, 6), 1e-4)],
        ),
        ({"policy": "adaptive"}, 10, [(range(2), 1e-3), (range(2, 10), 1e-3 / 3)]),
        ({"policy": "adaptive", "epochs": (0, 5)}, 5, [(range(0), 1e-3), (range(5), 1e-3 / 3)]),
        ({"policy": "head-then-last-9"}, 10, [(range(2), 1e-3), (range(2, 10), 1e-3 / 3)]),
    ],
)
def test_phases_have_their_own_epochs_and_learning_rates(settings, epochs, expected):
    assert list(FreezeConfig(**settings).plan(epochs, 1e-3)) == expected


@pytest.mark.parametrize(
    ("settings", "epochs", "said"),
    [
        ({"policy": "progressive", "epochs": (1, 2, 3)}, 7, "epochs 7; the 3 phases"),
        ({"policy": "progressive"}, 2, "epochs 2; the 3 phases"),
        ({"policy": "progressive", "epochs": (1, 2)}, 3, "progressive has 3 phases"),
        ({"policy": "last-N"}, 1, "N is a number, as in last-10"),
        ({"policy": "head-then-last-N"}, 2, "N is a number, as in last-10"),
        ({"policy": "progressive", "epochs": (0, 1, 1)}, 2, "freeze.epochs and --freeze.learning-rates must be more"),
        ({"policy": "adaptive", "epochs": (1, 0)}, 1, "freeze.epochs and --freeze.learning-rates must be more"),
        ({"policy": "all", "until": "layer4"}, 1, "freeze.until with the policy all"),
        ({"policy": "partial", "count": 10}, 1, "freeze.count with the policy partial"),
        ({"policy": "most"}, 1, "expected one of none, all, partial"),
        ({"policy": "partial", "fraction": 1.5}, 1, "freeze.fraction must lie between"),
    ],
)
def test_phases_that_do_not_fit_are_refused(settings, epochs, said):
    with pytest.raises(ConfigError, match=said):
        FreezeConfig(**settings).plan(epochs, 1e-3)


# ---- what gets no gradient ------------------------------------------------------------------------------------


def test_layers_that_an_encoder_does_not_use_are_found_and_frozen():
    own = network("unet-efficientnet-b0")
    unused = freeze_unused(own, torch.zeros(1, 1, 32, 32))
    assert unused == ["encoder._conv_head.weight", "encoder._bn1.weight", "encoder._bn1.bias"]
    assert sorted(name for name, value in own.named_parameters() if not value.requires_grad) == sorted(unused)
    assert all(parameter.grad is None for parameter in own.parameters())


@pytest.mark.parametrize("architecture", ["resnet18", "efficientnet_b0"])  # the second drops whole blocks at random
def test_a_network_that_is_used_as_a_whole_stays_as_it_is(architecture):
    own = frozen_by(network(architecture), policy="partial")
    before, learns = weights_bytes(own), [parameter.requires_grad for parameter in own.parameters()]
    state = torch.get_rng_state()
    assert freeze_unused(own, torch.zeros(1, 1, 32, 32)) == []
    assert weights_bytes(own) == before
    assert [parameter.requires_grad for parameter in own.parameters()] == learns
    assert torch.equal(torch.get_rng_state(), state)

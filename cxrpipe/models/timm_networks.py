"""Networks of timm by name: `timm:vit_small_patch16_224`, or with arguments `timm:vit_small_patch16_224,depth=6`."""

import ast
import contextlib
import difflib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import nn

from cxrpipe.errors import ConfigError
from cxrpipe.models.libraries import timm

TIMM = "timm:"
_BETWEEN = re.compile(r",(?=\s*[A-Za-z_])")
"""A comma before a name; those of `depths=(2,2)` stand before numbers."""
# fmt: off
_ARGUMENTS = (
    "act_layer", "class_token", "depth", "depths", "dims", "embed_dim", "fc_norm", "final_norm", "global_pool",
    "init_values", "layers", "mlp_layer", "mlp_ratio", "no_embed_class", "norm_layer", "num_heads", "patch_size",
    "pos_embed", "pre_norm", "qk_norm", "qkv_bias", "reg_tokens", "window_size"
)
# fmt: on
"""Arguments that change the shape of a network, and nothing else. timm has others that open files."""


class TimmName(NamedTuple):
    """A name of timm, and arguments of the network beside it."""

    model: str
    arguments: dict[str, Any]

    def __str__(self) -> str:
        """The architecture of a card: `timm:NAME,argument=value`."""
        return TIMM + ",".join([self.model, *(f"{name}={value}" for name, value in sorted(self.arguments.items()))])


def parse(architecture: str) -> TimmName:
    """Read an architecture. ConfigError where it names no network of timm, or an argument that is not known."""
    model, *pairs = _BETWEEN.split(architecture.removeprefix(TIMM))
    model = model.partition(".")[0]  # a tag, such as `.augreg_in21k`, names weights
    if not timm().is_model(model):
        close = difflib.get_close_matches(model, timm().list_models(), n=3)
        suggestions = f"; did you mean {', '.join(close)}?" if close else "; timm.list_models() lists the names"
        raise ConfigError(f"arch {architecture!r}: timm {timm().__version__} has no network {model!r}{suggestions}")
    return TimmName(model, dict(_argument(architecture, pair) for pair in pairs))


def _argument(architecture: str, pair: str) -> tuple[str, Any]:
    name, equals, text = pair.partition("=")
    if not equals or name not in _ARGUMENTS:
        raise ConfigError(f"arch {architecture!r}: {pair!r}; expected NAME=VALUE with one of {', '.join(_ARGUMENTS)}")
    try:
        return name, ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return name, text  # a word, such as `avg` of global_pool


def build(architecture: str, outputs: int, side_px: int, channels: int) -> nn.Module:
    """A network of timm with fresh weights: (N, C, S, S) float → (N, outputs) logits.

    A network that is made for one side, as vision transformers are, is made for `side_px`.
    """
    name = parse(architecture)
    arguments = {"in_chans": channels, "num_classes": outputs, **name.arguments}
    network: nn.Module
    try:
        network = timm().create_model(name.model, img_size=side_px, **arguments)
    except TypeError:  # a convolutional network takes any side
        with _clear_errors(architecture):
            network = timm().create_model(name.model, **arguments)
    return network


@contextlib.contextmanager
def _clear_errors(architecture: str) -> Iterator[None]:
    try:
        yield
    except TypeError as error:
        raise ConfigError(f"arch {architecture!r}: timm refuses an argument ({error})") from None


def classifier_of(network: nn.Module) -> str:
    """Name of the last linear layer of a network of timm. ConfigError where it has another number than one."""
    classifier = network.get_classifier()  # type: ignore[operator]
    whole = nn.ModuleList(classifier) if isinstance(classifier, tuple) else classifier
    linear = [layer for layer in whole.modules() if isinstance(layer, nn.Linear)][-1:]
    several = isinstance(classifier, tuple | nn.ModuleList) or hasattr(classifier, "head_dist")
    if several or not linear:
        kind = "several classifiers" if several else f"a {type(classifier).__name__} as its classifier"
        raise ConfigError(
            f"timm's {type(network).__name__} has {kind}; expected a network that ends in one linear layer"
        )
    names: dict[nn.Module, str] = {module: name for name, module in network.named_modules()}
    return names[linear[0]]

"""What every source gives: a card and the weights for it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import nn

from cxrpipe import __version__
from cxrpipe.config import AdoptConfig
from cxrpipe.config.checks import flag
from cxrpipe.models.card import Card
from cxrpipe.models.weights import weights_bytes


class Adopted(NamedTuple):
    """A model of others, ready to be saved as a model folder."""

    card: Card
    """`facts` is empty: they stand beside it."""
    model: nn.Module | bytes
    """The network that `build_from_card(card)` builds, with its weights; or an ONNX file."""
    facts: dict[str, Any]
    """For people: see `provenance`."""
    assumed: tuple[str, ...] = ()
    """What the source does not say, and how a flag would say it: `--fit squash`."""

    @property
    def weights(self) -> bytes:
        """The content of the weights file."""
        return self.model if isinstance(self.model, bytes) else weights_bytes(self.model)


def provenance(
    source: str,
    licence: str | None = None,
    citation: str | None = None,
    warnings: tuple[str, ...] = (),
    **more: Any,
) -> dict[str, Any]:
    """The facts of an adopted model's card, which no score depends on.

    source    what was adopted, as named on the command line, and the URL of its file where one is known
    licence   of the weights, an SPDX identifier such as MIT; None: unknown
    citation  the publication to cite; None: unknown
    warnings  what whoever uses the model must know
    """
    known = {"source": source, "licence": licence, "citation": citation, "warnings": list(warnings)}
    return known | more | {"adopted_by": f"cxrpipe {__version__}"}


def fields(config: AdoptConfig, **of_source: Any) -> dict[str, Any]:
    """Fields of a card: those of the source, overruled by the flags that name them."""
    flags = {
        "side_px": config.side_px,
        "mean": _one_or_all(config.mean),
        "std": _one_or_all(config.std),
        "fit": config.fit,
        "crop_fraction": config.crop_fraction,
        "resize": config.resize,
        "intensity": config.intensity,
        "output": config.output,
    }
    return of_source | {name: value for name, value in flags.items() if value is not None}


def assumptions(config: AdoptConfig, of_source: Mapping[str, Any]) -> tuple[str, ...]:
    """A sentence for each field that neither a flag nor the source says."""
    return tuple(
        f"{flag(name)} {','.join(f'{part:g}' for part in value) if isinstance(value, tuple) else value}"
        for name, value in of_source.items()
        if getattr(config, name, True) in (None, ())
    )


def _one_or_all(values: tuple[float, ...]) -> float | tuple[float, ...] | None:
    return values if len(values) > 1 else values[0] if values else None

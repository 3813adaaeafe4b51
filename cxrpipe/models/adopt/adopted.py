"""What every source gives: a card and the weights for it."""

from typing import Any, NamedTuple

from torch import nn

from cxrpipe import __version__
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
    """What the source does not say: sentences such as `mean 0.449 and std 0.226, those of ImageNet`."""

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

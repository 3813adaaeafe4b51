"""What training minimises: logits and targets → one number."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

Loss = Callable[[Tensor, Tensor], Tensor]


def masked_bce(pos_weight: Tensor) -> Loss:
    """Binary cross-entropy over the cells that have a label.

    pos_weight  (F,) weight of a present finding against an absent one
    """

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        """(N, F) logits and (N, F) targets of 0, 1 and nan (ignored)."""
        known = ~targets.isnan()
        cells = functional.binary_cross_entropy_with_logits(
            logits, targets.nan_to_num(0.0), pos_weight=pos_weight.to(logits.device), reduction="none"
        )
        return (cells * known).sum() / known.sum().clamp(min=1)

    return loss


def dice_bce(logits: Tensor, targets: Tensor) -> Tensor:
    """Soft Dice per image plus binary cross-entropy, equally; (N, 1, S, S) logits and targets of 0 and 1.

    One pixel is added above and below, so that an empty prediction of an empty mask costs nothing.
    """
    probs = logits.sigmoid()
    overlap = (probs * targets).sum(dim=(1, 2, 3))
    total = probs.sum(dim=(1, 2, 3)) + targets.sum(dim=(1, 2, 3))
    dice = 1 - (2 * overlap + 1) / (total + 1)
    return dice.mean() + functional.binary_cross_entropy_with_logits(logits, targets)

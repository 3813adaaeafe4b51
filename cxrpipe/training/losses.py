"""Losses. A loss is a sum of costs, and the number of cells that these costs are averaged over.

Sum and number are kept apart, so that both can be added over workers and over the batches of a step. A mean of means
would let the number of workers, or labels that are spread unevenly, change the gradient.

A loss is built on the device where it is computed: a copy of weights or indices would wait for a GPU at every step.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from cxrpipe.training.examples import UNCERTAIN

Cells = Callable[[Tensor, Tensor], Tensor]
"""(N, F) logits and (N, F) targets of 0..1 → (N, F) costs."""


class Loss(NamedTuple):
    """A sum of costs and the number of its cells."""

    cost: Callable[[Tensor, Tensor], Tensor]
    """Logits and targets → the sum of the costs of all cells with a target."""
    cells: Callable[[Tensor], Tensor]
    """Targets → the number of these cells; of masks, the number of images."""

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Average the cost over the cells."""
        return self.cost(logits, targets) / self.cells(targets).clamp(min=1)


# ---- findings: (N, F) logits, and targets of 0..1 and nan (ignored) ----------------------------------------------


def bce(pos_weight: Tensor) -> Cells:
    """Binary cross-entropy.

    pos_weight  (F,) weight of a positive cell; a negative one weighs 1
    """
    return lambda logits, targets: functional.binary_cross_entropy_with_logits(
        logits, targets, pos_weight=pos_weight, reduction="none"
    )


def focal(pos_weight: Tensor, gamma: float) -> Cells:
    """Binary cross-entropy, every cell weighted by its error to the power of gamma (Lin et al. 2017)."""
    plain = bce(pos_weight)

    def cost(logits: Tensor, targets: Tensor) -> Tensor:
        probs = logits.sigmoid()
        wrong = probs * (1 - targets) + (1 - probs) * targets
        return wrong**gamma * plain(logits, targets)

    return cost


def masked(cells: Cells, smoothing: float = 0.0) -> Loss:
    """Sum the costs of the cells with a target; nan is none."""

    def cost(logits: Tensor, targets: Tensor) -> Tensor:
        known = ~targets.isnan()
        smooth = targets.nan_to_num(0.0) * (1 - smoothing) + smoothing / 2
        return cells(logits, smooth).where(known, 0.0).sum()

    return Loss(cost, lambda targets: (~targets.isnan()).sum())


def masked_bce(pos_weight: Tensor) -> Loss:
    return masked(bce(pos_weight))


def cross_entropy(pos_weight: Tensor, smoothing: float = 0.0) -> Loss:
    """Cross-entropy over findings that exclude each other, and "no finding" with logit 0. With one finding it is BCE.

    A row counts where all of its findings have a target. Several positive findings share the row. Scoring applies a
    sigmoid to every logit: the probability of this finding against no finding.
    """

    weights = functional.pad(pos_weight, (1, 0), value=1.0)  # no finding first

    def known(targets: Tensor) -> Tensor:
        return ~targets.isnan().any(dim=1)

    def cost(logits: Tensor, targets: Tensor) -> Tensor:
        present = targets.nan_to_num(0.0)
        present = present / present.sum(dim=1, keepdim=True).clamp(min=1)
        shares = torch.cat([1 - present.sum(dim=1, keepdim=True), present], dim=1)  # (N, 1 + F), no finding first
        shares = shares * (1 - smoothing) + smoothing / shares.shape[1]
        costs = -(weights * shares * functional.pad(logits, (1, 0)).log_softmax(dim=1)).sum(dim=1)
        return costs.where(known(targets), 0.0).sum()

    return Loss(cost, lambda targets: known(targets).sum())


def multi_class(others: Loss, columns: tuple[int, ...], pos_weight: Tensor, smoothing: float = 0.0) -> Loss:
    """Three classes for M of the F findings: negative (logit 0), positive, and uncertain, which has its own output.

    The logits are (N, F + M): those of the F findings, then the uncertainty of the M findings in `columns`. The cost of
    these M findings is a cross-entropy over the three classes; the other findings have the loss `others`. Given that a
    finding is not uncertain, the sigmoid of its first logit is its probability, so nothing changes for scoring.
    """
    chosen, findings = torch.tensor(columns, device=pos_weight.device), len(pos_weight)

    def apart(targets: Tensor) -> tuple[Tensor, Tensor]:
        """Split targets: (N, F) with nan in `columns`, and (N, M)."""
        return targets.index_fill(1, chosen, torch.nan), targets[:, chosen]

    def cost(logits: Tensor, targets: Tensor) -> Tensor:
        rest, kinds = apart(targets)
        three = torch.stack([torch.zeros_like(kinds), logits[:, chosen], logits[:, findings:]], dim=1)  # (N, 3, M)
        kind = torch.where(kinds == UNCERTAIN, 2, kinds.nan_to_num(0.0)).round().long()
        costs = functional.cross_entropy(three, kind, reduction="none", label_smoothing=smoothing)
        costs = costs.where(kinds != 1, costs * pos_weight[chosen])
        return others.cost(logits[:, :findings], rest) + costs.where(~kinds.isnan(), 0.0).sum()

    def cells(targets: Tensor) -> Tensor:
        rest, kinds = apart(targets)
        return others.cells(rest) + (~kinds.isnan()).sum()

    return Loss(cost, cells)


# ---- masks: (N, 1, S, S) logits, and targets of 0 and 1 ----------------------------------------------------------


def _images(targets: Tensor) -> Tensor:
    return torch.full((), len(targets), device=targets.device)  # torch.tensor would copy the number, and wait for it


def _per_pixel(cells: Cells, smoothing: float) -> Loss:
    """Average over the pixels of an image, and sum over images."""

    def cost(logits: Tensor, targets: Tensor) -> Tensor:
        smooth = targets * (1 - smoothing) + smoothing / 2
        return cells(logits, smooth).mean(dim=(1, 2, 3)).sum()

    return Loss(cost, _images)


def _dice(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum 1 - soft Dice over images.

    One pixel is added to the numerator and the denominator. So an empty prediction for an empty mask costs nothing, and
    p pixels too many cost 1 - 1 / (p + 1). Without this pixel, images without lungs would have no gradient; if such
    images were left out, the network would learn nothing from them.
    """
    probs = logits.sigmoid()
    overlap = (probs * targets).sum(dim=(1, 2, 3))
    total = probs.sum(dim=(1, 2, 3)) + targets.sum(dim=(1, 2, 3))
    return (1 - (2 * overlap + 1) / (total + 1)).sum()


def _both(first: Loss, second: Loss) -> Loss:
    """Add two losses over the same cells."""
    return Loss(lambda *batch: first.cost(*batch) + second.cost(*batch), first.cells)


dice = Loss(_dice, _images)
dice_bce = _both(dice, _per_pixel(bce(torch.ones(1)), 0.0))


def mask_loss(name: str, smoothing: float, gamma: float, device: torch.device | str = "cpu") -> Loss:
    """Build the loss of a segmenter: `dice-bce` (and `auto`), `dice`, `bce` or `focal`. Dice does not smooth masks."""
    if name == "dice":
        return dice
    one = torch.ones(1, device=device)
    pixels = _per_pixel(focal(one, gamma) if name == "focal" else bce(one), smoothing)
    return pixels if name in ("bce", "focal") else _both(dice, pixels)


def finding_loss(name: str, pos_weight: Tensor, smoothing: float, gamma: float, multi: tuple[int, ...] = ()) -> Loss:
    """Build the loss of a classifier: `bce` (and `auto`), `focal` or `cross-entropy`.

    multi  columns whose uncertain cells are a third class
    """
    if name == "cross-entropy":
        return cross_entropy(pos_weight, smoothing)
    others = masked(focal(pos_weight, gamma) if name == "focal" else bce(pos_weight), smoothing)
    return multi_class(others, multi, pos_weight, smoothing) if multi else others

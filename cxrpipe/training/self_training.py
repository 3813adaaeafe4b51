"""A model that says what the uncertain labels of another one's training are (self-training)."""

import torch
from torch import Tensor, nn

from cxrpipe.config.train import TrainConfig
from cxrpipe.errors import ConfigError
from cxrpipe.models import weights
from cxrpipe.models.card import Card
from cxrpipe.models.folder import open_model
from cxrpipe.models.normalise import normalise
from cxrpipe.training.examples import UNCERTAIN


class Teacher:
    """columns  of the findings that it decides"""

    def __init__(self, network: nn.Module, card: Card, findings: tuple[str, ...], columns: tuple[int, ...]) -> None:
        self._network, self._card, self._columns = network.eval(), card, list(columns)
        self._answers = [card.findings.index(findings[column]) for column in columns]

    def to(self, device: torch.device | str) -> "Teacher":
        self._network.to(device)
        return self

    @torch.no_grad()
    def teach(self, pixels: Tensor, targets: Tensor) -> Tensor:
        """(N, F) targets, in which uncertain cells of its findings are now its probability, 0..1."""
        said = self._network(normalise(pixels, self._card)).sigmoid()[:, self._answers]
        taught = targets.clone()
        own = taught[:, self._columns]
        taught[:, self._columns] = torch.where(own == UNCERTAIN, said, own)
        return taught


def open_teacher(config: TrainConfig, card: Card) -> Teacher | None:
    """The model that the settings name; ConfigError where it cannot teach this training. None where none is asked."""
    columns = tuple(
        number for number, finding in enumerate(card.findings) if config.loss.policy(finding) == "self-trained"
    )
    if not columns:
        return None
    model = open_model(config.loss.teacher, "classify")
    if (model.card.preparation, model.card.crop) != (card.preparation, card.crop):
        raise ConfigError(
            f"{model.url}: wants {model.card.preparation} and crop {model.card.crop}, and this training "
            f"{card.preparation} and {card.crop}; train it alike"
        )
    if unknown := {card.findings[column] for column in columns}.difference(model.card.findings):
        raise ConfigError(f"{model.url}: says nothing of {', '.join(sorted(unknown))}; name another loss.teacher")
    return Teacher(weights.load(model), model.card, card.findings, columns)

"""Self-training: a trained model, the teacher, decides the uncertain labels of another training."""

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
    """A trained model that gives uncertain cells a target."""

    def __init__(self, network: nn.Module, card: Card, findings: tuple[str, ...], columns: tuple[int, ...]) -> None:
        """findings  of the training that is taught
        columns   of the findings whose uncertain cells the teacher decides
        """
        self._network, self._card, self._columns = network.eval(), card, torch.tensor(columns)
        self._outputs = torch.tensor([card.findings.index(findings[column]) for column in columns])

    def to(self, device: torch.device | str) -> "Teacher":
        """Move the teacher to a device."""
        self._network.to(device)
        self._columns, self._outputs = self._columns.to(device), self._outputs.to(device)
        return self

    @torch.no_grad()
    def teach(self, pixels: Tensor, targets: Tensor) -> Tensor:
        """Replace uncertain cells in `columns` by the probability of the teacher: (N, F) targets → (N, F)."""
        probs = self._network(normalise(pixels, self._card)).sigmoid()[:, self._outputs]
        labels = targets[:, self._columns]
        return targets.index_copy(1, self._columns, torch.where(labels == UNCERTAIN, probs, labels))


def open_teacher(config: TrainConfig, card: Card, url: str) -> Teacher | None:
    """Open the teacher at a URL; None where no finding is self-trained.

    ConfigError where the model takes other pixels than this training, or lacks a finding.
    """
    columns = tuple(
        number for number, finding in enumerate(card.findings) if config.loss.policy(finding) == "self-trained"
    )
    if not columns:
        return None
    model = open_model(url, "classify")
    if (model.card.preparation, model.card.crop) != (card.preparation, card.crop):
        raise ConfigError(
            f"{model.url}: the teacher takes {model.card.preparation} and crop {model.card.crop}, this training "
            f"{card.preparation} and crop {card.crop}; train it alike"
        )
    if unknown := {card.findings[column] for column in columns}.difference(model.card.findings):
        raise ConfigError(
            f"{model.url}: the teacher has no finding {', '.join(sorted(unknown))}; name another --loss.teacher"
        )
    return Teacher(weights.load(model), model.card, card.findings, columns)

"""The program `train`, but for what Ray does: what is learned from which studies, and the model folder at the end."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch

from cxrpipe import __version__, console, models, storage
from cxrpipe.cards import CARD, Card, Preparation, open_model
from cxrpipe.config import TrainConfig
from cxrpipe.errors import ConfigError
from cxrpipe.examples import Recipe
from cxrpipe.losses import Loss, dice_bce, masked_bce
from cxrpipe.records import Study
from cxrpipe.study_table import StudyTable

History = list[dict[str, Any]]
"""The epochs so far, as plain values."""
RECIPE = "voi"
_HIGHEST_POS_WEIGHT = 20.0


@dataclass(frozen=True)
class Plan:
    """A training, decided before any worker starts."""

    config: TrainConfig
    card: Card
    recipe: Recipe
    pos_weight: tuple[float, ...]
    """(F,) weight of a present finding against an absent one; empty for a segmenter."""

    def network(self) -> torch.nn.Module:
        """With its start weights: the same on every worker."""
        torch.manual_seed(self.config.seed)
        network = models.build_from_card(self.card)
        models.start_weights(network, self.card.architecture, self.config.weights)
        return network

    def loss(self) -> Loss:
        return masked_bce(torch.tensor(self.pos_weight)) if self.pos_weight else dice_bce


def already_trained(config: TrainConfig) -> bool:
    """Whether `out` holds the model of these settings; ConfigError where it holds another one."""
    out = storage.normalise(config.out)
    if storage.stat(storage.join(out, CARD)) is None:
        return False
    if open_model(out, config.task).card.facts.get("settings") == settings_of(config):
        return True
    raise ConfigError(f"{out}: holds a model trained with other settings; name another --out, or remove it")


def settings_of(config: TrainConfig) -> dict[str, Any]:
    """The settings as they stand in the card (JSON knows no tuples)."""
    return json.loads(json.dumps(asdict(config)))


def make_plan(config: TrainConfig, table: StudyTable) -> tuple[Plan, list[Study]]:
    """Decide what is learned, and the studies of the train and valid splits that it is learned from."""
    models.check_architecture(config.architecture, config.task)
    _no_patient_in_two_splits(table)
    studies = [study for study in table.studies() if study.split in ("train", "valid")]
    findings = _findings(config, table, studies) if config.task == "classify" else ()
    recipe = Recipe(Preparation(RECIPE, config.side_px), findings)
    studies = [study for study in studies if any(recipe.wants(study, number) for number in range(len(study.views)))]
    for split in ("train", "valid"):
        if not any(study.split == split for study in studies):
            wanted = "with a mask" if config.task == "segment" else "with a frontal view"
            raise ConfigError(f"{table.url}: no study {wanted} in the {split} split; training needs train and valid")
    imagenet = config.weights == "imagenet"
    card = Card(
        task=config.task,
        architecture=config.architecture,
        side_px=config.side_px,
        recipe=RECIPE,
        mean=models.IMAGENET_MEAN if imagenet else models.SCRATCH_MEAN,
        std=models.IMAGENET_STD if imagenet else models.SCRATCH_STD,
        findings=findings,
        views="frontal" if config.task == "classify" else "all",
        aggregation=dict.fromkeys(findings, "max"),
        thresholds=dict.fromkeys(findings, 0.5),
    )
    train = [study for study in studies if study.split == "train"]
    return Plan(config, card, recipe, tuple(_pos_weight(train, finding) for finding in findings)), studies


def _findings(config: TrainConfig, table: StudyTable, studies: Sequence[Study]) -> tuple[str, ...]:
    """Those asked for, or all that the train split shows present and absent; what is left out is said."""
    if unknown := set(config.findings).difference(table.findings):
        raise ConfigError(
            f"findings {', '.join(sorted(unknown))} are not labelled in {table.url}; "
            f"it has {', '.join(table.findings) or 'no labels'}"
        )
    train = [study for study in studies if study.split == "train"]
    learnable = [finding for finding in table.findings if {0.0, 1.0} <= {study.labels[finding] for study in train}]
    if not config.findings:
        if left_out := [finding for finding in table.findings if finding not in learnable]:
            console.log(f"train: left out, for want of examples of both kinds: {', '.join(left_out)}")
        if not learnable:
            raise ConfigError(f"{table.url}: no finding is both present and absent in the train split")
        return tuple(learnable)
    for finding in config.findings:
        if finding not in learnable:
            raise ConfigError(f"finding {finding}: not both present and absent in the train split of {table.url}")
    return config.findings


def _pos_weight(train: Sequence[Study], finding: str) -> float:
    """Absent over present, so that both weigh the same in all; bounded for rare findings."""
    counts = Counter(study.labels[finding] for study in train)
    return min(counts[0.0] / counts[1.0], _HIGHEST_POS_WEIGHT)


def _no_patient_in_two_splits(table: StudyTable) -> None:
    """ConfigError that names the patients: figures on such splits would flatter."""
    split_of: dict[str, str] = {}
    leaks = set()
    for batch in table.batches(["patient_id", "split"]):
        for patient, split in zip(batch["patient_id"].to_pylist(), batch["split"].to_pylist(), strict=True):
            if patient and split_of.setdefault(patient, split) != split:
                leaks.add(patient)
    if leaks:
        some = ", ".join(sorted(leaks)[:5])
        raise ConfigError(f"{table.url}: {len(leaks)} patients are in more than one split ({some}); split by patient")


def facts(plan: Plan, table: StudyTable, studies: Sequence[Study], history: History) -> dict[str, Any]:
    """What the card tells a person: where the model comes from, and how good it was on the valid split."""
    best = best_epoch(history)
    return {
        "settings": settings_of(plan.config),
        "archive": table.metadata["archive"],
        "layout": table.metadata["layout"],
        "split_seed": int(table.metadata["split_seed"]),
        "population": {split: _population([s for s in studies if s.split == split]) for split in ("train", "valid")},
        "best_epoch": best["epoch"],
        "valid": {key: best[key] for key in ("score", "valid_loss", "per_finding")},
        "history": list(history),
        "cxrpipe": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _population(studies: Sequence[Study]) -> dict[str, Any]:
    ages = [study.patient_age for study in studies if study.patient_age is not None]
    findings = studies[0].labels if studies else {}
    return {
        "studies": len(studies),
        "patients": len({study.patient_id for study in studies if study.patient_id}) or None,
        "age_quartiles": [round(float(age), 1) for age in np.percentile(ages, [25, 50, 75])] if ages else None,
        "sex": dict(Counter(study.patient_sex or "unknown" for study in studies)),
        "present": {finding: sum(study.labels[finding] == 1 for study in studies) for finding in findings},
    }


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON knows them: null for nan."""
    return {
        key: plain(value)
        if isinstance(value, dict)
        else None
        if isinstance(value, float) and np.isnan(value)
        else value
        for key, value in values.items()
    }


def describe(card: Card, epoch: Mapping[str, Any]) -> str:
    """An epoch in one line."""
    name = "Dice" if card.task == "segment" else "AUROC"
    score = "not defined" if epoch["score"] is None else f"{epoch['score']:.4f}"
    return f"loss {epoch['train_loss']:.4f}, valid loss {epoch['valid_loss']:.4f}, valid {name} {score}"


def best_epoch(history: History) -> Mapping[str, Any]:
    """The epoch with the best score; the lowest loss where no score has a meaning."""
    return max(history, key=rank)


def rank(epoch: Mapping[str, Any]) -> float:
    """Higher is better. Without a score (one class in the valid split) the loss decides, below any score."""
    score = epoch["score"]
    return -1e6 - epoch["valid_loss"] if score is None else score

"""The program `train`, but for what Ray does: what is learned from which studies, and the model folder at the end."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch

from cxrpipe import __version__, console, models, storage
from cxrpipe.cards import CARD, Card, Preparation
from cxrpipe.config import TrainConfig
from cxrpipe.errors import ConfigError
from cxrpipe.examples import Recipe, label_targets
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
    try:
        card = Card.from_json(storage.read(storage.join(out, CARD)), out)
    except FileNotFoundError:
        if storage.stat(out):
            raise ConfigError(f"{out}: a file; expected a folder to write the model into") from None
        return False
    if card.facts.get("settings") == settings_of(config):
        return True
    raise ConfigError(f"{out}: holds a model trained with other settings; name another --out, or remove it")


def settings_of(config: TrainConfig) -> dict[str, Any]:
    """The settings as they stand in the card (JSON knows no tuples)."""
    return json.loads(json.dumps(asdict(config)))


def make_plan(config: TrainConfig, table: StudyTable) -> tuple[Plan, list[Study]]:
    """Decide what is learned, and the studies of the train and valid splits that it is learned from."""
    models.check_architecture(config.architecture, config.task, config.side_px)
    _no_patient_in_two_splits(table)
    recipe = Recipe(Preparation(RECIPE, config.side_px), _asked(config, table))
    studies = _wanted(table.studies(), recipe, table.url)
    if recipe.findings:
        findings = _learnable(recipe.findings, studies, table.url, asked=bool(config.findings))
        recipe = replace(recipe, findings=findings)
        studies = _wanted(studies, recipe, table.url)
    card = Card(
        task=config.task,
        architecture=config.architecture,
        side_px=config.side_px,
        recipe=RECIPE,
        mean=models.IMAGENET_MEAN,
        std=models.IMAGENET_STD,
        findings=recipe.findings,
        views="frontal" if config.task == "classify" else "all",
        aggregation=dict.fromkeys(recipe.findings, "max"),
        thresholds=dict.fromkeys(recipe.findings, 0.5),
    )
    train = [study for study in studies if study.split == "train"]
    return Plan(config, card, recipe, tuple(_pos_weight(train, finding) for finding in recipe.findings)), studies


def _asked(config: TrainConfig, table: StudyTable) -> tuple[str, ...]:
    """The findings asked for, or all that are labelled; none to segment."""
    if config.task == "segment":
        return ()
    if unknown := set(config.findings).difference(table.findings):
        raise ConfigError(
            f"findings {', '.join(sorted(unknown))} are not labelled in {table.url}; "
            f"it has {', '.join(table.findings) or 'no labels'}"
        )
    if not table.findings:
        raise ConfigError(f"{table.url}: no labels; to classify, training needs findings that are present and absent")
    return config.findings or table.findings


def _wanted(studies: Iterable[Study], recipe: Recipe, where: str) -> list[Study]:
    """Those of the train and valid splits that give an example with something to learn; ConfigError without either."""
    wanted = [study for study in studies if study.split in ("train", "valid") and _teaches(study, recipe)]
    for split in ("train", "valid"):
        if not any(study.split == split for study in wanted):
            kind = "a frontal view and a label" if recipe.findings else "a frontal view and its mask"
            raise ConfigError(f"{where}: no study with {kind} in the {split} split; training needs train and valid")
    return wanted


def _teaches(study: Study, recipe: Recipe) -> bool:
    labelled = not recipe.findings or not np.isnan(label_targets(study, recipe.findings)).all()
    return labelled and any(recipe.wants(study, number) for number in range(len(study.views)))


def _learnable(findings: Sequence[str], studies: Sequence[Study], where: str, *, asked: bool) -> tuple[str, ...]:
    """Those that the train split shows present and absent. One asked for that is not is refused, others are said."""
    labels = [study.labels for study in studies if study.split == "train"]
    learnable = tuple(finding for finding in findings if {0.0, 1.0} <= {own[finding] for own in labels})
    left_out = ", ".join(finding for finding in findings if finding not in learnable)
    if left_out and (asked or not learnable):
        raise ConfigError(f"{where}: not both present and absent in the train split: {left_out}")
    if left_out:
        console.log(f"train: left out, for want of examples of both kinds: {left_out}")
    return learnable


def _pos_weight(train: Sequence[Study], finding: str) -> float:
    """Absent over present, so that both weigh the same in all; bounded where one of them is rare."""
    counts = Counter(study.labels[finding] for study in train)
    return float(np.clip(counts[0.0] / counts[1.0], 1 / _HIGHEST_POS_WEIGHT, _HIGHEST_POS_WEIGHT))


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
    """As JSON knows them: null for nan and infinity."""
    return {
        key: plain(value)
        if isinstance(value, dict)
        else None
        if isinstance(value, float) and not np.isfinite(value)
        else value
        for key, value in values.items()
    }


def describe(card: Card, epoch: Mapping[str, Any]) -> str:
    """An epoch in one line."""
    name = "Dice" if card.task == "segment" else "AUROC"
    numbers = {"loss": epoch["train_loss"], "valid loss": epoch["valid_loss"], f"valid {name}": epoch["score"]}
    said = ("not defined" if number is None else f"{number:.4f}" for number in numbers.values())
    return ", ".join(f"{what} {number}" for what, number in zip(numbers, said, strict=True))


def best_epoch(history: History) -> Mapping[str, Any]:
    """The epoch with the best score; the lowest loss where no score has a meaning."""
    return max(history, key=rank)


def rank(epoch: Mapping[str, Any]) -> float:
    """Higher is better, and always finite (Ray keeps it as JSON).

    Without a score (one class in the valid split) the loss decides, below any score; without a loss nothing is lower.
    """
    score, loss = epoch["score"], epoch["valid_loss"]
    return score if score is not None else -1e6 - min(1e6 if loss is None else loss, 1e6)

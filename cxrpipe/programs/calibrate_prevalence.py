"""`calibrate --prevalence` without scores: the calibration of model cards, moved to another prevalence."""

from collections.abc import Sequence
from dataclasses import replace

from rich import box
from rich.table import Table

from cxrpipe import __version__, console
from cxrpipe.config import CalibrateConfig
from cxrpipe.errors import ConfigError, ExitStatus
from cxrpipe.evaluation.calibration import UNCHANGED, Line
from cxrpipe.evaluation.prevalence import PriorShift
from cxrpipe.models.card import Card
from cxrpipe.models.folder import ModelFolder, save_model
from cxrpipe.report.words import spoken


def refuse_unknown_prevalences(models: Sequence[ModelFolder], config: CalibrateConfig) -> None:
    """ConfigError where --prevalence names a finding that no model knows."""
    known = {finding for model in models for finding in model.card.findings}
    named = {pair.rpartition("=")[0] for pair in config.prevalence} - {""}
    if unknown := sorted(named - known):
        raise ConfigError(f"--prevalence of {', '.join(unknown)}; the models know {', '.join(sorted(known))}")


def move(config: CalibrateConfig, models: Sequence[ModelFolder], homes: Sequence[str]) -> ExitStatus:
    """Move calibration and thresholds from the prevalence that the cards name, without any study.

    homes  the new folder of every model
    """
    cards = [_moved(model, config) for model in models]  # refuses before anything is written
    for model, card, home in zip(models, cards, homes, strict=True):
        save_model(home, card, model.read_weights(), card.facts)
        console.out().print(_table(home, model.card, card))
    console.out().print(
        f"Models: {','.join(homes)}\nScoring with them derives rows from stored ones; no image is opened."
    )
    return ExitStatus.DONE


def _moved(model: ModelFolder, config: CalibrateConfig) -> Card:
    """The card under another prevalence; ConfigError where it does not name the one that it assumes."""
    card = model.card
    known: dict[str, float] = card.facts.get("prevalence", {})
    thresholds, lines, prevalence = dict(card.thresholds), dict(card.calibration), dict(known)
    unknown: list[str] = []
    for finding in card.findings:
        assumed = config.assumed(finding)
        if assumed is None:
            continue
        if finding not in known:
            unknown.append(finding)
            continue
        shift = PriorShift(known[finding], assumed)
        line = shift.line(Line(*lines.get(finding, UNCHANGED)))
        lines[finding] = line.slope, line.intercept
        thresholds[finding] = shift.threshold(thresholds.get(finding, 0.5), _rule_of(card))
        prevalence[finding] = assumed
    if unknown and (prevalence == known or not config.for_all_findings):
        raise ConfigError(
            f"{model.url}: its card names no prevalence of {', '.join(unknown)} to move from; "
            "fit with --scores and --studies"
        )
    if unknown:
        console.log(f"{model.url}: its card names no prevalence of {', '.join(unknown)}, which stay as they are")
    moved = {"model": model.url, "from": known, "cxrpipe": __version__}
    return replace(
        card,
        thresholds=thresholds,
        calibration=lines,
        facts=card.facts | {"prevalence": prevalence, "moved": moved},
    )


def _rule_of(card: Card) -> str:
    """The rule that chose the thresholds of the card; empty where the card does not say."""
    calibrated, fitted = card.facts.get("calibrated", {}), card.facts.get("fitted", {})
    return str(calibrated.get("rule") or fitted.get("threshold") or "")


def _table(home: str, before: Card, after: Card) -> Table:
    table = Table(title=home, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("finding", "prevalence", "now", "intercept", "now", "threshold", "now"):
        table.add_column(name, justify="left" if name == "finding" else "right")
    for place, finding in enumerate(before.findings):
        if finding not in before.facts["prevalence"]:
            continue
        columns = [
            (card.facts["prevalence"][finding], card.platt[1][place], card.thresholds.get(finding, 0.5))
            for card in (before, after)
        ]
        table.add_row(spoken(finding), *(f"{number:.3f}" for pair in zip(*columns, strict=True) for number in pair))
    return table

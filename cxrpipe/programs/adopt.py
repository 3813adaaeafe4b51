"""The program `adopt`: takes in a model of others and writes a model folder, or only prints its card."""

from dataclasses import replace

from cxrpipe import console
from cxrpipe.config import AdoptConfig
from cxrpipe.errors import ExitStatus
from cxrpipe.models.adopt import sources
from cxrpipe.models.adopt.adopted import Adopted
from cxrpipe.models.folder import refuse_taken, save_model


def run(config: AdoptConfig) -> ExitStatus:
    if config.out and not config.dry_run:
        refuse_taken(config.out)
    adopted = sources.adopt(config)
    for line in _remarks(adopted):
        console.log(line)
    if config.dry_run:
        card = replace(adopted.card, facts=adopted.facts)
        console.out().print(card.to_json().decode(), end="", markup=False, highlight=False, soft_wrap=True)
        return ExitStatus.DONE
    assert config.out
    folder = save_model(config.out, adopted.card, adopted.weights, adopted.facts)
    console.out().print(_summary(folder.url, adopted), markup=False, soft_wrap=True)
    return ExitStatus.DONE


def _remarks(adopted: Adopted) -> list[str]:
    """What a person should check before the model scores an archive."""
    assumed = [f"assumed: {sentence}" for sentence in adopted.assumed]
    licence = [adopted.facts["licence_note"]] if "licence_note" in adopted.facts else []
    return [*assumed, *(f"mind: {warning}" for warning in (*adopted.facts["warnings"], *licence))]


def _summary(url: str, adopted: Adopted) -> str:
    card, facts = adopted.card, adopted.facts
    gives = {
        "classify": f"{len(card.findings)} findings: {', '.join(card.findings)}",
        "segment": f"{len(card.structures) or 1} structures: {', '.join(card.structures) or 'lungs'}",
        "embed": "feature vectors, no findings",
    }
    return "\n".join(
        [
            f"Model: {url}",
            f"  {card.architecture}, {gives[card.task]}",
            f"  licence {facts['licence'] or 'unknown'}; cite {facts['citation'] or 'unknown'}",
        ]
    )

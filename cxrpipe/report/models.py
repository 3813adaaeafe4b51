"""What people are told of the models of an ensemble: which member knows which finding, licences and citations."""

from collections.abc import Sequence

from cxrpipe import console
from cxrpipe.evaluation.join import names_of
from cxrpipe.records import ModelReport
from cxrpipe.report.words import spoken


def log_models(models: Sequence[ModelReport]) -> None:
    """Log who knows what, where the members differ; then the origin of every model that has one."""
    groups = knowers(models)
    if len(groups) > 1:
        console.log("the members know different findings; each finding is decided by those that know it")
        for names, findings in groups:
            console.log(f"  {', '.join(names)}: {', '.join(map(spoken, findings))}")
    for name, model in zip(names_of(models), models, strict=True):
        if facts := origin(model):
            console.log(f"{name}: {facts}")


def knowers(models: Sequence[ModelReport]) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Pairs of members and findings: the names of the members that know these findings and share them with nobody else.

    One pair where all members know the same; none where a report of an early version does not tell.
    """
    members = [model for model in models if model.task == "classify"]
    if any(member.findings is None for member in members):
        return []
    names = names_of(members)
    findings_of: dict[tuple[str, ...], list[str]] = {}
    for finding in dict.fromkeys(finding for member in members for finding in member.findings or ()):
        who = tuple(name for name, member in zip(names, members, strict=True) if member.knows(finding))
        findings_of.setdefault(who, []).append(finding)
    return [(who, tuple(findings)) for who, findings in findings_of.items()]


def origin(model: ModelReport) -> str:
    """`from xrv:…; licence MIT; cite …`; empty where nothing is known. Of an adopted model it says what is unknown."""
    known = [f"from {model.source}"] if model.source else []
    if model.source or model.licence:
        known.append(f"licence {model.licence or 'unknown'}")
    if model.source or model.citation:
        known.append(f"cite {model.citation}" if model.citation else "citation unknown")
    return "; ".join(known)

"""Names of others' outputs → findings as study tables spell them."""

import re
from collections.abc import Sequence

from cxrpipe.errors import ConfigError

NO_FINDING = {"", "no_finding", "normal", "healthy", "negative", "none", "background", "other", "others"}
"""Outputs that name no finding, in lower case. An adopted model drops them."""

_SPELLINGS = {
    "Effusion": "Pleural_Effusion",
    "Opacity": "Lung_Opacity",
    "Lung_Opacities": "Lung_Opacity",
    "Airspace_Opacity": "Lung_Opacity",
    "Lesion": "Lung_Lesion",
    "Pleural_Thicken": "Pleural_Thickening",
    "Infiltrate": "Infiltration",
    "Infiltrates": "Infiltration",
    "Enlarged_Cardiomediastinal_Silhouette": "Enlarged_Cardiomediastinum",
    "Oedema": "Edema",
    "Pulmonary_Edema": "Edema",
    "Tuberculosis": "Tuberculosis",
    "Tb": "Tuberculosis",
    "Covid": "COVID_19",
    "Covid_19": "COVID_19",
    "Covid19": "COVID_19",
}
"""Words of others, each part capitalised → the finding."""
_WRITTEN = {key.lower(): value for key, value in _SPELLINGS.items()}


def spelled(output: str) -> str:
    """The finding that an output names, `_` for spaces and each word capitalised; empty where it names none.

    `Effusion` → `Pleural_Effusion`, `Lung Opacity` → `Lung_Opacity`, `NORMAL` → ``.
    """
    name = re.sub(r"\W+", "_", output.strip()).strip("_")
    if name.lower() in NO_FINDING:
        return ""
    words = (word.title() if word.islower() or (word.isupper() and len(word) > 3) else word for word in name.split("_"))
    return _WRITTEN.get(name.lower(), "_".join(words))


def named_outputs(
    source: str, outputs: Sequence[str], wishes: Sequence[str], count: int | None = None
) -> tuple[str, ...]:
    """The outputs of a network in their order, each a finding, or empty where it is dropped.

    source   begins the message of an error
    outputs  the names that the source gives; () where it gives none
    wishes   `--findings`: a name for each output, or OUTPUT=FINDING for some of the source's names
    count    outputs of the network, where known
    """
    renamed = dict(wish.split("=", 1) for wish in wishes if "=" in wish)
    if renamed and len(renamed) < len(wishes):
        raise ConfigError(
            "--findings: some with = and some without; expected a name for every output, or OUTPUT=FINDING"
        )
    if renamed:
        if unknown := [name for name in renamed if name not in outputs]:
            raise ConfigError(f"--findings: {source} has no output {', '.join(unknown)}; it has {_list(outputs)}")
        names = [renamed.get(output, spelled(output)) for output in outputs]
    else:
        names = [wish.strip() for wish in wishes] or list(map(spelled, outputs))
    if not names:
        raise ConfigError(f"{source}: nobody says what its outputs mean; name --findings A,B in their order")
    if count is not None and len(names) != count:
        raise ConfigError(
            f"{source}: {len(names)} findings for {count} outputs; expected one for each, empty ones dropped"
        )
    findings = [name for name in names if name]
    for finding in findings:
        if not re.fullmatch(r"\w+", finding):
            raise ConfigError(f"--findings {finding!r}: expected letters, digits and _, such as {spelled(finding)}")
    if twice := sorted({name for name in findings if findings.count(name) > 1}):
        of_source = [f"{output} → {name}" for output, name in zip(outputs, names, strict=False) if name in twice]
        raise ConfigError(
            f"{source}: two outputs named {', '.join(twice)}{' (' + ', '.join(of_source) + ')' if of_source else ''}; "
            "name one of them otherwise with --findings OUTPUT=FINDING, or drop it with --findings OUTPUT="
        )
    if not findings:
        raise ConfigError(f"{source}: none of its outputs names a finding ({_list(outputs)}); name --findings A,B")
    return tuple(names)


def _list(outputs: Sequence[str]) -> str:
    return ", ".join(output or "''" for output in outputs)

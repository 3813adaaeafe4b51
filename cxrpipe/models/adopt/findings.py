"""Names of others' outputs → findings as study tables spell them."""

import re
from collections import Counter
from collections.abc import Sequence

from cxrpipe.errors import ConfigError
from cxrpipe.models.spelling import of_output


def named_outputs(source: str, outputs: Sequence[str], wishes: Sequence[str], count: int) -> tuple[str, ...]:
    """The outputs of a network in their order, each a finding, or empty where it is dropped.

    source   begins the message of an error
    outputs  the names that the source gives; () or empty ones where it gives none
    wishes   `--findings`: a name for each output, or OUTPUT=FINDING for some of the source's names
    count    outputs of the network
    """
    if any("=" in wish for wish in wishes):
        names = _renamed(source, outputs, wishes)
    else:
        names = [wish.strip() for wish in wishes] or [of_output(output) for output in outputs]
    if not wishes and not any(outputs):
        raise ConfigError(f"{source}: nobody says what its {count} outputs mean; name --findings A,B in their order")
    if len(names) != count:
        raise ConfigError(
            f"{source}: {len(names)} findings for {count} outputs; expected one for each, empty to drop it"
        )
    findings = [name for name in names if name]
    if not findings:
        raise ConfigError(f"{source}: none of its outputs names a finding ({_list(outputs)}); name --findings A,B")
    for finding in findings:
        if not re.fullmatch(r"\w+", finding):
            raise ConfigError(f"--findings {finding!r}: expected letters, digits and _, such as {of_output(finding)}")
    if twice := [name for name, times in Counter(findings).items() if times > 1]:
        raise ConfigError(
            f"{source}: two outputs named {', '.join(twice)}; rename one with --findings OUTPUT=FINDING, or drop one "
            "with --findings OUTPUT="
        )
    return tuple(names)


def rows_to_keep(names: Sequence[str], output: str) -> list[int]:
    """The rows of a head to keep: all under a softmax, which needs every output, otherwise those that name findings."""
    return [row for row, name in enumerate(names) if name or output == "softmax"]


def _renamed(source: str, outputs: Sequence[str], wishes: Sequence[str]) -> list[str]:
    """The names of the source, spelled as findings, some of them replaced by those that the user wishes."""
    wished = {output: finding for output, equals, finding in (wish.partition("=") for wish in wishes) if equals}
    if len(wished) < len(wishes):
        raise ConfigError(
            "--findings: some with = and some without; expected a name for each output, or OUTPUT=FINDING"
        )
    if unknown := [output for output in wished if output not in outputs]:
        raise ConfigError(f"--findings: {source} has no output {', '.join(unknown)}; it has {_list(outputs)}")
    return [wished.get(output, of_output(output)) for output in outputs]


def _list(outputs: Sequence[str]) -> str:
    return ", ".join(output or "''" for output in outputs)

"""The page that `--help` prints: an example, the settings that everybody needs, then the others in sections."""

import re
import shutil
import textwrap
from collections.abc import Iterator

from cxrpipe.config import outline
from cxrpipe.config.outline import Setting

EVERY_PROGRAM = (
    ("--config FILE.toml", "Read settings from a TOML file. Flags overrule the file."),
    ("--print-config", "Print the resolved settings as TOML, and exit."),
    ("-h, --help", "Print this page, and exit."),
)
"""The flags that every program has besides its settings."""

_MEANINGS_FROM = 30
_WIDEST = 110
_NO_BREAK = "\N{NO-BREAK SPACE}"


def page(program: type) -> str:
    width = min(shutil.get_terminal_size().columns, _WIDEST)
    description = outline.describe(program)
    first, *rest = _wrapped(description.example, width)
    lines = ["example:", f"  {first}", *(f"    {line}" for line in rest), ""]
    lines += textwrap.wrap(description.sentence, width)
    lines += ["", *textwrap.wrap(description.more, width)] if description.more else []
    for section in outline.sections(program):
        lines += ["", f"{section.title}:"]
        lines += textwrap.wrap(section.about, width, initial_indent="  ", subsequent_indent="  ")
        for setting in section.settings:
            lines += _entry(invocation(setting), explained(setting), width)
    lines += ["", "in every program:"]
    for flag, meaning in EVERY_PROGRAM:
        lines += _entry(flag, meaning, width)
    return "\n".join(lines).replace(_NO_BREAK, " ")


def invocation(setting: Setting) -> str:
    """`--limit N`, `--explain`, `FILE...`."""
    return setting.bare_words or f"{setting.flag} {setting.value}".strip()


def explained(setting: Setting) -> str:
    """The meaning of a setting and its default."""
    default = f"[{setting.default}]".replace(" ", _NO_BREAK)
    return f"{setting.meaning} {default}" if setting.default else setting.meaning


def _entry(left: str, right: str, width: int) -> Iterator[str]:
    """Two columns; what is long on the left has a line to itself."""
    lines = textwrap.wrap(right, max(width - _MEANINGS_FROM, 30), break_on_hyphens=False)
    if len(left) + 4 > _MEANINGS_FROM:
        yield f"  {left}"
    else:
        yield f"  {left}".ljust(_MEANINGS_FROM) + lines.pop(0)
    yield from (" " * _MEANINGS_FROM + line for line in lines)


def _wrapped(command: str, width: int) -> list[str]:
    """A command on as many lines as it needs, broken before flags; a shell reads the lines as one command."""
    unbroken = re.sub(r"(--\S+) (?!-)", rf"\1{_NO_BREAK}", command)
    lines = textwrap.wrap(unbroken, width - 6, break_on_hyphens=False, break_long_words=False)
    return [*(line + " \\" for line in lines[:-1]), lines[-1]]

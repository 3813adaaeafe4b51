"""Prints docs/settings.md, every setting of every program: python docs/settings.py > docs/settings.md

It says what `--help` says: both are made from the settings classes in cxrpipe/config/.
"""

from collections.abc import Iterator

from cxrpipe.cli import PROGRAMS
from cxrpipe.config import help_page, outline
from cxrpipe.config.outline import Setting

INTRODUCTION = """# Settings

Every setting of every program, as `cxrpipe NAME --help` shows them. This page is printed by `python docs/settings.py`;
edit the settings classes in `cxrpipe/config/` instead.

How to write a value:

| value | means |
|---|---|
| `N`, `X` | a whole number; a number |
| `PIXELS`, `SECONDS`, `DEGREES` | a number of this unit |
| `FRACTION` | a number between 0 and 1 |
| `URL` | `s3://bucket/key`, `file:///path` or a plain path |
| `PATH` | a path on this machine |
| `A,B`, `N,N`, `X,X` | a list, with commas between |
| `auto\\|any` | one of these words |
| nothing | a switch: `--explain` turns it on, `--no-explain` off |

`-` and `_` are the same in flags. In a TOML file, `--max-failed-fraction 0.2` is `max_failed_fraction = 0.2`, and
`--resources.threads 2` is `threads = 2` in the table `[resources]`. Every program takes these flags too:

| flag | does |
|---|---|
"""


def page() -> str:
    general = "".join(f"| `{flag}` | {meaning} |\n" for flag, meaning in help_page.EVERY_PROGRAM)
    return INTRODUCTION + general + "".join(line + "\n" for name in PROGRAMS for line in _program(name))


def _program(name: str) -> Iterator[str]:
    settings = PROGRAMS[name].settings
    description = outline.describe(settings)
    yield from ("", f"## {name}", "", f"{description.sentence} {description.more}".strip())
    yield from ("", "```sh", description.example, "```")
    for section in outline.sections(settings):
        yield from ("", f"**{section.title}**{': ' + section.about if section.about else ''}")
        yield from ("", "| setting | default | meaning |", "|---|---|---|")
        yield from map(_row, section.settings)


def _row(setting: Setting) -> str:
    cells = (f"`{help_page.invocation(setting)}`", setting.default.removeprefix("default: "), setting.meaning)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


if __name__ == "__main__":
    print(page(), end="")

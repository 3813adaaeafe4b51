"""The commands of a page of the documentation."""

import re

from processes import ROOT


def blocks(page: str, heading: str = "", language: str = "sh") -> list[str]:
    """The fenced blocks of docs/PAGE in this language; with a heading, only those of the section `## heading`."""
    text = (ROOT / "docs" / page).read_text()
    if heading:
        (text,) = re.findall(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(page: str, heading: str = "", language: str = "sh") -> list[str]:
    """The lines of these blocks."""
    return [line for block in blocks(page, heading, language) for line in block.splitlines()]

"""The words of `reason` and `flags` say the same in the program and on the page of the documentation."""

import re

from processes import ROOT

from cxrpipe.records import FLAGS, REASONS


def table(heading: str) -> list[list[str]]:
    """The rows of the table below a heading of docs/files.md, without its two lines of heading."""
    text = (ROOT / "docs/files.md").read_text()
    (section,) = re.findall(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    lines = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    return [[cell.replace("`", "") for cell in line] for line in lines]


def test_the_page_lists_every_reason_with_what_to_do():
    listed = {word: (status, what_to_do) for word, status, _, what_to_do in table("Not scored by `score`")}
    assert listed == {word: (reason.status, reason.what_to_do) for word, reason in REASONS.items()}


def test_the_page_lists_every_flag_with_its_meaning_and_what_to_do():
    assert {word: tuple(rest) for word, *rest in table("Flags")} == FLAGS

"""Links of the pages lead somewhere, and so do the anchors that comments cite."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import ROOT

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
CODE = [*sorted((ROOT / "cxrpipe").rglob("*.py")), *sorted((ROOT / "benchmarks").rglob("*.py"))]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """The file and the anchor of every link of a page that is no URL."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" not in target:
            name, _, anchor = target.partition("#")
            yield (page.parent / name if name else page).resolve(), anchor


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    for file, anchor in links(page):
        assert file.exists(), file
        assert not anchor or anchor in anchors(file), f"{file.name}#{anchor}"


def test_no_two_decisions_share_an_anchor() -> None:
    page = ROOT / "docs" / "decisions.md"
    assert len(re.findall(r"^#+ ", page.read_text(), re.MULTILINE)) == len(anchors(page))


def test_the_anchors_that_comments_cite_are_there() -> None:
    for file in CODE:
        for name, anchor in re.findall(r"(docs/\w[\w-]*\.md)#([\w-]+)", file.read_text()):
            assert anchor in anchors(ROOT / name), f"{file.name}: {name}#{anchor}"

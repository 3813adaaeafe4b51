"""The reading room in a real browser, from the printed address to `evaluate --labels reviews`."""

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from browsers import chromium
from builders import nih_table, segmenter, small_classifier
from playwright.sync_api import Browser, Page, expect
from reading_room import reviewing

from cxrpipe.config import EvaluateConfig, ScoreConfig
from cxrpipe.programs import evaluate
from cxrpipe.programs.score import score_archive
from cxrpipe.runs.engine import loop

pytestmark = pytest.mark.slow
STUDIES = 24
PATIENCE_MS = 120_000  # of a busy machine


class Night(NamedTuple):
    root: str
    table: str


@pytest.fixture(scope="module")
def night(tmp_path_factory, scored_here) -> Night:
    """A small archive, scored with masks and heat maps."""
    folder = tmp_path_factory.mktemp("night")
    table = nih_table(folder, studies=STUDIES)
    models = tuple(small_classifier(folder / name, seed=seed).url for seed, name in enumerate("ab"))
    root = str(folder / "scores")
    config = ScoreConfig(
        studies=table.url, models=models, segmenter=segmenter(folder / "lungs").url, out=root, explain=True
    )
    assert score_archive(config, loop) == 0
    return Night(root, table.url)


@pytest.fixture(scope="module")
def address(night: Night) -> Iterator[str]:
    """What `cxrpipe review` prints."""
    with reviewing(night.root, "--studies", night.table, "--port", "0") as (address, _):
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=PATIENCE_MS)
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """A page that is in. Nothing may come from outside, and no script may complain."""
    with browser.new_context() as context:
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        origin = address.partition("/?")[0]
        requested, complaints = [], []
        page.on(
            "request", lambda request: requested.append(request.url) if not request.url.startswith(origin) else None
        )
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda line: complaints.append(line.text) if "Content Security" in line.text else None)
        page.goto(address)
        yield page
        assert [url for url in requested if not url.startswith(origin)] == []
        assert [words for words in complaints if "Failed to load resource" not in words] == []


def test_the_token_leaves_the_address(page, address):
    assert page.url == address.partition("?")[0]
    assert page.evaluate("document.cookie") == ""
    expect(page.get_by_role("heading", level=1)).to_contain_text(f"{STUDIES} studies")


def test_a_link_from_another_page_leads_in(page):
    """A report on disk links to a study; the browser holds back its strict cookie at first."""
    studies = page.url + "studies"
    page.set_content(f'<a href="{studies}">go</a>')
    page.goto("about:blank")
    page.set_content(f'<a href="{studies}">go</a>')
    page.click("a")
    page.wait_for_url(studies)
    expect(page.get_by_role("heading", level=1)).to_have_text(f"{STUDIES} studies")


def test_a_choice_before_the_script_runs_opens_the_list_as_well(page):
    held = []
    page.route("**/studies.js*", lambda route: route.continue_() if held else held.append(route))
    page.goto(page.url + "studies", wait_until="commit")
    page.get_by_label("Finding").select_option("Pneumonia")
    assert "finding" not in page.url
    held[0].continue_()
    page.wait_for_url("**/studies?finding=Pneumonia")


def test_a_reader_filters_and_shares_the_address(page):
    page.get_by_role("link", name="Studies", exact=True).click()
    page.get_by_label("Finding").select_option("Pneumonia")
    page.wait_for_url("**/studies?finding=Pneumonia")
    page.get_by_label("Label").select_option("1")
    page.wait_for_url("**/studies?finding=Pneumonia&label=1")
    count = int(page.get_by_role("heading", level=1).inner_text().split()[0])
    assert 0 < count < STUDIES
    expect(page.locator("tr[data-open]")).to_have_count(count)
    shared = page.url
    page.goto(shared)
    expect(page.get_by_role("heading", level=1)).to_contain_text(str(count))
    expect(page.get_by_label("Label")).to_have_value("1")


def test_thumbnails_are_films(page):
    page.goto(page.url + "studies")
    image = page.locator("td.film img").first
    expect(image).to_be_visible()
    page.wait_for_function("image => image.naturalWidth > 0", arg=image.element_handle())


def test_the_keyboard_moves_through_the_list_and_back(page):
    page.goto(page.url + "studies?sort=study_id&descending=0")
    names = page.locator("a.study").all_inner_texts()
    for key in "jjjk":
        page.keyboard.press(key)
    expect(page.locator("tr[aria-current] a.study")).to_have_text(names[2])
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/study/{names[2]}?sort=study_id&descending=0")
    page.go_back()
    expect(page.locator("tr[aria-current] a.study")).to_have_text(names[2])
    page.keyboard.press("/")
    page.keyboard.type("jk")  # words, while somebody writes
    expect(page.get_by_label("Study or patient")).to_have_value("jk")
    expect(page.locator("tr[aria-current] a.study")).to_have_text(names[2])


def test_a_verdict_reaches_evaluate(page, night, tmp_path):
    page.get_by_label("Reader").fill("Ada Lovelace")
    page.goto(page.url + "studies?finding=Pneumonia&sort=study_id&descending=0")
    names = page.locator("a.study").all_inner_texts()[:2]
    page.locator("a.study").first.click()
    toggle_overlays(page)
    for name, verdict in zip(names, ("agree", "wrong"), strict=True):
        page.wait_for_url(f"**/study/{name}?**")
        row = page.locator('tr[data-finding="Pneumonia"]').first
        with page.expect_response("**/verdicts") as answered:
            row.get_by_role("button", name=verdict).click()
        assert answered.value.ok
        expect(page.locator("#verdicts")).to_contain_text("Ada Lovelace")
        page.locator("a#next").click()
    page.goto(page.url.partition("/study")[0] + "/studies?finding=Pneumonia&sort=study_id&descending=0")
    expect(page.locator("td[data-name=readers]").nth(0)).to_contain_text(re.compile("present|absent"))
    expect(page.get_by_label("Reader")).to_have_value("Ada Lovelace")

    out = tmp_path / "figures"
    labels_of = EvaluateConfig(
        scores=night.root, studies=night.table, out=str(out), labels="reviews", split="all", resamples=20, pictures=0
    )
    assert evaluate.run(labels_of) == 0
    figures = json.loads((out / "metrics.json").read_text())
    pneumonia = figures["findings"]["Pneumonia"]
    assert pneumonia["studies"] == 2
    assert pneumonia["positives"] in (0, 1, 2)
    assert "had seen" in (out / "report.html").read_text()


def toggle_overlays(page: Page) -> None:
    lungs = page.locator('.layer[data-kind="lungs"]').first
    heat = page.locator('.layer[data-kind="heat"][data-finding="Pneumonia"]').first
    page.locator('tr[data-finding="Pneumonia"] button.pick').click()
    for name, layer in (("Lungs", lungs), ("Heat map", heat)):
        box = page.get_by_label(name)
        box.check()
        expect(layer).to_be_visible()
        page.wait_for_function("layer => layer.naturalWidth > 0", arg=layer.element_handle())
        box.uncheck()
        expect(layer).to_be_hidden()


def test_what_a_reader_says_while_the_server_is_away_is_sent_later(page):
    page.get_by_label("Reader").fill("Grace Hopper")
    page.route("**/verdicts", lambda route: route.abort())
    page.goto(page.url + "studies")
    page.locator("a.study").first.click()
    page.locator("tr[data-finding]").first.get_by_role("button", name="agree").click()
    expect(page.locator("#sending")).to_contain_text("Not sent yet")
    page.unroute("**/verdicts")
    with page.expect_response("**/verdicts") as answered:
        page.reload()
    assert answered.value.ok
    expect(page.locator("#sending")).to_be_empty()
    page.reload()
    expect(page.locator("#verdicts")).to_contain_text("Grace Hopper")


@pytest.mark.parametrize(("scheme", "width"), [("dark", 390), ("light", 1400)])
def test_no_page_is_wider_than_the_window(browser, address, scheme, width):
    with browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900}) as context:
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        page.goto(address)
        dark = "rgb(25, 28, 33)" if scheme == "dark" else "rgb(255, 255, 255)"
        for path in ("", "studies", "disagreement", "failures", "nothing"):
            page.goto(address.partition("?")[0] + path)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate("getComputedStyle(document.body).backgroundColor") == dark

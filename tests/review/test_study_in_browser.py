"""The page of one study in a real browser: layers, zoom, window, and a verdict that is kept."""

import io
from collections.abc import Iterator

import numpy as np
import pytest
from browsers import chromium
from PIL import Image
from playwright.sync_api import Page, expect
from scored_films import Archive, served_room

from cxrpipe.records import complete_runs
from cxrpipe.runs.reviews import Reviews

pytestmark = pytest.mark.slow
PATIENCE_MS = 60_000


@pytest.fixture(scope="module")
def browser():
    expect.set_options(timeout=PATIENCE_MS)
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def address(archive) -> Iterator[str]:
    with served_room(archive.root, archive.table) as address:
        yield address


@pytest.fixture
def page(browser, address) -> Iterator[Page]:
    """The page of a study with two views. At the end the browser must have nothing to complain of."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    context.set_default_timeout(PATIENCE_MS)
    page, problems = context.new_page(), []
    page.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(address.replace("/?token", "/study/p1%2Fa?token"))
    yield page
    context.close()
    assert problems == []


def layer(page: Page, kind: str, view: int = 0):
    return page.locator(".stage").nth(view).locator(f'.layer[data-kind="{kind}"]')


def brightness(page: Page) -> float:
    """Mean of what the first film shows, 0..255."""
    return float(np.asarray(Image.open(io.BytesIO(page.locator(".stage").first.screenshot())).convert("L")).mean())


def test_lungs_and_the_heat_map_of_the_chosen_finding_are_switched_by_keys(page, archive):
    row = complete_runs(archive.root.url).find("p1/a")[0]
    with_heat = [each["finding"] for each in row["heatmaps"][0]]
    expect(layer(page, "lungs")).to_be_visible()
    page.keyboard.press("l")
    expect(layer(page, "lungs")).to_be_hidden()
    assert layer(page, "heat").evaluate_all("every => every.filter(one => one.hidden).length") == len(with_heat)
    page.keyboard.press("h")
    for finding in with_heat:
        page.locator(f'tr[data-finding="{finding}"] .pick').click()
        shown = layer(page, "heat").evaluate_all(
            "every => every.filter(one => !one.hidden).map(one => one.dataset.finding)"
        )
        assert shown == [finding]
    page.locator("#opacity").fill("20")
    assert layer(page, "heat").first.evaluate("one => one.style.opacity") == "0.2"


def test_a_layer_covers_the_film_and_nothing_else(page):
    """Of both views, whose proportions differ: the boxes are one, and so are the proportions of what is in them."""
    for view in (0, 1):
        boxes = (
            page.locator(".stage")
            .nth(view)
            .locator("img:not([hidden])")
            .evaluate_all(
                "every => Promise.all(every.map(one => one.decode().then(() => {"
                " const box = one.getBoundingClientRect();"
                " return [box.left, box.top, box.width, box.height, one.naturalWidth / one.naturalHeight]; })))"
            )
        )
        film, lungs = np.array(boxes)
        np.testing.assert_allclose(lungs, film, rtol=0.002)


def test_the_wheel_zooms_the_mouse_moves_and_a_double_click_resets(page):
    stage = page.locator(".stage").first
    box, film = stage.bounding_box(), stage.locator(".grey")
    before = film.bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.wheel(0, -400)
    expect(stage).to_have_class("stage zoomed")
    zoomed = film.bounding_box()
    assert zoomed["width"] == pytest.approx(2 * before["width"], rel=0.01)
    assert zoomed["x"] == pytest.approx(box["x"] - 100, abs=1)  # the place below the mouse stays
    page.mouse.down()
    page.mouse.move(box["x"] + 60, box["y"] + 70)
    page.mouse.up()
    assert film.bounding_box()["x"] == pytest.approx(zoomed["x"] - 40, abs=1)
    page.mouse.dblclick(box["x"] + 50, box["y"] + 50)
    assert film.bounding_box() == before


def test_the_window_changes_the_grey_values(page):
    page.keyboard.press("l")
    plain = brightness(page)
    page.keyboard.press("i")
    assert brightness(page) > plain  # more bars than film are black, and they stay
    page.keyboard.press("0")
    box = page.locator(".stage").first.bounding_box()
    page.mouse.move(box["x"] + 200, box["y"] + 200)
    page.mouse.down(button="right")
    page.mouse.move(box["x"] + 200, box["y"] + 50)
    page.mouse.up(button="right")
    assert brightness(page) > plain + 20
    page.keyboard.press("0")
    assert brightness(page) == pytest.approx(plain, abs=1)


def test_a_verdict_by_key_needs_a_name_is_kept_and_stands_there_afterwards(page, archive: Archive):
    row = complete_runs(archive.root.url).find("p1/a")[0]
    page.keyboard.press("w")
    expect(page.locator("#saved")).to_contain_text("Write your name first")
    page.keyboard.type("B. Reader")
    page.locator("#note").fill("a <b>rib</b>")
    page.locator("#note").blur()
    page.keyboard.press("j")
    finding = page.locator("tr.chosen").get_attribute("data-finding")
    page.keyboard.press("w")
    expect(page.locator("#saved")).to_contain_text(f"Saved: wrong on {finding}")
    (verdict,) = [said for said in Reviews(archive.root).read().to_pylist() if said["reader"] == "B. Reader"]
    assert (verdict["study_id"], verdict["finding"], verdict["note"]) == ("p1/a", finding, "a <b>rib</b>")
    assert verdict["label"] == int(not row[f"consensus_{finding}"])
    page.reload()
    expect(page.locator(f'tr[data-finding="{finding}"] [data-verdict="wrong"]')).to_have_attribute(
        "aria-pressed", "true"
    )
    expect(page.locator("#verdicts")).to_contain_text("a <b>rib</b>")


def test_keys_lead_to_the_next_study_but_not_while_somebody_writes(page):
    page.locator("#note").press("n")
    expect(page.locator("#note")).to_have_value("n")
    page.locator("#note").blur()
    following = page.locator("#next").get_attribute("href")
    page.keyboard.press("n")
    page.wait_for_url(f"**{following}")


def test_a_narrow_page_scrolls_in_one_direction_only(page):
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_the_nearest_studies_are_found_and_linked(page):
    page.locator("#find-nearest").click()
    links = page.locator("#nearest-studies a")
    expect(links).to_have_count(3)
    assert "/study/p1%2Fb" in links.evaluate_all("every => every.map(one => one.getAttribute('href'))")

"""report.html: everything is on one page, nothing on it comes from elsewhere, and a browser shows it whole."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import evaluations
import numpy as np
import pytest

from cxrpipe.evaluation.figures import PrevalenceFigures
from cxrpipe.evaluation.metrics import Estimate
from cxrpipe.report.gallery import Picture
from cxrpipe.report.page import render

NASTY = '<script>alert("x")</script>'
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Page(HTMLParser):
    """What a page asks for, its text, and whether every tag is closed in order."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.text = ""
        self.tags: list[str] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.asked += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += f"{data} "


READING_ROOM = "http://127.0.0.1:8400"


def test_nothing_on_the_page_comes_from_elsewhere():
    html = render(
        evaluations.report(mask_pictures=[Picture("Lowest Dice", "s1", "Dice 0.6", "data:image/jpeg;base64,")])
    )
    page = Page(html)
    assert page.open == []
    assert "script" not in page.tags
    assert all(url.startswith(("#", "data:image/jpeg;base64,", f"{READING_ROOM}/study/")) for url in page.asked)
    assert not re.search(r"url\(|@import|https?://", html.replace(f'<a href="{READING_ROOM}/study/', ""))


def test_the_name_of_a_study_leads_to_its_page_in_the_reading_room():
    picture = Picture("False negatives", "p1/<s>", "0.02", "data:image/jpeg;base64,")
    html = render(evaluations.report(pictures={"Mass": [picture]}))
    assert f'<a href="{READING_ROOM}/study/p1%2F%3Cs%3E">p1/&lt;s&gt;</a>' in html


def test_every_link_on_the_page_leads_to_a_place_on_it():
    html = render(evaluations.report())
    assert {url[1:] for url in Page(html).asked} <= set(re.findall(r' id="([^"]+)"', html))


def test_text_from_data_can_do_nothing():
    finding = NASTY + "$x$"
    picture = Picture("True positives", NASTY, "0.9", "")
    shown = evaluations.report(
        evaluation=evaluations.evaluation((finding,), scores=NASTY, studies=f'"{NASTY}'),
        pictures={finding: [picture]},
        runs=[replace(evaluations.RUN, run_id=NASTY, versions={NASTY: NASTY})],
    )
    html = render(shown)
    assert "<script" not in html
    assert Page(html).text.count(NASTY) >= 6


def test_what_was_run_and_what_became_of_the_studies_is_said():
    text = " ".join(Page(render(evaluations.report())).text.split())
    for words in (
        "8de215bce7931bae87ab7a15a8aaaaf4",
        "20261120T095551.000001-f21af93f : 304 studies",
        "torch 2.15.0",
        "resnet50",
        "75e5c8c275e5",
        "310 in the study table",
        "304 scored by this ensemble",
        "3 failed",
        "partial truncated ends before its format says it should 2",
        "not a medical device",
    ):
        assert words in text


def test_a_card_that_can_be_read_adds_what_the_model_learned_from():
    card = {
        "side_px": 512,
        "recipe": "voi",
        "facts": {"population": {"train": {"studies": 70_001, "patients": 25_002}}},
    }
    text = Page(render(evaluations.report(cards={"/m/first": card}))).text
    assert all(words in text for words in ("512", "voi", "70,001", "25,002"))


def test_figures_stand_with_their_intervals_and_gaps_with_a_flag():
    text = " ".join(Page(render(evaluations.report())).text.split())
    assert "0.830 0.790 – 0.870" in text
    assert "Gap AUROC −0.10, p = 0.004" in text
    assert "chosen on split test" in text
    assert "nan" not in text


def test_a_finding_that_no_study_has_is_shown_with_dashes():
    none = evaluations.finding_figures("Hernia", prevalence=0.0)
    made = replace(evaluations.evaluation(), findings=(none,), ensembles=(), subgroups=())
    html = render(evaluations.report(evaluation=made))
    assert "nan" not in html
    assert "not defined" in Page(html).text


def test_predictive_values_at_assumed_prevalences_stand_beside_what_the_cards_assume():
    rare = PrevalenceFigures(
        finding="Mass",
        prevalence=0.01,
        measured=False,
        ppv=Estimate(0.161, 0.1, 0.25),
        npv=Estimate(0.999, 0.998, 1.0),
        flagged_per_1000=Estimate(59, 40, 80),
        missed_per_1000=Estimate(0.5, 0.2, 1.1),
    )
    measured = replace(rare, prevalence=0.3, measured=True)
    cards = {"/m/first": {"facts": {"prevalence": {"Mass": 0.74}}}}
    report = evaluations.report(evaluation=evaluations.evaluation(prevalences=(measured, rare)), cards=cards)
    page = Page(render(report))
    assert page.open == []
    text = " ".join(page.text.split())
    assert "30% as measured 0.161 0.100 – 0.250 0.999" in text
    assert "1% 0.161 0.100 – 0.250 0.999 0.998 – 1.000 59 40 – 80 0.5 0.2 – 1.1" in text
    assert "assume a prevalence of 74% (first)" in text
    assert text.count("At another prevalence") == 1  # the other finding has no such figures


def test_masks_alone_make_a_page():
    made = replace(evaluations.evaluation(), findings=(), ensembles=(), subgroups=())
    text = Page(render(evaluations.report(evaluation=made))).text
    assert "Lung masks" in text
    assert "Confusion matrix" not in text


def test_an_evaluation_without_masks_says_nothing_of_them():
    html = render(evaluations.report(evaluation=replace(evaluations.evaluation(), masks=None)))
    assert "Lung masks" not in html


def test_fourteen_findings_take_less_than_a_megabyte_without_pictures():
    findings = tuple(f"Finding_{number}" for number in range(14))
    assert len(render(evaluations.report(evaluation=evaluations.evaluation(findings)))) < 1_000_000


# ---- in a browser ---------------------------------------------------------------------------------------------

MEASURE = """<script>
const seen = {
  wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  broken: [...document.images].filter(image => !image.naturalWidth).length,
  images: document.images.length,
  plots: [...document.querySelectorAll(".plot svg")].map(svg => svg.getBoundingClientRect().width),
  cut: [...document.querySelectorAll("svg text")].filter(text => {
    const own = text.getBoundingClientRect(), whole = text.ownerSVGElement.getBoundingClientRect();
    return own.left < whole.left - 1 || own.right > whole.right + 1 || own.top < whole.top - 1;
  }).map(text => text.textContent),
};
document.documentElement.setAttribute("data-seen", JSON.stringify(seen));
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; the distribution's package is called chromium")
@pytest.mark.parametrize("columns_px", [560, 1200])
def test_a_browser_shows_the_page_whole_without_errors_and_without_asking_for_anything(tmp_path, columns_px):
    pixels = np.full((30, 30), 128, np.uint8)
    picture = Picture("False negatives", "a-study-with-a-very-long-identifier-" * 3, "0.02", as_src(pixels))
    html = render(evaluations.report(pictures={"Mass": [picture] * 3}))
    (tmp_path / "report.html").write_text(
        html.replace("style-src", "script-src 'unsafe-inline'; style-src").replace("</body>", f"{MEASURE}</body>")
    )
    dom, log, asked = browse(tmp_path, columns_px)
    seen = json.loads(re.search(r'data-seen="([^"]*)"', dom)[1].replace("&quot;", '"'))
    assert seen["wide"] <= 0
    assert (seen["broken"], seen["images"], seen["cut"]) == (0, 3, [])
    assert min(seen["plots"]) > 150
    assert "CONSOLE" not in log
    assert asked <= {f"file://{tmp_path}/report.html"}


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; the distribution's package is called chromium")
def test_what_looks_at_the_browser_sees_an_error_and_a_request(tmp_path):
    (tmp_path / "report.html").write_text('<img src="http://elsewhere.test/x.png"><script>nowhere()</script>')
    _, log, asked = browse(tmp_path, 800)
    assert "nowhere is not defined" in log
    assert "http://elsewhere.test/x.png" in asked


def as_src(pixels: np.ndarray) -> str:
    from cxrpipe.report.gallery import _as_src

    return _as_src(pixels)


def browse(folder: Path, columns_px: int) -> tuple[str, str, set[str]]:
    """The page after it was shown, what the browser logged, and every URL that the page asked for, but data:."""
    words = [
        CHROMIUM,
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"),
        *("--host-resolver-rules=MAP * ~NOTFOUND", "--no-first-run", "--enable-logging=stderr", "--dump-dom"),
        *(f"--window-size={columns_px},1000", f"--user-data-dir={folder / 'profile'}"),
        *(f"--log-net-log={folder / 'net.json'}", f"file://{folder / 'report.html'}"),
    ]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    events = json.loads((folder / "net.json").read_text())["events"]
    requests = [event["params"] for event in events if {"url", "initiator"} <= event.get("params", {}).keys()]
    own = "not an origin"  # of the browser's requests for itself, and of the page itself
    asked = {each["url"] for each in requests if each["initiator"] != own or each["url"].startswith("file:")}
    return done.stdout, done.stderr, {url for url in asked if not url.startswith("data:")}

"""The pages of the reading room as a browser gets them, and the verdicts that it sends."""

import html
import re
import uuid

import numpy as np
import pytest
from answered import FINGERPRINT, answered_root
from reading_room import opened_room

from cxrpipe.runs.reviews import Reviews
from cxrpipe.runs.root import ScoreRoot

MARKUP = "<script>alert(1)</script>\"'&"
CLIMBING = "../../etc/passwd"
IDS = ("patient1/study1", MARKUP, CLIMBING, "s3", "s4", "failed")
PROBS = np.array([[0.9, 0.8, 0.7, 0.6, 0.2, 0.1], [0.9, 0.7, 0.2, 0.5, 0.1, 0.1]])


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("room") / "root"
    probs = {"Pneumonia": PROBS, "Pleural_Effusion": 1 - PROBS}
    return answered_root(folder, probs, ids=IDS, patients=[f"p{MARKUP}"] * len(IDS), failed=[5])


@pytest.fixture(scope="module")
def browser(root):
    with opened_room(root) as browser:
        browser.get("/studies")
        yield browser


def listed(text: str) -> list[str]:
    """The ids of the studies of a list, in order."""
    return [html.unescape(name) for name in re.findall(r'<a class="study" href="[^"]*">([^<]*)</a>', text)]


def heading(text: str, words: str) -> str:
    """The address behind a heading of the list."""
    return html.unescape(re.search(rf'<th[^>]*><a href="([^"]*)">{words}', text)[1])


def verdict(study_id: str, word: str = "agree", **changes: object) -> dict[str, object]:
    return {"study_id": study_id, "finding": "Pneumonia", "verdict": word, "fingerprint": FINGERPRINT} | changes


def submission(*verdicts: dict[str, object], reader: str = "Ada", **changes: object) -> dict[str, object]:
    return {"id": uuid.uuid4().hex, "reader": reader, "verdicts": list(verdicts)} | changes


# ---- what is shown ------------------------------------------------------------------------------------------------


def test_the_list_is_sorted_by_probability_of_the_chosen_finding(browser):
    text = browser.get("/studies?finding=Pneumonia").text
    assert listed(text) == [IDS[0], MARKUP, "s3", CLIMBING, "s4", "failed"]
    assert "6 studies" in text


def test_the_address_of_a_list_has_only_what_says_something(browser):
    answer = browser.get("/studies?status=&finding=Pneumonia&prob_from=0.5&prob_to=1&text=")
    assert (answer.status, answer.headers["location"]) == (303, "/studies?finding=Pneumonia&prob_from=0.5")
    assert listed(browser.get(answer.headers["location"]).text) == [IDS[0], MARKUP, "s3"]


def test_the_form_shows_the_filter_of_the_address(browser):
    text = browser.get("/studies?finding=Pneumonia&prob_from=0.5&status=ok&text=s").text
    assert '<option value="Pneumonia" selected>' in text
    assert '<option value="ok" selected>' in text
    assert re.search(r'<input name="prob_from"[^>]* value="0.5">', text)
    assert 'type="search" maxlength="200" value="s"' in text


def test_a_heading_sorts_and_sorts_back(browser):
    text = browser.get("/studies?finding=Pneumonia").text
    address = heading(text, "Disagreement")
    assert address == "/studies?finding=Pneumonia&sort=disagreement"
    text = browser.get(address).text
    assert listed(text)[0] == CLIMBING
    assert "descending=0" in heading(text, "Disagreement")


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("finding=Nonsense", "expected one of Pneumonia, Pleural_Effusion"),
        ("prob_from=2", "expected a number from 0 to 1"),
        ("colour=red", "is no part of a filter"),
        ("text=" + "x" * 300, "expected at most 200"),
        ("list=none", "no reading list"),
    ],
)
def test_nonsense_in_an_address_is_refused_with_what_was_expected(browser, query, words):
    answer = browser.get(f"/studies?{query}")
    assert answer.status == 400
    assert words in html.unescape(answer.text)


@pytest.mark.parametrize("path", ["/", "/studies", "/studies?text=script", "/disagreement", "/failures"])
def test_markup_in_an_id_is_text_on_every_page(browser, path):
    assert "<script>alert" not in browser.get(path).text


def test_no_page_has_a_script_or_a_style_inside(browser):
    for path in ("/", "/studies", "/disagreement", "/failures", "/nothing"):
        text = browser.get(path).text
        assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=", text)
        assert not re.search(r"""(src|href)=["'](https?:)?//""", text)


def test_an_address_of_nothing_is_a_page_that_leads_back(browser):
    answer = browser.get("/nothing")
    assert answer.status == 404
    assert "There is nothing here" in answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/static/../context.py",
        "/static/..%2fcontext.py",
        "/static/%2e%2e/%2e%2e/errors.py",
        "/static/../../../../../../etc/passwd",
        "/static//etc/passwd",
        "/static/..%5c..%5cerrors.py",
        "/static/",
        "/static/%00",
        "/../../etc/passwd",
    ],
)
def test_a_path_that_climbs_finds_nothing(browser, path):
    answer = browser.get(path)
    assert answer.status in (404, 405)
    assert "import" not in answer.text
    assert "root:" not in answer.text


def test_the_style_is_the_one_of_the_report(browser):
    answer = browser.get("/static/style.css")
    assert answer.status == 200
    assert "--rust: #b5523b" in answer.text
    assert answer.headers["cache-control"] == "no-cache"


def test_tonight_counts_what_the_run_found(browser):
    text = browser.get("/").text
    assert re.search(r"<b>6</b>scored in this run", text)
    assert re.search(r"status=failed\">1</a></b>failed", text)
    assert re.search(r"decision=positive&amp;run_id=\w+\">Pneumonia</a></td><td class=\"n\">3</td>", text)


def test_a_root_of_pseudonyms_says_that_pictures_need_the_table(browser):
    assert "So do pictures: the root is pseudonymised" in browser.get("/studies").text


# ---- verdicts -----------------------------------------------------------------------------------------------------


def test_a_verdict_is_kept_with_what_was_shown(browser, root):
    answer = browser.post("/verdicts", submission(verdict(IDS[0], "wrong"), reader="Bo"))
    assert (answer.status, answer.text) == (200, '{"kept":1}')
    kept = next(row for row in Reviews(ScoreRoot.at(root)).read().to_pylist() if row["reader"] == "Bo")
    assert (kept["study_id"], kept["finding"], kept["verdict"], kept["label"]) == (IDS[0], "Pneumonia", "wrong", 0)
    assert kept["prob"] == pytest.approx(0.9)
    assert kept["fingerprint"] == FINGERPRINT


def test_a_verdict_that_is_sent_twice_is_kept_once(browser, root):
    said = submission(verdict("s3"), reader="Twice")
    assert [browser.post("/verdicts", said).status for _ in range(3)] == [200] * 3
    assert sum(row["reader"] == "Twice" for row in Reviews(ScoreRoot.at(root)).history().to_pylist()) == 1


def test_verdicts_stand_in_the_list_and_among_the_disagreements(browser):
    browser.post("/verdicts", submission(verdict("s4", "wrong"), reader="Cy"))
    assert re.search(
        r">s4</a>.*?data-name=\"readers\">present", browser.get("/studies?finding=Pneumonia").text, re.DOTALL
    )
    text = browser.get("/disagreement").text
    assert re.search(
        r'href="/study/s4">s4</a></td><td>Pneumonia</td><td class="n">0.150</td><td>absent</td><td>Cy', text
    )


def test_readers_who_differ_are_named(browser):
    browser.post("/verdicts", submission(verdict(MARKUP, "agree"), reader="<b>Di</b>"))
    browser.post("/verdicts", submission(verdict(MARKUP, "wrong"), reader="Ed"))
    text = html.unescape(browser.get("/disagreement").text)
    assert "<b>Di</b>: present; Ed: absent" in text
    assert "<b>Di</b>" not in browser.get("/disagreement").text


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (submission(verdict("not there")), "no study 'not there' here"),
        (submission(verdict("s3", "maybe")), "expected one of agree, wrong, unsure"),
        (submission(verdict("s3", finding="Nonsense")), "expected one of Pneumonia, Pleural_Effusion"),
        (submission(verdict("s3", fingerprint="other")), "reload the page"),
        (submission(verdict("failed")), "no answer on Pneumonia"),
        (submission(verdict("s3", note="Mr Smith")), "notes are off under pseudonyms"),
        (submission(verdict("s3"), id="../../x"), "verdict id"),
        (submission(verdict("s3"), reader=""), "a reader's name needs"),
        (submission(verdict("s3"), reader=7), "expected text in every field"),
        (submission(verdict("s3"), verdict("s3", "wrong")), "two verdicts on one finding"),
        (submission(), "at least one"),
        ({"id": "x"}, "expected JSON"),
        ([], "expected JSON"),
        (b"no json", "expected JSON"),
        (b"\xff\xfe", "expected JSON"),
        (b"[" * 30_000, "expected JSON"),
    ],
)
def test_a_verdict_that_makes_no_sense_is_refused(browser, root, said, words):
    before = Reviews(ScoreRoot.at(root)).history().num_rows
    answer = browser.post("/verdicts", said)
    assert answer.status == 400
    assert words in answer.text
    assert Reviews(ScoreRoot.at(root)).history().num_rows == before

"""`review --sample`: the reading list that the printed address opens."""

import html
import re

import numpy as np
import pytest
from answered import answered_root
from reading_room import Browser, reviewing

from cxrpipe.config import ReviewConfig
from cxrpipe.errors import ConfigError
from cxrpipe.review.filters import Filter
from cxrpipe.review.rows import Rows
from cxrpipe.runs.reading_lists import names, open_list
from cxrpipe.runs.root import ScoreRoot

PROBS = {name: np.random.default_rng(seed).random((2, 400)) for seed, name in enumerate(("Mass", "Edema"))}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> ScoreRoot:
    return ScoreRoot.at(answered_root(tmp_path_factory.mktemp("sampled"), PROBS))


@pytest.mark.slow
def test_the_printed_address_opens_the_list_that_was_drawn_in_a_random_order(root):
    with reviewing(root.url, "--sample", "40", "--by", "stratified", "--finding", "Mass", "--port", "0") as (
        address,
        _,
    ):
        browser = Browser(int(re.search(r":(\d+)/", address)[1]))
        page = browser.get(browser.enter(address).headers["location"])
    (name,) = names(root)
    assert name.startswith("stratified-40-Mass-seed0-")
    shown = [html.unescape(each) for each in re.findall(r'<a class="study" href="[^"]*">([^<]*)</a>', page.text)]
    assert sorted(shown) == sorted(open_list(root, name).studies["study_id"].to_pylist())
    with Rows.open(root, None, None) as rows:
        probs = {row["study_id"]: row["prob_Mass"] for row in rows.page(Filter(finding="Mass", list=name)).rows}
    first, second = (np.mean([probs[each] for each in half]) for half in (shown[:20], shown[20:]))
    assert abs(first - second) < 0.2  # by probability, the halves would be 0.4 apart
    assert "token" not in page.text


def test_settings_of_a_draw_without_a_draw_are_refused():
    for settings in ({"finding": "Mass"}, {"seed": 1}):
        with pytest.raises(ConfigError, match="--sample N, the number of studies to draw"):
            ReviewConfig(source="root", **settings)

"""shifts.html: whole, and with every corruption as a small picture."""

import numpy as np
from test_report_html import Page

from cxrpipe.evaluation.metrics import Estimate
from cxrpipe.evaluation.shifts import CopyFigures
from cxrpipe.images.corruptions import COPIES, MEANINGS, Copy
from cxrpipe.records import ModelReport
from cxrpipe.report.shifts import ShiftReport, render_shifts

NASTY = "<script>"


def figures(of: str, names: tuple[str, ...]) -> list[CopyFigures]:
    def under(copy: Copy) -> CopyFigures:
        value = 0.95 - 0.1 * copy.grade
        estimates = {name: Estimate(value, value - 0.05, min(1.0, value + 0.03)) for name in names}
        changes = {names[0]: Estimate(-0.1 * copy.grade, -0.2, 0.1)}
        return CopyFigures(of=of, copy=copy, studies=40, figures=estimates, changes=changes)

    return [under(copy) for copy in COPIES]


def report(*groups: list[CopyFigures]) -> ShiftReport:
    return ShiftReport(
        studies=f"/data/{NASTY}",
        split="test",
        sampled=40,
        models=(ModelReport(url="/m/first", architecture="resnet50", weights_sha256="ab" * 32),),
        fingerprint="8de215bce7931bae87ab7a15a8aaaaf4",
        seed=0,
        resamples=2000,
        figures=tuple(row for group in groups for row in group),
    )


NAMES = ("auroc", "sensitivity", "specificity", "balanced_accuracy", "drift", "crossed")


def test_the_page_is_whole_and_draws_every_corruption_of_every_group():
    page = Page(html := render_shifts(report(figures("Pleural_Effusion", NAMES), figures("lungs", ("dice",)))))
    assert page.open == []
    assert "script" not in page.tags
    assert page.tags.count("figure") == 2 * len(MEANINGS)
    assert all(url.startswith("#") for url in page.asked)
    assert NASTY not in html
    assert "Pleural Effusion" in page.text
    assert "0.650 0.600 – 0.680" in " ".join(page.text.split())


def test_figures_that_are_not_defined_are_dashes_and_draw_nothing():
    undefined = Estimate(np.nan, np.nan, np.nan)
    rows = [
        CopyFigures(of="A", copy=copy, studies=3, figures=dict.fromkeys(NAMES, undefined), changes={"auroc": undefined})
        for copy in COPIES
    ]
    page = Page(html := render_shifts(report(rows)))
    assert page.open == []
    assert "nan" not in html.lower().replace("finance", "")
    assert page.text.count("–") >= 22 * len(NAMES)

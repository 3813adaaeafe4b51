import io
import json
import re
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.image import imread
from rich.console import Console

from cxrpipe.evaluation.findings import FindingFigures, evaluate_findings
from cxrpipe.evaluation.masks import evaluate_masks
from cxrpipe.evaluation.metrics import Estimate, Overlap
from cxrpipe.evaluation.readers import Agreement, ReviewFacts
from cxrpipe.evaluation.weighted import FIGURES, WeightedFigures
from cxrpipe.report.figures import draw_confusion, draw_roc
from cxrpipe.report.terminal import print_figures, print_reviews

FOURTEEN = [
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Effusion",
    "Emphysema",
    "Enlarged_Cardiomediastinum",
    "Fibrosis",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pleural_Thickening",
    "Pneumonia",
    "Pneumothorax",
]


def figures_of(findings, studies=300) -> list[FindingFigures]:
    """Random figures; the last of several findings is never positive."""
    rng = np.random.default_rng(0)
    columns = {"study_id": [f"s{study}" for study in range(studies)], "patient_id": pa.nulls(studies)}
    for place, finding in enumerate(findings, start=1):
        labels = (rng.random(studies) < 0.3) & (place == 1 or place < len(findings))
        probs = rng.beta(2 + labels, 3).astype(np.float32)
        columns |= {f"label_{finding}": labels, f"prob_{finding}": probs, f"consensus_{finding}": probs > 0.5}
    return evaluate_findings(pa.table(columns), findings, resamples=50)


def printed(findings, masks=None, columns=100) -> str:
    console = Console(file=io.StringIO(), width=columns)
    print_figures(findings, masks, console)
    return console.file.getvalue()


def test_the_table_shows_auroc_with_its_interval():
    (figures,) = figures_of(["Mass"])
    assert "{:.3f} ({:.3f}–{:.3f})".format(*figures.auroc) in printed([figures])


@pytest.mark.parametrize("columns", [80, 100])
def test_the_table_cuts_nothing_off(columns):
    text = printed(figures_of(FOURTEEN), columns=columns)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= columns
    for word in " ".join(FOURTEEN).replace("_", " ").split():
        assert word in text


def test_a_table_that_is_not_for_a_terminal_holds_no_escape_codes():
    assert "\x1b" not in printed(figures_of(["Mass", "Nodule"]))


def test_a_figure_that_is_not_defined_is_said_in_words():
    text = printed(figures_of(["Mass", "Nodule"]))
    assert "not defined" in text
    assert "nan" not in text


def test_the_confusion_block_holds_the_four_counts():
    (figures,) = figures_of(["Mass"])
    counts = figures.counts
    row = [counts.true_positive, counts.false_negative, counts.false_positive, counts.true_negative, 0, 0]
    assert re.search(r"Mass\s+" + r"\s+".join(map(str, row)), printed([figures]))


def test_masks_are_one_line():
    masks = evaluate_masks([("a", None, Overlap(9, 10, 10)), ("b", None, Overlap(9, 10, 10))])
    assert "masks of 2 studies: Dice 0.900 (0.900–0.900), IoU 0.818 (0.818–0.818)" in printed([], masks)


@pytest.mark.parametrize("findings", [FOURTEEN[:1], FOURTEEN])
@pytest.mark.parametrize("draw", [draw_roc, draw_confusion])
def test_pictures_are_drawn_for_one_and_for_fourteen_findings(draw, findings, tmp_path):
    draw(figures_of(findings), tmp_path / "picture.png")
    picture = imread(tmp_path / "picture.png")  # (H, W, 4) float, 0..1
    assert picture.std() > 0.05
    assert max(picture.shape) < 2000


def test_drawing_needs_no_pyplot():
    loaded = subprocess.run(
        [sys.executable, "-c", "import json, sys, cxrpipe.report; print(json.dumps(list(sys.modules)))"],
        capture_output=True,
        check=True,
    )
    assert "matplotlib.pyplot" not in json.loads(loaded.stdout)


# ---- readers --------------------------------------------------------------------------------------------------


def printed_reviews(*agreements: Agreement, weighted: Sequence[WeightedFigures] = ()) -> str:
    facts = {"verdicts": 9, "studies": 3, "readers": ("Ada",), "fingerprints": {"f1": 9}, "without_majority": 0}
    console = Console(width=120, file=io.StringIO())
    print_reviews(ReviewFacts(agreements=agreements, **facts), weighted, console)
    return console.file.getvalue()


def test_a_reader_whose_name_looks_like_markup_is_printed_as_it_is():
    text = printed_reviews(Agreement("Pleural_Effusion", "[/b] Ada", None, 12, 0.75, 0.5))
    (line,) = [line for line in text.splitlines() if "Ada" in line]
    words = ["Pleural", "Effusion", "[/b]", "Ada", "the", "ensemble,", "as", "shown", "12", "75%", "0.50"]
    assert line.split() == words


def test_of_many_readers_only_the_agreement_with_the_ensemble_is_printed():
    pairs = [Agreement("Mass", f"r{number}", other, 9, 1.0, 1.0) for number in range(30) for other in (None, "z")]
    text = printed_reviews(*pairs)
    assert text.count("the ensemble, as shown") == 30
    assert "30 agreements of two readers stand in metrics.json" in text


def test_a_stratum_that_nobody_has_read_is_named():
    estimate = Estimate(0.5, 0.4, 0.6)
    figures = WeightedFigures(
        finding="Mass",
        reading_list="stratified-9",
        population=1234,
        listed=9,
        read=5,
        studies=4,
        positives=2,
        unread_strata=("negative, far from the threshold",),
        **dict.fromkeys(FIGURES, estimate),
    )
    text = printed_reviews(weighted=[figures])
    assert "weighted back to 1,234 studies" in text
    assert "4 of 9" in text
    assert "Nobody has read a study of: negative, far from the threshold." in text

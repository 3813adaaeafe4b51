import io
import json
import re
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.image import imread
from rich.console import Console

from cxrpipe.evaluation.findings import FindingFigures, evaluate_findings
from cxrpipe.evaluation.masks import evaluate_masks
from cxrpipe.evaluation.metrics import Overlap
from cxrpipe.report.figures import draw_confusion, draw_roc
from cxrpipe.report.terminal import print_figures

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

"""Figures on corrupted copies: what is compared with what."""

import numpy as np
import pyarrow as pa
import pytest

from cxrpipe.evaluation.metrics import Overlap
from cxrpipe.evaluation.shifts import ALL, LUNGS, as_table, evaluate_copies, evaluate_mask_copies
from cxrpipe.images.corruptions import CLEAN, Copy

BLUR = Copy("blur", 2)
STUDIES = 40


def table(moved: float = 0.0, findings: tuple[str, ...] = ("A",), reverse: bool = False) -> pa.Table:
    """Two studies of each patient; every probability is `moved` down, and 0.5 is the threshold."""
    rng = np.random.default_rng(0)
    numbers = np.arange(STUDIES)
    columns: dict[str, object] = {
        "study_id": [f"s{number:02d}" for number in numbers],
        "patient_id": [f"p{number // 2}" for number in numbers],
    }
    for finding in findings:
        labels = rng.permutation(numbers % 2)
        probs = 0.38 + 0.3 * labels + rng.uniform(-0.15, 0.15, STUDIES) - moved
        columns |= {f"prob_{finding}": probs.astype(np.float32), f"consensus_{finding}": probs >= 0.5}
        columns |= {f"label_{finding}": labels.astype(np.float32)}
    made = pa.table(columns)
    return made.take(pa.array(numbers[::-1])) if reverse else made


def test_a_copy_that_changes_nothing_has_no_drift_and_the_figures_of_the_clean_one():
    clean, same = evaluate_copies({CLEAN: table(), BLUR: table(reverse=True)}, ["A"], resamples=50)
    assert (clean.copy, same.copy) == (CLEAN, BLUR)
    assert same.figures == clean.figures
    assert same.figures["drift"] == same.figures["crossed"] == (0, 0, 0)
    assert all(change == (0, 0, 0) for change in same.changes.values())


def test_drift_and_crossed_are_means_over_studies_and_the_change_is_paired():
    clean, moved = evaluate_copies({CLEAN: table(), BLUR: table(0.2)}, ["A"], resamples=200)
    before, after = table(), table(0.2)
    assert moved.figures["drift"].value == pytest.approx(0.2, abs=1e-6)
    crossed = np.not_equal(before["consensus_A"].to_numpy(), after["consensus_A"].to_numpy())
    assert 0 < crossed.mean() < 1
    assert moved.figures["crossed"].value == pytest.approx(crossed.mean())
    assert moved.figures["crossed"].low < crossed.mean() < moved.figures["crossed"].high
    lost = moved.figures["sensitivity"].value - clean.figures["sensitivity"].value
    assert moved.changes["sensitivity"].value == pytest.approx(lost)
    assert lost < 0
    assert moved.changes["auroc"] == (0, 0, 0)  # all move by the same step, so their order stays


def test_a_study_that_a_copy_could_not_score_counts_for_neither_drift():
    after = table(0.2)
    probs = after["prob_A"].to_numpy().copy()
    probs[0] = np.nan
    after = after.set_column(2, "prob_A", pa.array(probs, from_pandas=True))
    _, moved = evaluate_copies({CLEAN: table(), BLUR: after}, ["A"], resamples=20)
    assert moved.figures["drift"].value == pytest.approx(0.2, abs=1e-6)
    assert moved.studies == STUDIES - 1


def test_the_mean_of_several_findings_comes_first():
    tables = {CLEAN: table(findings=("A", "B")), BLUR: table(0.1, findings=("A", "B"))}
    figures = evaluate_copies(tables, ["A", "B"], resamples=50)
    assert [(row.of, row.copy) for row in figures] == [(of, copy) for of in (ALL, "A", "B") for copy in (CLEAN, BLUR)]
    mean, of_a, of_b = figures[1], figures[3], figures[5]
    for name in ("auroc", "sensitivity", "drift", "crossed"):
        expected = (of_a.figures[name].value + of_b.figures[name].value) / 2
        assert mean.figures[name].value == pytest.approx(expected)


def test_masks_have_a_dice_and_its_paired_change():
    def fits(lost: int) -> list[tuple[str, str, Overlap]]:
        return [(f"s{n}", f"p{n}", Overlap(80 + n - lost, 100, 100)) for n in range(10)]

    clean, worse = evaluate_mask_copies({CLEAN: fits(0), BLUR: fits(20)}, resamples=50)
    assert (worse.of, worse.studies) == (LUNGS, 10)
    assert clean.figures["dice"].value == pytest.approx(0.845)
    assert worse.changes["dice"] == pytest.approx((-0.2, -0.2, -0.2))


def test_the_table_has_a_row_for_every_figure_and_null_for_what_is_not_defined():
    rows = as_table(evaluate_copies({CLEAN: table(), BLUR: table(0.2)}, ["A"], resamples=20)).to_pylist()
    assert len(rows) == 2 * 6
    drift = next(row for row in rows if (row["corruption"], row["figure"]) == ("blur", "drift"))
    assert (drift["of"], drift["grade"], drift["studies"], drift["change"]) == ("A", 2, STUDIES, None)

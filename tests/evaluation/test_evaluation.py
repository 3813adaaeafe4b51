import json
import math
import time
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pytest
import sklearn.metrics

from cxrpipe.errors import ConfigError
from cxrpipe.evaluation.findings import evaluate_findings, mean_auroc
from cxrpipe.evaluation.masks import evaluate_masks
from cxrpipe.evaluation.metrics import Counts, Overlap, wilson
from cxrpipe.evaluation.to_json import figures_as_json

FINDINGS = ("Effusion", "Mass")


def joined_table(studies: int = 200, patients: int = 80, findings=FINDINGS, seed: int = 0) -> pa.Table:
    """Scores joined with labels; some labels are uncertain or missing, some studies failed."""
    rng = np.random.default_rng(seed)
    columns = {
        "study_id": [f"s{study:06d}" for study in range(studies)],
        "patient_id": [f"p{patient}" for patient in rng.integers(patients, size=studies)],
    }
    failed = rng.random(studies) < 0.05
    for finding in findings:
        labels = rng.choice([1, 0, -1, np.nan], p=[0.3, 0.6, 0.05, 0.05], size=studies)
        probs = np.where(labels == 1, rng.beta(3, 2, studies), rng.beta(2, 3, studies)).astype(np.float32)
        columns[f"label_{finding}"] = pa.array(labels, pa.float32(), mask=np.isnan(labels))
        columns[f"prob_{finding}"] = pa.array(probs, pa.float32(), mask=failed)
        columns[f"consensus_{finding}"] = pa.array(probs >= 0.5, mask=failed)
    return pa.table(columns)


def small_table(labels, probs, patients=None) -> pa.Table:
    return pa.table(
        {
            "study_id": [f"s{study}" for study in range(len(labels))],
            "patient_id": pa.array(patients or [None] * len(labels), pa.string()),
            "label_Mass": pa.array(labels, pa.float32()),
            "prob_Mass": pa.array(probs, pa.float32()),
            "consensus_Mass": pa.array([prob and prob >= 0.5 for prob in probs], pa.bool_()),
        }
    )


def evaluate_small(labels, probs, patients=None):
    return evaluate_findings(small_table(labels, probs, patients), ["Mass"], resamples=200)[0]


def test_figures_equal_scikit_learns_on_the_studies_that_count():
    table = joined_table()
    for figures in evaluate_findings(table, FINDINGS, resamples=10):
        rows = table.to_pandas()[[f"{column}_{figures.finding}" for column in ("label", "prob", "consensus")]]
        labels, probs, consensus = rows[rows.iloc[:, 0].isin([0, 1])].dropna().to_numpy().T.astype(float)
        assert figures.auroc.value == pytest.approx(sklearn.metrics.roc_auc_score(labels, probs))
        assert figures.log_loss.value == pytest.approx(sklearn.metrics.log_loss(labels, probs), rel=1e-5)
        assert figures.sensitivity.value == pytest.approx(sklearn.metrics.recall_score(labels, consensus))
        assert figures.precision.value == pytest.approx(sklearn.metrics.precision_score(labels, consensus))
        assert figures.f1.value == pytest.approx(sklearn.metrics.f1_score(labels, consensus))
        assert figures.studies == len(labels)


def test_every_row_is_evaluated_left_out_or_unscored():
    figures = evaluate_small([1, 0, -1, None, 0, None], [0.9, 0.1, 0.5, 0.5, None, None])
    assert (figures.studies, figures.left_out, figures.unscored) == (2, 3, 1)
    assert figures.counts == Counts(1, 0, 0, 1)


def test_findings_keep_the_order_in_which_they_were_asked_for():
    figures = evaluate_findings(joined_table(), ["Mass", "Effusion"], resamples=10)
    assert [one.finding for one in figures] == ["Mass", "Effusion"]


def test_the_order_of_the_rows_changes_nothing():
    table = joined_table()
    shuffled = table.take(np.random.default_rng(1).permutation(len(table)))
    figures = evaluate_findings(table, FINDINGS, resamples=50)
    assert figures_as_json(figures, None) == figures_as_json(evaluate_findings(shuffled, FINDINGS, resamples=50), None)


def test_the_seed_decides_the_interval():
    table = joined_table()
    first, again, other = (evaluate_findings(table, FINDINGS, resamples=50, seed=seed)[0].auroc for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_an_interval_holds_its_value():
    for figures in evaluate_findings(joined_table(), FINDINGS, resamples=300):
        for estimate in (
            figures.auroc,
            figures.sensitivity,
            figures.specificity,
            figures.precision,
            figures.f1,
        ):
            assert estimate.low < estimate.value < estimate.high


def test_all_positives_found_in_a_few_patients_is_not_certain():
    found = evaluate_small([1] * 6 + [0] * 6, [0.9] * 6 + [0.1] * 5 + [0.8], [f"p{n // 2}" for n in range(12)])
    assert found.sensitivity == pytest.approx((1.0, *wilson(1.0, 3)))  # of three patients, six studies
    assert found.npv == pytest.approx((1.0, *wilson(1.0, 3)))
    assert found.sensitivity.low == pytest.approx(0.4385, abs=1e-4)


def test_repeated_studies_of_the_same_patients_do_not_narrow_the_interval():
    labels, probs = [1, 0, 1, 0, 0, 1, 0, 0], [0.9, 0.1, 0.4, 0.6, 0.2, 0.7, 0.3, 0.5]
    patients = [f"p{patient}" for patient in range(8)]
    once = evaluate_small(labels, probs, patients)
    ten_times = evaluate_small(labels * 10, probs * 10, patients * 10)
    as_if_strangers = evaluate_small(labels * 10, probs * 10)
    width = once.auroc.high - once.auroc.low
    assert ten_times.patients == 8
    assert ten_times.auroc.high - ten_times.auroc.low == pytest.approx(width, rel=0.2)
    assert as_if_strangers.auroc.high - as_if_strangers.auroc.low < 0.6 * width


def test_a_study_without_a_patient_stands_for_itself():
    assert evaluate_small([1, 0, 1, 0], [0.9, 0.1, 0.8, 0.2], ["p", None, "p", None]).patients == 3


@pytest.mark.parametrize(
    ("labels", "probs"),
    [([1, 1], [0.2, 0.8]), ([0, 0], [0.2, 0.8]), ([None, -1], [0.2, 0.8]), ([1, 0], [None, None]), ([], [])],
)
def test_without_two_classes_there_is_no_auroc_and_no_crash(labels, probs):
    figures = evaluate_small(labels, probs)
    assert all(math.isnan(number) for number in figures.auroc)
    assert len(figures.roc.sensitivity) == 0


def test_columns_of_arrow_type_null_are_read_as_missing():
    nothing = pa.nulls(3)
    table = pa.table({"study_id": ["a", "b", "c"], "patient_id": nothing, "label_Mass": nothing,
                      "prob_Mass": nothing, "consensus_Mass": nothing})  # fmt: skip
    assert evaluate_findings(table, ["Mass"], resamples=5)[0].left_out == 3


def test_a_missing_column_is_named():
    with pytest.raises(ConfigError, match="label_Mass"):
        evaluate_findings(joined_table().drop_columns(["label_Mass"]), FINDINGS)


def test_an_unknown_label_is_refused_with_its_value():
    with pytest.raises(ConfigError, match=r"label_Mass has values \[0\.25\]"):
        evaluate_small([1, 0.25], [0.2, 0.8])


def test_the_mean_auroc_leaves_out_findings_without_one():
    table = joined_table()
    never = pa.array(np.zeros(len(table)), pa.float32())
    table = table.set_column(table.column_names.index("label_Mass"), "label_Mass", never)
    figures = evaluate_findings(table, FINDINGS, resamples=100)
    assert mean_auroc(figures) == pytest.approx(figures[0].auroc)


def test_findings_share_their_resamples():
    table = joined_table(findings=["Mass"])
    for column in ("label", "prob", "consensus"):
        table = table.append_column(f"{column}_Nodule", table[f"{column}_Mass"])
    mass, nodule = evaluate_findings(table, ["Mass", "Nodule"], resamples=50)
    assert np.array_equal(mass.resampled["auroc"], nodule.resampled["auroc"])
    assert mean_auroc([mass, nodule]) == pytest.approx(mass.auroc)


def test_masks_are_averaged_over_studies_not_pixels():
    masks = evaluate_masks([("b", None, Overlap(0, 10, 10)), ("a", None, Overlap(1000, 1000, 1000))])
    assert masks.dice.value == 0.5
    assert masks.study_ids == ("a", "b")
    assert masks.dice_by_study.tolist() == [1, 0]


def test_the_mask_interval_resamples_patients():
    rng = np.random.default_rng(0)
    fits = [Overlap(int(px), 100, 100) for px in rng.integers(50, 100, size=20)]
    strangers = evaluate_masks((f"s{i}", f"p{i}", fit) for i, fit in enumerate(fits))
    one_patient = evaluate_masks((f"s{i}", "p", fit) for i, fit in enumerate(fits))
    assert strangers.dice.low < strangers.dice.value < strangers.dice.high
    assert one_patient.dice.low == pytest.approx(one_patient.dice.high)


def test_no_masks_make_figures_of_no_studies():
    masks = evaluate_masks([])
    assert masks.studies == 0
    assert math.isnan(masks.dice.value)


def test_the_json_is_valid_and_holds_no_nan():
    figures = [*evaluate_findings(joined_table(), FINDINGS, resamples=20), evaluate_small([1], [0.5])]
    text = json.dumps(figures_as_json(figures, evaluate_masks([])), allow_nan=False)
    assert json.loads(text)["findings"]["Mass"]["auroc"]["value"] is None


def test_the_json_has_the_same_keys_whatever_was_evaluated():
    full = figures_as_json(evaluate_findings(joined_table(), FINDINGS, resamples=20), evaluate_masks([]))
    assert figures_as_json([], None).keys() == full.keys()
    degenerate = figures_as_json([evaluate_small([], [])], None)
    assert degenerate["findings"]["Mass"].keys() == full["findings"]["Mass"].keys()


def test_the_json_accounts_for_every_study():
    (figures,) = evaluate_findings(joined_table(), ["Mass"], resamples=20)
    found = figures_as_json([figures], None)["findings"]["Mass"]
    assert found["studies"] + found["left_out"] + found["unscored"] == 200
    assert found["counts"] == asdict(figures.counts)
    assert sum(found["counts"].values()) == found["studies"]


def measure() -> None:
    """The size that issue 6 asks for: 30,000 studies x 14 findings x 2,000 resamples under a minute."""
    findings = [f"Finding_{number}" for number in range(14)]
    table = joined_table(studies=30_000, patients=12_000, findings=findings)
    start_s = time.perf_counter()
    evaluate_findings(table, findings)
    print(f"{time.perf_counter() - start_s:.1f} s")


if __name__ == "__main__":
    measure()

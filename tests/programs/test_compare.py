"""The program `compare`, and the figures of drift that it prints."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import scipy.stats
from builders import own_table, png, radiograph, small_classifier

from cxrpipe.config import CompareConfig, ScoreConfig
from cxrpipe.errors import ConfigError
from cxrpipe.evaluation.drift import compare as compare_rows
from cxrpipe.evaluation.drift import psi, psi_by_chance, shift
from cxrpipe.programs import compare
from cxrpipe.programs.score import score_archive
from cxrpipe.records import runs_of, score_schema
from cxrpipe.runs.engine import loop

pytestmark = pytest.mark.usefixtures("scored_here")


def rows(probs, ids=None, fingerprint="f", failed=()) -> pa.Table:
    """Score rows of one finding; the studies at the places of `failed` have no numbers."""
    ids = ids or [f"s{number}" for number in range(len(probs))]
    filled = [
        {
            "study_id": study,
            "study_digest": "d",
            "fingerprint": fingerprint,
            "status": "failed" if place in failed else "ok",
            "reason": "corrupt" if place in failed else None,
            "prob_Mass": None if place in failed else float(prob),
            "consensus_Mass": None if place in failed else bool(prob >= 0.5),
            "n_views": 1,
            "n_views_ok": 1,
            "flags": [],
            "views": [{"status": "ok", "lung_fraction": 0.3 + 0.1 * float(prob)}],
        }
        for place, (study, prob) in enumerate(zip(ids, probs, strict=True))
    ]
    return pa.Table.from_pylist(filled, schema=score_schema(["Mass"]))


def compared(reference: pa.Table, later: pa.Table, **settings):
    return compare_rows(reference, later, ["Mass"], ("a", "b"), resamples=2000, **settings)


# ---- figures --------------------------------------------------------------------------------------------------


def test_the_index_is_the_symmetric_divergence_of_scipy():
    first, second = np.array([[1000, 2000, 3000], [400, 300, 300]])
    p, q = ((counts + 0.5) / (counts + 0.5).sum() for counts in (first, second))
    assert psi(first, second) == pytest.approx(scipy.stats.entropy(p, q) + scipy.stats.entropy(q, p))


def test_an_unchanged_distribution_has_no_index():
    assert psi(np.array([5, 10, 20]), np.array([5, 10, 20])) == 0


def test_fifty_unchanged_studies_exceed_a_fifth_often_and_the_quantile_hardly_ever():
    rng, tenths = np.random.default_rng(0), np.full(10, 1000)
    nights = psi(tenths, rng.multinomial(50, tenths / tenths.sum(), size=4000))
    assert 0.2 < np.mean(nights > 0.2) < 0.35
    assert np.mean(nights > psi_by_chance(tenths, 50, 20_000, seed=0)) < 0.004


def test_the_distance_is_scipys():
    first, second = np.random.default_rng(0).beta(2, [[3], [4]], size=(2, 300))
    found = shift("Mass", first, second, resamples=1000)
    assert (found.ks, found.ks_p_value) == pytest.approx(tuple(scipy.stats.ks_2samp(first, second, method="asymp")))


def test_every_study_stands_in_a_bin_of_both_runs():
    first, second = np.random.default_rng(0).beta(2, 3, size=(2, 300))
    found = shift("Mass", first, np.append(second, [0.0, 1.0]), resamples=1000)
    assert (found.reference_counts.sum(), found.counts.sum()) == (300, 302)
    assert found.reference_counts.tolist() == [30] * 10


@pytest.mark.parametrize("values", [np.full(20, 0.5), np.empty(0)])
def test_constant_or_no_scores_are_no_drift(values):
    found = shift("Mass", values, values, resamples=1000)
    assert not found.alarm


def test_a_shift_is_an_alarm_and_few_studies_of_it_are_none():
    rng = np.random.default_rng(1)
    reference, shifted = rng.beta(2, 4, 3000), rng.beta(3, 3, 1000)
    assert shift("Mass", reference, shifted, resamples=2000).alarm
    assert not shift("Mass", reference, rng.beta(2, 4, 1000), resamples=2000).alarm
    assert not shift("Mass", reference, shifted[:4], resamples=2000).alarm


def test_flips_and_new_failures_are_of_the_studies_in_both():
    reference = rows([0.1, 0.9, 0.2, 0.8], ["a", "b", "c", "d"])
    later = rows([0.9, 0.1, 0.2, 0.8], ["b", "a", "c", "e"], failed=[2])
    later = pa.concat_tables([later, rows([0.7], ["d"])])
    later = later.set_column(later.column_names.index("consensus_Mass"), "consensus_Mass",
                             pa.array([False, False, None, True, True]))  # fmt: skip
    found = compared(reference, later)
    assert found.studies_in_both == 4
    assert (found.flips[0].to_negative, found.flips[0].to_positive, found.flips[0].study_ids) == (1, 0, ("b",))
    assert found.newly_failed == ("c",)
    assert found.counts == {"failed/corrupt": 1, "ok": 4}


def test_the_fraction_of_lung_is_compared_too():
    found = compared(rows(np.full(50, 0.2)), rows(np.full(60, 0.8)))
    assert [each.name for each in found.shifts] == ["Mass", "lung_fraction"]
    assert found.shifts[1].mean == pytest.approx(0.38)


# ---- the program ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nights(tmp_path_factory) -> tuple[str, Path]:
    """A root of three runs: eighty bright films, ten more of the kind, and eighty dark ones."""
    folder = tmp_path_factory.mktemp("nights")
    model = small_classifier(folder / "model", findings=("Mass",))
    root = str(folder / "root")
    for night, (first, studies, light) in enumerate([(0, 80, 1.0), (80, 10, 1.0), (90, 80, 0.15)]):
        films = {
            f"s{number:03d}": [png((radiograph(number, 40, 40) * light).astype(np.uint8))]
            for number in range(first, first + studies)
        }
        table = own_table(folder / str(night), films)
        # In bf16 a network that has learned nothing says the same of them all.
        config = ScoreConfig(studies=table.url, models=(model.url,), out=root, precision="fp32")
        assert score_archive(config, loop) == 0
    return root, folder


def run_ids(root: str) -> list[str]:
    return [report.run_id for report in runs_of(root)]


def test_a_night_like_the_reference_ends_with_status_0(nights, capsys):
    root, _ = nights
    first, second, _ = run_ids(root)
    assert compare.run(CompareConfig(runs=(f"{root}/runs/{first}", f"{root}/scores/run={second}"))) == 0
    assert "ALARM" not in capsys.readouterr().out


def test_a_night_that_drifted_ends_with_status_5_json_and_a_page(nights, tmp_path, capsys):
    root, _ = nights
    status = compare.run(CompareConfig(runs=(run_ids(root)[0], "latest"), root=root, out=str(tmp_path / "out")))
    assert status == 5
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert found["alarm"] is True
    assert found["shifts"][0]["psi"] > found["shifts"][0]["psi_by_chance"]
    assert "ALARM" in capsys.readouterr().out
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert "Drift alarm." in page
    assert f"{found['shifts'][0]['psi']:.3f}" in page
    assert not re.search(r"(src|href)=.(?!#|data:)", page)  # needs nothing but itself


def test_a_root_compared_with_itself_has_not_changed(nights, capsys):
    assert compare.run(CompareConfig(runs=(nights[0], nights[0]))) == 0
    assert "170 studies in both: 0 decisions flipped, 0 studies newly without numbers" in capsys.readouterr().out


def test_what_cannot_be_compared_is_refused_with_the_reason(nights, tmp_path):
    root, _ = nights
    table = own_table(tmp_path, {"a": [png(radiograph())]})
    for name, findings, reason in (
        ("seed", ("Mass",), "was scored by"),
        ("findings", ("Edema",), "the findings Mass,"),
    ):
        model = small_classifier(tmp_path / name, seed=9, findings=findings)
        other = str(tmp_path / f"{name}_root")
        assert score_archive(ScoreConfig(studies=table.url, models=(model.url,), out=other), loop) == 0
        with pytest.raises(ConfigError, match=reason):
            compare.run(CompareConfig(runs=(root, other)))
    across = CompareConfig(runs=(root, str(tmp_path / "seed_root")), across_models=True)
    assert compare.run(across) == 0


def test_a_run_that_is_not_there_is_refused_and_those_that_are_named(nights):
    root, _ = nights
    with pytest.raises(ConfigError, match="no complete run 'x'; it has"):
        compare.run(CompareConfig(runs=("x", "latest"), root=root))

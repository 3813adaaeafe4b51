"""Members that know different findings, through every program: a backbone, 18 findings, 14 of these, and one."""

import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sklearn.metrics
from builders import classifier, nih_table, small_classifier

from cxrpipe.archives.index import index
from cxrpipe.config import CalibrateConfig, CompareConfig, EvaluateConfig, ExportConfig, ScoreConfig, ShowConfig
from cxrpipe.models import architectures, weights
from cxrpipe.models.card import Card
from cxrpipe.models.ensemble import Ensemble
from cxrpipe.models.folder import ModelFolder, open_model, save_model
from cxrpipe.programs import calibrate, compare, evaluate, export, show
from cxrpipe.programs.score import score_archive
from cxrpipe.records import read_scores, runs_of
from cxrpipe.records.study_table import StudyTable
from cxrpipe.runs.engine import loop
from cxrpipe.scoring.batch import Batch
from cxrpipe.scoring.predict import Predictor
from cxrpipe.scoring.prepare import Preparer

pytestmark = pytest.mark.usefixtures("scored_here")
NIH = [
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Pleural_Effusion",
    "Emphysema",
    "Fibrosis",
    "Hernia",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pleural_Thickening",
    "Pneumonia",
    "Pneumothorax",
]
XRV = [
    "Atelectasis",
    "Consolidation",
    "Infiltration",
    "Pneumothorax",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Effusion",
    "Pneumonia",
    "Pleural_Thickening",
    "Cardiomegaly",
    "Nodule",
    "Mass",
    "Hernia",
    "Lung_Lesion",
    "Fracture",
    "Lung_Opacity",
    "Enlarged_Cardiomediastinum",
]
"""The order of torchxrayvision, which is not that of NIH."""
BY_HAND = 10


class Scored(NamedTuple):
    """A score root of four members."""

    table: StudyTable
    root: str
    members: tuple[ModelFolder, ...]
    """The first is a backbone: it knows no finding, and has a place in every list of members."""
    folder: Path

    def config(self, **settings: Any) -> ScoreConfig:
        """The settings that score with all members."""
        urls = tuple(member.url for member in self.members)
        given = {"studies": self.table.url, "models": urls, "out": self.root, "precision": "fp32", "embed": True}
        return ScoreConfig(**given | settings)


@pytest.fixture(scope="module", params=["synthetic", pytest.param("real", marks=pytest.mark.slow)])
def scored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Scored:
    """Scored films of NIH, or films made here in its layout."""
    folder = tmp_path_factory.mktemp("mixed")
    if request.param == "real":
        url = str(folder / "nih" / "studies.parquet")
        index(str(request.getfixturevalue("real_data") / "nih"), url)
        table = StudyTable(url)
    else:
        table = nih_table(folder, studies=80)
    card = Card(task="embed", architecture="shufflenet_v2_x0_5", side_px=32, mean=0.5, std=0.25)
    network = weights.weights_bytes(architectures.build_from_card(card))
    backbone = save_model(str(folder / "backbone"), card, network, {})
    made = Scored(table, str(folder / "root"), (backbone, *_classifiers(folder, table)), folder)
    assert score_archive(made.config(), loop) == 0
    return made


def _classifiers(folder: Path, table: StudyTable) -> Iterator[ModelFolder]:
    """Three networks, of several sides. Their thresholds are the medians of a few films, so that votes differ.

    The thresholds of Pneumonia are 0.5, and its calibration makes that the median.
    """
    drafts = (
        small_classifier(folder / "drafts" / "xrv", seed=1, findings=XRV),
        classifier(folder / "drafts" / "nih", seed=2, side_px=64, findings=NIH),
        small_classifier(folder / "drafts" / "pneumonia", seed=3, findings=["Pneumonia"]),
    )
    ensemble = Ensemble(drafts)
    with Preparer(table, ensemble, None) as prepare:
        few = [prepare(study) for study in itertools.islice(table.studies(), 16)]
    probs = Predictor(ensemble, device="cpu").predict(Batch.of(few, ensemble).pixels).probs
    for draft, of_member, places in zip(drafts, probs, ensemble.places, strict=True):
        thresholds = dict(zip(draft.card.findings, np.median(of_member[:, places], axis=0).tolist(), strict=True))
        median = thresholds.pop("Pneumonia")
        line = (2.0, -2.0 * math.log(median / (1 - median)))
        card = replace(draft.card, thresholds=thresholds | {"Pneumonia": 0.5}, calibration={"Pneumonia": line})
        yield save_model(str(folder / Path(draft.url).name), card, draft.read_weights(), {})


def test_the_columns_are_those_of_all_findings_and_the_report_says_who_knows_what(scored):
    report = runs_of(scored.root)[-1]
    assert report.findings == tuple(XRV)
    assert [set(member.findings) for member in report.members] == [set(), set(XRV), set(NIH), {"Pneumonia"}]
    assert {name for name in read_scores(scored.root).column_names if name.startswith("prob_")} == {
        f"prob_{finding}" for finding in XRV
    }


def test_ten_studies_have_the_votes_that_a_person_would_count(scored):
    rows = read_scores(scored.root).to_pylist()[:BY_HAND]
    _check_by_hand(rows, scored.members)
    decided = [row[f"votes_{finding}"] for row in rows for finding in NIH]
    assert {0, 1, 2} <= set(decided)


def _check_by_hand(rows: list[dict[str, Any]], members: tuple[ModelFolder, ...]) -> None:
    """Every column of every finding, from the answers to the views and the cards, one number at a time."""
    for row in rows:
        for finding in XRV:
            probs: list[float | None] = []
            votes, thresholds = 0, []
            for number, member in enumerate(members):
                place = XRV.index(finding)
                of_views = [view["member_probs"][number][place] for view in row["views"] if view["status"] == "ok"]
                if finding not in member.card.findings:
                    assert set(of_views) == {None}
                    probs.append(None)
                    continue
                prob = max(of_views)  # the films of NIH have one view each
                if line := member.card.calibration.get(finding):
                    prob = 1 / (1 + math.exp(-(line[0] * math.log(prob / (1 - prob)) + line[1])))
                probs.append(prob)
                thresholds.append(member.card.thresholds[finding])
                votes += prob >= thresholds[-1]
            known = [prob for prob in probs if prob is not None]
            mean = sum(known) / len(known)
            tie = mean >= sum(thresholds) / len(thresholds)
            spread = math.sqrt(sum((prob - mean) ** 2 for prob in known) / len(known))
            assert row[f"member_probs_{finding}"] == pytest.approx(probs, abs=1e-6)
            assert row[f"prob_{finding}"] == pytest.approx(mean, abs=1e-6)
            assert row[f"disagreement_{finding}"] == pytest.approx(spread, abs=1e-6)
            if min(abs(p - t) for p, t in zip(known, thresholds, strict=True)) > 1e-6:  # else the last digit decides
                assert row[f"votes_{finding}"] == votes
                assert row[f"consensus_{finding}"] == (tie if 2 * votes == len(known) else 2 * votes > len(known))


def test_the_answers_of_a_member_are_those_it_gives_alone(scored):
    """In the columns of its own findings, whose order is another one than that of the run."""
    nih, out = scored.members[2], str(scored.folder / "alone")
    config = ScoreConfig(studies=scored.table.url, models=(nih.url,), out=out, precision="fp32", limit=BY_HAND)
    assert score_archive(config, loop) == 0
    together = {row["study_id"]: row for row in read_scores(scored.root).to_pylist()}
    for row in read_scores(out).to_pylist():
        for finding in NIH:
            of_both = together[row["study_id"]][f"member_probs_{finding}"][2]
            assert of_both == pytest.approx(row[f"prob_{finding}"], abs=1e-5)


def test_no_file_of_the_root_holds_nan(scored):
    files = [*Path(scored.root).rglob("*.parquet")]
    assert files
    for file in files:
        for column in pq.read_table(file).columns:
            assert not _has_nan(column.combine_chunks()), file


def _has_nan(column: pa.Array) -> bool:
    if pa.types.is_list(column.type):
        return _has_nan(column.flatten())
    if pa.types.is_struct(column.type):
        return any(map(_has_nan, column.flatten()))
    return pa.types.is_floating(column.type) and bool(np.isnan(column.drop_null().to_numpy()).any())


def evaluated(scored: Scored, out: Path) -> dict[str, Any]:
    judging = {"split": "all", "resamples": 50, "pictures": 0}
    assert evaluate.run(EvaluateConfig(scores=scored.root, studies=scored.table.url, out=str(out), **judging)) == 0
    return json.loads((out / "metrics.json").read_text())


def test_evaluate_sets_those_that_know_a_finding_beside_the_ensemble(scored, tmp_path):
    ensembles = evaluated(scored, tmp_path)["ensembles"]
    names = {finding: [member["member"] for member in of["members"]] for finding, of in ensembles.items()}
    assert names == {finding: ["xrv", "nih"] for finding in NIH} | {"Pneumonia": ["xrv", "nih", "pneumonia"]}
    rows = {row["study_id"]: row for row in read_scores(scored.root).to_pylist()}
    studies = [*scored.table.studies()]
    for finding in ("Pneumonia", "Cardiomegaly"):
        labels = [study.labels[finding] for study in studies]
        probs = [rows[study.study_id][f"member_probs_{finding}"] for study in studies]
        for number, member in enumerate(ensembles[finding]["members"], start=1):
            expected = sklearn.metrics.roc_auc_score(labels, [of_study[number] for of_study in probs])
            assert member["auroc"]["value"] == pytest.approx(expected)
    page = (tmp_path / "report.html").read_text()
    assert "Lung Lesion, Fracture, Lung Opacity, Enlarged Cardiomediastinum" in page  # known by one member alone


@pytest.fixture(scope="module")
def calibrated(scored: Scored) -> Scored:
    """The root with a second run, derived from the first: of the same networks, calibrated."""
    out = scored.folder / "calibrated"
    backbone, *old = scored.members
    given = {"scores": scored.root, "studies": scored.table.url, "models": tuple(model.url for model in old)}
    given |= {"split": "all", "method": "none"}  # Platt's line refuses a random network that is mostly wrong
    assert calibrate.run(CalibrateConfig(**given, out=str(out))) == 0
    new = [open_model(str(out / Path(model.url).name), "classify") for model in old]
    made = scored._replace(members=(backbone, *new))
    assert score_archive(made.config(incremental=True), _no_engine) == 0
    return made


def _no_engine(job: object) -> Iterator[Any]:
    raise AssertionError("networks were asked")


def test_calibrate_fits_every_model_on_its_own_answers(scored, calibrated):
    for old, new in zip(scored.members[1:], calibrated.members[1:], strict=True):
        assert new.card.findings == old.card.findings
        fitted = new.card.facts["calibrated"]["findings"]
        assert "Pneumonia" in fitted
        assert set(fitted) <= set(old.card.findings)
        assert new.card.thresholds["Pneumonia"] != old.card.thresholds["Pneumonia"]


def test_scoring_with_the_calibrated_models_derives_every_row_and_the_same_votes(calibrated):
    report = runs_of(calibrated.root)[-1]
    assert report.derived == report.studies == calibrated.table.rows
    rows = read_scores(calibrated.root, report.fingerprint)
    _check_by_hand(rows.to_pylist()[:BY_HAND], calibrated.members)
    assert not any(_has_nan(column.combine_chunks()) for column in rows.columns)


def test_runs_are_compared_by_the_findings_that_both_have(calibrated, tmp_path, capfd):
    first, second = (f"{calibrated.root}/runs/{report.run_id}" for report in runs_of(calibrated.root))
    few = {"resamples": 1000}
    assert compare.run(CompareConfig(runs=(first, first), **few)) == 0
    assert compare.run(CompareConfig(runs=(first, second), across_models=True, **few)) == 0
    single, out = calibrated.members[3].url, str(tmp_path / "single")
    config = ScoreConfig(studies=calibrated.table.url, models=(single,), out=out, limit=BY_HAND)
    assert score_archive(config, loop) == 0
    capfd.readouterr()
    folder = tmp_path / "compared"
    assert compare.run(CompareConfig(runs=(first, out), across_models=True, out=str(folder), **few)) == 0
    shifts = json.loads((folder / "comparison.json").read_text())["shifts"]
    assert [shift["name"] for shift in shifts] == ["Pneumonia"]
    assert f"left out, since only {first} has them: Atelectasis, " in capfd.readouterr().err


def test_the_csv_has_null_for_a_member_that_does_not_know_a_finding(scored, calibrated, tmp_path):
    newest = runs_of(scored.root)[-1].fingerprint
    assert export.run(ExportConfig(source=scored.root, csv=str(tmp_path / "s.csv"), fingerprint=newest)) == 0
    text = (tmp_path / "s.csv").read_text()
    assert "nan" not in text.lower()
    rows = read_scores(scored.root, newest).to_pylist()
    number = f"{rows[0]['member_probs_Fracture'][1]:.7g}"
    assert f'"[null, {number}, null, null]"' in text


def test_show_counts_the_votes_of_those_that_know_a_finding(scored, calibrated, tmp_path, capsys):
    report, study = runs_of(scored.root)[0], next(scored.table.studies()).study_id
    settings = {"source": scored.root, "study": study, "fingerprint": report.fingerprint}
    assert show.run(ShowConfig(**settings, out=str(tmp_path / "study.png"))) == 0
    lines = capsys.readouterr().out.splitlines()
    of = {finding: next(line for line in lines if line.startswith(f"{finding} ")) for finding in XRV}
    assert " of 3 votes" in of["Pneumonia"]
    assert " of 2 votes" in of["Cardiomegaly"]
    assert " of 1 votes" in of["Fracture"]

"""The columns of findings for many studies at once, against one study after another by hand."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from builders import FINDINGS

from cxrpipe.models.ensemble import Ensemble
from cxrpipe.models.folder import ModelFolder
from cxrpipe.records import score_schema
from cxrpipe.scoring.findings import finding_columns

VIEWS = np.array([1, 0, 3, 2, 0, 1])


@pytest.fixture(scope="module", params=[FINDINGS, ("Mass", "Cardiomegaly"), ("Cardiomegaly", "Pneumonia", "Mass")])
def ensemble(request, members) -> Ensemble:
    """Two members with rules, calibrations and thresholds of their own; the second also with findings of its own."""
    findings, thresholds = (FINDINGS, request.param), {"Pneumonia": 0.4, "Mass": 0.6}
    cards = [
        replace(
            members[number].card,
            findings=findings[number],
            aggregation=_of(findings[number], rules),
            calibration=_of(findings[number], {"Pneumonia": (1.5, number - 0.5)}),
            thresholds=_of(findings[number], thresholds | {"Cardiomegaly": 0.3 + 0.4 * number}),
        )
        for number, rules in enumerate(({"Pneumonia": "mean"}, {"Pneumonia": "max", "Cardiomegaly": "min"}))
    ]
    return Ensemble(tuple(ModelFolder(model.url, card) for model, card in zip(members, cards, strict=True)))


def _of(findings: Sequence[str], values: dict[str, object]) -> dict[str, object]:
    return {finding: value for finding, value in values.items() if finding in findings}


@pytest.fixture(scope="module")
def probs(ensemble) -> np.ndarray:
    rng = np.random.default_rng(3)
    return ensemble.by_finding([rng.random((VIEWS.sum(), len(places)), np.float32) for places in ensemble.places])


def by_hand(ensemble: Ensemble, views: np.ndarray) -> dict[str, object]:
    """The columns of one study from (K, V, F) probabilities."""
    columns: dict[str, object] = {}
    for number, finding in enumerate(ensemble.findings):
        by_member: list[float | None] = []
        calibrated, thresholds = [], []
        for model, of_member in zip(ensemble.members, views[:, :, number].astype(float), strict=True):
            if finding not in model.card.findings:
                by_member.append(None)
                continue
            prob = getattr(of_member, model.card.aggregation.get(finding, "max"))()
            slope, intercept = model.card.calibration.get(finding, (1.0, 0.0))
            calibrated.append(1 / (1 + np.exp(-(slope * np.log(prob / (1 - prob)) + intercept))))
            thresholds.append(model.card.thresholds[finding])
            by_member.append(calibrated[-1])
        votes = sum(prob >= threshold for prob, threshold in zip(calibrated, thresholds, strict=True))
        tie = np.mean(calibrated) >= np.mean(thresholds)
        columns |= {
            f"prob_{finding}": np.mean(calibrated),
            f"votes_{finding}": votes,
            f"consensus_{finding}": [False, tie, True][votes] if len(calibrated) == 2 else votes == 1,
            f"member_probs_{finding}": by_member,
            f"disagreement_{finding}": np.std(calibrated),
        }
    return columns


def test_every_study_has_the_numbers_of_its_own_views(ensemble, probs):
    columns = {name: column.to_pylist() for name, column in finding_columns(ensemble, probs, VIEWS).items()}
    for study, (count, end) in enumerate(zip(VIEWS, np.cumsum(VIEWS), strict=True)):
        found = {name: column[study] for name, column in columns.items()}
        if count:
            for name, expected in by_hand(ensemble, probs[:, end - count : end]).items():
                assert found[name] == pytest.approx(expected, abs=1e-6), (study, name)
        else:
            assert found == dict.fromkeys(found)


def test_the_columns_have_the_types_of_the_score_schema(ensemble, probs):
    columns = finding_columns(ensemble, probs, VIEWS)
    findings = ensemble.findings
    expected = {field.name: field.type for field in score_schema(findings) if field.name.endswith(findings)}
    assert {name: column.type for name, column in columns.items()} == expected


def test_a_finding_that_no_member_has_a_number_for_is_null_in_that_study_alone(ensemble, probs):
    """A network may give nan. A null is no vote, and no number of others is lost over it."""
    without = probs.copy()
    without[:, -1, 0] = np.nan  # the view of the last study
    found, all_ = (finding_columns(ensemble, given, VIEWS) for given in (without, probs))
    for name, column in found.items():
        expected = all_[name].to_pylist()
        if name.endswith(ensemble.findings[0]):
            expected[-1] = [None, None] if name.startswith("member_probs") else None
        assert column.to_pylist() == expected, name


def test_without_a_scored_study_all_is_null(ensemble, probs):
    columns = finding_columns(ensemble, probs[:, :0], np.array([0, 0]))
    assert all(column.null_count == 2 for column in columns.values())


def test_without_a_member_there_is_no_finding(lungs):
    assert finding_columns(Ensemble((), (lungs,)), np.zeros((0, 2, 0), np.float32), np.array([1, 1])) == {}

"""The columns of findings for many studies at once, against one study after another by hand."""

from dataclasses import replace

import numpy as np
import pytest
from builders import FINDINGS

from cxrpipe.models.ensemble import Ensemble
from cxrpipe.models.folder import ModelFolder
from cxrpipe.records import score_schema
from cxrpipe.scoring.findings import finding_columns

VIEWS = np.array([1, 0, 3, 2, 0, 1])


@pytest.fixture(scope="module")
def ensemble(members) -> Ensemble:
    """Two members with rules, calibrations and thresholds of their own."""
    cards = [
        replace(
            members[number].card,
            aggregation=rules,
            calibration={"Pneumonia": (1.5, number - 0.5)},
            thresholds={"Pneumonia": 0.4, "Cardiomegaly": 0.3 + 0.4 * number},
        )
        for number, rules in enumerate(({"Pneumonia": "mean"}, {"Pneumonia": "max", "Cardiomegaly": "min"}))
    ]
    return Ensemble(tuple(ModelFolder(model.url, card) for model, card in zip(members, cards, strict=True)))


@pytest.fixture(scope="module")
def probs() -> np.ndarray:
    return np.random.default_rng(3).random((2, VIEWS.sum(), len(FINDINGS)), np.float32)


def by_hand(ensemble: Ensemble, views: np.ndarray) -> dict[str, object]:
    """The columns of one study from (K, V, F) probabilities."""
    columns: dict[str, object] = {}
    for number, finding in enumerate(FINDINGS):
        calibrated, thresholds = [], []
        for model, of_member in zip(ensemble.members, views[:, :, number].astype(float), strict=True):
            prob = getattr(of_member, model.card.rules[number])()
            slope, intercept = model.card.calibration.get(finding, (1.0, 0.0))
            calibrated.append(1 / (1 + np.exp(-(slope * np.log(prob / (1 - prob)) + intercept))))
            thresholds.append(model.card.thresholds[finding])
        votes = sum(prob >= threshold for prob, threshold in zip(calibrated, thresholds, strict=True))
        tie = np.mean(calibrated) >= np.mean(thresholds)
        columns |= {
            f"prob_{finding}": np.mean(calibrated),
            f"votes_{finding}": votes,
            f"consensus_{finding}": [False, tie, True][votes],
            f"member_probs_{finding}": calibrated,
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
    expected = {field.name: field.type for field in score_schema(FINDINGS) if field.name.endswith(FINDINGS)}
    assert {name: column.type for name, column in columns.items()} == expected


def test_without_a_scored_study_all_is_null(ensemble, probs):
    columns = finding_columns(ensemble, probs[:, :0], np.array([0, 0]))
    assert all(column.null_count == 2 for column in columns.values())


def test_without_a_member_there_is_no_finding(lungs):
    assert finding_columns(Ensemble((), lungs), np.zeros((0, 2, 0), np.float32), np.array([1, 1])) == {}

"""Folds by contradiction: fold 0 holds the patients whose films look like those of the other label."""

import numpy as np
import pytest

from cxrpipe.archives.acquisition import Acquisition, StudyAcquisition
from cxrpipe.errors import ConfigError
from cxrpipe.training.acquisition_folds import Member
from cxrpipe.training.contradiction_folds import contradiction_folds


def member(patient: str, label: float | None, brightness: float | None, rng: np.random.Generator) -> Member:
    noise = rng.normal(0, 1, 5)
    values = None if brightness is None else Acquisition(brightness, *noise)
    return Member(patient, {"Pneumonia": label}, StudyAcquisition(f"study of {patient}", "d", "", values))


def archive() -> list[Member]:
    """Eighty sick patients with bright films and forty healthy ones with dark films; ten and five are the reverse."""
    rng, members = np.random.default_rng(0), []
    for label, number, odd in ((1.0, 80, 10), (0.0, 40, 5)):
        for place in range(number):
            bright = (label == 1) != (place < odd)
            name = f"{'odd' if place < odd else 'plain'} {label:.0f} {place}"
            members.append(member(name, label, rng.normal(2.0 if bright else -2.0, 0.3), rng))
    return members


def test_fold_0_holds_the_patients_whose_films_look_like_those_of_the_other_label():
    folds = contradiction_folds(archive(), "Pneumonia", 8)
    assert {patient for patient, fold in folds.items() if fold == 0} == {
        patient for patient in folds if patient.startswith("odd")
    }


def test_every_fold_has_the_same_share_of_sick_patients():
    folds = contradiction_folds(archive(), "Pneumonia", 5)
    for fold in range(5):
        patients = [patient for patient, of in folds.items() if of == fold]
        assert (len(patients), sum(" 1 " in patient for patient in patients)) == (24, 16)


def test_the_order_of_studies_changes_nothing():
    members = archive()
    assert contradiction_folds(members[::-1], "Pneumonia", 4) == contradiction_folds(members, "Pneumonia", 4)


def test_patients_without_a_film_or_a_certain_label_lie_in_the_last_fold():
    rng = np.random.default_rng(1)
    odd = [member("dark room", 1.0, None, rng), member("unsure", -1.0, 2.0, rng), member("silent", None, 2.0, rng)]
    folds = contradiction_folds([*archive(), *odd], "Pneumonia", 4)
    assert {folds[each.patient] for each in odd} == {3}


def test_too_few_patients_of_either_kind_are_refused():
    with pytest.raises(ConfigError, match="80 patients with Pneumonia and 19 without; expected at least 20"):
        contradiction_folds(archive()[:99], "Pneumonia", 4)

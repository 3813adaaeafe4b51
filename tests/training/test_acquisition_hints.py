"""Where brightness, contrast, border, sharpness and size tell a finding, `train --folds-by acquisition` says so."""

import numpy as np
import pytest

from cxrpipe.archives.acquisition import Acquisition, StudyAcquisition
from cxrpipe.training.acquisition_folds import Member
from cxrpipe.training.acquisition_hints import say_what_acquisition_tells, telling


def members(sick: int, well: int, tells: float, films: int = 1) -> list[Member]:
    """Patients with one finding, whose films are as many standard deviations brighter as `tells` says."""
    rng, made = np.random.default_rng(0), []
    for number in range(sick + well):
        label, own = float(number < sick), rng.normal(0, 1, 6)
        for film in range(films):
            values = own + np.array([label * tells, 0, 0, 0, 0, 0])
            acquired = StudyAcquisition(f"s{number}_{film}", "d", "", Acquisition(*values))
            made.append(Member(f"p{number}", {"Pneumonia": label, "Rare": None}, acquired))
    return made


def test_a_finding_of_brighter_films_is_told_with_the_auroc_of_that_distance(capsys):
    told = members(sick=150, well=150, tells=2.0)
    assert telling(told)["Pneumonia"] == pytest.approx(0.92, abs=0.03)  # of two normals two deviations apart
    say_what_acquisition_tells(told)
    assert "the acquisition alone tells Pneumonia with an AUROC of 0.9" in capsys.readouterr().err


def test_a_curve_that_turns_is_seen_as_well(capsys):
    """Films of patients with the finding are darker or brighter than all others."""
    told = members(sick=0, well=300, tells=0)
    turned = [
        member._replace(labels={"Pneumonia": float(abs(member.acquired.values.brightness) > 0.7)}) for member in told
    ]
    assert telling(turned)["Pneumonia"] > 0.9


def test_nothing_is_said_where_films_tell_nothing(capsys):
    even = members(sick=150, well=150, tells=0.0)
    assert telling(even)["Pneumonia"] == pytest.approx(0.5, abs=0.1)
    say_what_acquisition_tells(even)
    assert capsys.readouterr().err == ""


def test_a_patient_who_is_known_by_the_films_is_no_finding():
    """Ten films of a patient are alike: a classifier that knows the patient would know the label."""
    assert telling(members(sick=30, well=30, tells=0.0, films=10))["Pneumonia"] < 0.7


def test_too_few_patients_of_a_kind_missing_labels_and_unreadable_films_are_left_out():
    few = members(sick=19, well=100, tells=3.0, films=2)
    unreadable = Member("p", {"Pneumonia": 1.0, "Rare": None}, StudyAcquisition("s", "d", "", None))
    assert telling([*few, unreadable]) == {}
    assert [*telling(members(sick=20, well=100, tells=3.0))] == ["Pneumonia"]
    assert telling([unreadable]) == {}

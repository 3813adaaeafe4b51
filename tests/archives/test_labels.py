"""Findings, ages and labels are read as the published tables write them."""

import pytest

from cxrpipe.archives.labels import (
    agreed,
    is_an_age,
    is_nothing,
    names_a_view,
    parse_age,
    parse_label,
    parse_sex,
    parse_view_position,
)
from cxrpipe.errors import ConfigError
from cxrpipe.models.spelling import finding


@pytest.mark.parametrize(
    ("written", "spelled"),
    [
        ("Pneumonia", "Pneumonia"),
        ("PNEUMONIA", "Pneumonia"),
        ("Pleural Effusion", "Pleural_Effusion"),
        ("PLEURAL EFFUSION", "Pleural_Effusion"),
        ("Pleural_Thickening", "Pleural_Thickening"),
        (" Lung Opacity ", "Lung_Opacity"),
        ("Enlarged Cardiomediastinum", "Enlarged_Cardiomediastinum"),
        ("COVID-19", "Covid_19"),
        ("TB", "TB"),
        ("Fibrosis/Scarring", "Fibrosis_Scarring"),
        ("pneumonia", "pneumonia"),
    ],
)
def test_findings_are_spelled_as_the_field_does(written, spelled):
    assert finding(written) == spelled


@pytest.mark.parametrize("written", ["PNEUMONIA", "Pleural Effusion", "COVID-19", "TB", "Lung (left) Mass"])
def test_a_spelling_is_spelled_as_itself(written):
    assert finding(finding(written)) == finding(written)


@pytest.mark.parametrize("written", ["No Finding", "NORMAL", "normal", "No_Finding", "NO FINDING", "Healthy"])
def test_no_finding_is_never_a_finding(written):
    assert is_nothing(written)


@pytest.mark.parametrize("written", ["Pneumonia", "Abnormal", "Nodule", "Not normal"])
def test_a_finding_is_not_nothing(written):
    assert not is_nothing(written)


@pytest.mark.parametrize(
    ("written", "years"),
    [
        ("58", 58),
        ("058Y", 58),
        ("006M", 0.5),
        ("026W", 0.5),
        ("073D", 0.2),
        ("7.5", 7.5),
        (" 058y ", 58),
        ("0", 0),
        ("7,5", 7.5),
        ("-5", -5),
    ],
)
def test_ages_are_years_in_whatever_unit(written, years):
    assert parse_age(written) == pytest.approx(years)


@pytest.mark.parametrize("written", ["", "unknown", "Y", "58 years", "nan"])
def test_an_age_that_says_nothing_is_unknown(written):
    assert parse_age(written) is None


@pytest.mark.parametrize(
    ("written", "label"),
    [
        ("1", 1),
        ("1.0", 1),
        ("0", 0),
        ("-1.0", -1),
        (" 1 ", 1),
        ("", None),
        ("  ", None),
        ("nan", None),
        ("1,0", 1),
        ("True", 1),
        ("FALSE", 0),
    ],
)
def test_labels_are_present_absent_uncertain_or_not_mentioned(written, label):
    assert parse_label(written, "here") == label


@pytest.mark.parametrize("written", ["2", "0.5", "yes", "positive"])
def test_another_label_is_refused_with_its_place(written):
    with pytest.raises(ConfigError, match=rf"t\.csv: study 7: label '{written}'; expected 1, 0, -1"):
        parse_label(written, "t.csv: study 7")


@pytest.mark.parametrize(
    ("written", "sex"), [("M", "M"), ("Female", "F"), (" male ", "M"), ("O", "O"), ("Unknown", None), ("", None)]
)
def test_sex_is_a_letter_or_unknown(written, sex):
    assert parse_sex(written) == sex


@pytest.mark.parametrize(
    ("written", "position"),
    [
        ("PA", "PA"),
        ("ap", "AP"),
        ("LL", "LL"),
        ("RL", "RL"),
        ("AP_horizontal", "AP"),
        ("AP AXIAL", "AP"),
        ("L", "LATERAL"),
        ("LATERAL", "LATERAL"),
        ("XTABLE LATERAL", "LATERAL"),
        ("view2_lateral", "LATERAL"),
        ("view1_frontal", None),
        ("LLD", None),
        ("PA ", "PA"),
        ("ap supine", "AP"),
        ("P.A.", "PA"),
        ("A-P", "AP"),
        ("POSTERO_ANTERIOR", "PA"),
        ("antero-posterior", "AP"),
        ("CHEST PA", "PA"),
        ("AP/PA", None),
        ("Frontal", None),
        ("LAT", "LATERAL"),
        ("PROFIL", "LATERAL"),
        ("PERFIL", "LATERAL"),
        ("LATERALE", "LATERAL"),
        ("SEITLICH", "LATERAL"),
        ("Latéral", "LATERAL"),
        ("LLAT", "LL"),
        ("R LAT", "RL"),
        ("LEFT LATERAL", "LL"),
        ("profil gauche", "LL"),
        ("Lateral (R)", "RL"),
        ("LPO", "LATERAL"),
        ("PA OBLIQUE", "LATERAL"),
        ("LEFT LATERAL DECUBITUS", None),
        ("AP LLD", "AP"),
        ("DORSAL DECUBITUS", "LATERAL"),
        ("PA/LAT", None),
        ("BILATERAL", None),
        ("UNK", None),
        ("", None),
    ],
)
def test_view_positions_are_the_contracts_or_unknown(written, position):
    assert parse_view_position(written) == position


@pytest.mark.parametrize("written", ["Frontal", "LLD", "AP/PA", "oblique", "pa", "LAT"])
def test_a_text_that_says_frontal_or_lateral_names_a_view(written):
    assert names_a_view(written)


@pytest.mark.parametrize("written", ["", "supine", "UNK", "PA/LAT", "2 views", "R"])
def test_a_text_that_says_neither_or_both_names_no_view(written):
    assert not names_a_view(written)


def test_nobody_is_younger_than_nothing_or_older_than_120_years():
    assert [is_an_age(years) for years in (-1, 0, 120, 121, 411)] == [False, True, True, False, False]


def test_rows_agree_on_the_labels_that_are_the_same_in_both():
    first, second = {"Mass": 1.0, "Edema": 0.0, "Hernia": None}, {"Mass": 1.0, "Edema": 1.0, "Hernia": 0.0}
    assert agreed(first, second) == {"Mass": 1.0, "Edema": None, "Hernia": None}

"""Names of others' outputs become findings as study tables spell them."""

import pytest

from cxrpipe.archives.layouts import chexpert, nih
from cxrpipe.errors import ConfigError
from cxrpipe.models.adopt.findings import named_outputs
from cxrpipe.models.spelling import finding, of_output


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("Effusion", "Pleural_Effusion"),
        ("Pleural Effusion", "Pleural_Effusion"),
        ("Lung Opacity", "Lung_Opacity"),
        ("Enlarged Cardiomediastinum", "Enlarged_Cardiomediastinum"),
        ("Pleural_Thickening", "Pleural_Thickening"),
        ("PNEUMONIA", "Pneumonia"),
        ("pneumonia", "Pneumonia"),
        ("COVID-19", "Covid_19"),
        ("TB", "TB"),
        ("No Finding", ""),
        ("NORMAL", ""),
        ("", ""),
    ],
)
def test_outputs_are_spelled_as_findings(written, name):
    assert of_output(written) == name


def test_names_in_order_name_every_output_and_an_empty_one_drops_it():
    assert named_outputs("net", (), ("Pneumonia", "", "Mass"), 3) == ("Pneumonia", "", "Mass")


def test_a_mapping_renames_and_drops_some_outputs_of_the_source():
    outputs = ("NORMAL", "PNEUMONIA", "Other thing")
    assert named_outputs("net", outputs, ("PNEUMONIA=Infection", "Other thing="), 3) == ("", "Infection", "")


@pytest.mark.parametrize(
    ("outputs", "wishes", "count", "said"),
    [
        (("Effusion", "Pleural Effusion"), (), 2, "two outputs named Pleural_Effusion"),
        ((), ("Mass", "Mass"), 2, "two outputs named Mass"),
        ((), (), 2, "nobody says what its 2 outputs mean"),
        ((), ("Mass",), 2, "1 findings for 2 outputs"),
        (("A", "B"), ("C=Mass",), 2, "has no output C; it has A, B"),
        (("A", "B"), ("A=Mass", "B"), 2, "some with = and some without"),
        (("NORMAL", ""), (), 2, "none of its outputs names a finding"),
        ((), ("Lung Opacity",), 1, "such as Lung_Opacity"),
    ],
)
def test_names_that_cannot_be_used_are_refused(outputs, wishes, count, said):
    with pytest.raises(ConfigError, match=said):
        named_outputs("net", outputs, wishes, count)


@pytest.mark.parametrize(
    "name", [*nih.FINDINGS, *map(finding, chexpert.COLUMNS), "NSG_Tube", "COPD_Signs", "Pulmonary_Edema"]
)
def test_findings_of_study_tables_keep_their_names(name):
    assert of_output(name) == name

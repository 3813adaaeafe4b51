"""The filter of a list: its URL says it wholly, and nonsense in a URL is refused by name."""

from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxrpipe.errors import ConfigError
from cxrpipe.review.filters import LABELS, SORTS, STATUSES, Filter

FINDINGS = ("Pneumonia", "Pleural_Effusion")


def test_an_empty_query_is_the_whole_list_with_the_highest_probabilities_first():
    made = Filter.of_query({}, FINDINGS)
    assert made == Filter()
    assert (made.sort, made.descending, made.page) == ("prob", True, 1)
    assert made.query() == ""


def test_an_empty_field_of_a_form_is_no_condition():
    assert Filter.of_query({"finding": "", "prob_from": " ", "text": ""}, FINDINGS) == Filter()


def test_a_filter_is_read_from_its_query():
    query = {"finding": "Pleural_Effusion", "prob_from": "0.5", "votes": "2", "label": "-1", "descending": "0"}
    made = Filter.of_query(query, FINDINGS)
    assert made == Filter(finding="Pleural_Effusion", prob_from=0.5, votes=2, label="-1", descending=False)
    assert made.query() == "finding=Pleural_Effusion&prob_from=0.5&votes=2&label=-1&descending=0"


texts = st.none() | st.text(st.characters(exclude_categories=("Cs",)), max_size=200).map(str.strip).filter(bool)


@given(
    st.builds(
        Filter,
        finding=st.none() | st.sampled_from(FINDINGS),
        prob_from=st.floats(0, 0.5),
        prob_to=st.floats(0.5, 1),
        votes=st.none() | st.integers(0, 127),
        flag=texts,
        status=st.none() | st.sampled_from(STATUSES),
        label=st.none() | st.sampled_from(LABELS),
        age_from=st.none() | st.floats(0, 40),
        age_to=st.none() | st.floats(40, 200),
        text=texts,
        list=texts,
        sort=st.sampled_from(SORTS),
        descending=st.booleans(),
        page=st.integers(1, 10_000_000),
    )
)
def test_the_query_of_a_filter_is_read_as_the_same_filter(made):
    assert Filter.of_query(dict(parse_qsl(made.query())), FINDINGS) == made


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        ({"finding": "Nodule"}, "finding 'Nodule'; expected one of Pneumonia, Pleural_Effusion"),
        ({"finding": 'x"; DROP TABLE rows; --'}, "expected one of Pneumonia"),
        ({"sort": "prob; DROP TABLE rows"}, "sort 'prob; DROP TABLE rows'; expected one of prob, votes"),
        ({"prob_from": "nan"}, "prob_from 'nan'; expected a number from 0 to 1"),
        ({"prob_to": "1.5"}, "prob_to '1.5'; expected a number from 0 to 1"),
        ({"prob_from": "0.9", "prob_to": "0.1"}, "prob_from 0.9 is above prob_to 0.1"),
        ({"age_from": "90", "age_to": "9"}, "age_from 90.0 is above age_to 9.0"),
        ({"votes": "-1"}, "votes '-1'; expected a whole number from 0 to 127"),
        ({"votes": "²"}, "votes '²'; expected a whole number"),
        ({"page": "0"}, "page '0'; expected a whole number from 1"),
        ({"page": "9" * 5000}, "expected a whole number from 1"),
        ({"status": "fine"}, "status 'fine'; expected one of ok, partial, rejected, failed"),
        ({"reason": "luck"}, "reason 'luck'; expected one of empty, truncated"),
        ({"text": "x" * 201}, "text has 201 characters; expected at most 200"),
        ({"probfrom": "0.5"}, "'probfrom' is no part of a filter; expected some of finding, decision, prob_from"),
    ],
)
def test_nonsense_is_refused_and_named(query, complaint):
    with pytest.raises(ConfigError) as refused:
        Filter.of_query(query, FINDINGS)
    assert complaint in str(refused.value)
    assert len(str(refused.value)) < 700

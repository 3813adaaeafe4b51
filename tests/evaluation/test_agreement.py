"""Agreement of readers, on examples whose kappa is known."""

import math

import pytest
from readings import verdict

from cxrpipe.evaluation.readers import Agreement, agreements, review_facts
from cxrpipe.records.verdicts import Verdict, as_table, labels_of


def read(reader: str, labels: str, shown: str) -> list[Verdict]:
    """A verdict on each study: `+`, `-`, `?` unsure, a blank for none; `shown` is the consensus."""
    words = {True: "agree", False: "wrong"}
    return [
        verdict(
            f"s{number}",
            "unsure" if label == "?" else words[label == seen],
            reader=reader,
            prob=0.9 if seen == "+" else 0.1,
        )
        for number, (label, seen) in enumerate(zip(labels, shown, strict=True))
        if label != " "
    ]


SHOWN = "++++++----" * 5
"""Cohen's example with 50 cases: 20 both yes, 15 both no, 5 and 10 apart; kappa 0.4."""
ADA = "+" * 20 + "+" * 5 + "-" * 10 + "-" * 15
BO = "+" * 20 + "-" * 5 + "+" * 10 + "-" * 15


def between(found: list[Agreement], reader: str, other: str | None) -> Agreement:
    (agreement,) = [each for each in found if (each.reader, each.other) == (reader, other)]
    return agreement


def test_kappa_is_that_of_a_textbook() -> None:
    found = agreements(as_table(read("Ada", ADA, SHOWN) + read("Bo", BO, SHOWN)))
    assert between(found, "Ada", "Bo")[3:] == (50, 0.7, pytest.approx(0.4))


def test_a_reader_is_compared_with_the_answer_that_was_shown() -> None:
    found = agreements(as_table(read("Ada", "++--", "+-+-")))
    assert found == [Agreement("Pneumonia", "Ada", None, 4, 0.5, 0.0)]


def test_only_studies_on_which_both_said_yes_or_no_count() -> None:
    found = agreements(as_table(read("Ada", "+-? +", "+++++") + read("Bo", "+++++", "+++++")))
    assert between(found, "Ada", "Bo")[3:5] == (3, pytest.approx(2 / 3))
    assert {(each.reader, each.other) for each in found} == {("Ada", None), ("Bo", None), ("Ada", "Bo")}


def test_readers_who_share_no_study_are_not_compared() -> None:
    found = agreements(as_table(read("Ada", "+ ", "++") + read("Bo", " +", "++")))
    assert [each.other for each in found] == [None, None]


def test_without_a_second_answer_kappa_is_not_defined() -> None:
    (agreement,) = agreements(as_table(read("Ada", "+++", "+++")))
    assert agreement.alike == 1
    assert math.isnan(agreement.kappa)


def test_who_read_what_is_summed_up() -> None:
    given = as_table(
        read("Ada", "+-?", "+++") + read("Bo", "++ ", "+++") + [verdict("s9", reader="Bo", fingerprint="f2")]
    )
    facts = review_facts(given, labels_of(given))
    assert (facts.verdicts, facts.studies, facts.readers) == (6, 4, ("Ada", "Bo"))
    assert facts.fingerprints == {"f1": 5, "f2": 1}
    assert facts.without_majority == 2  # s1 is a tie, and of s2 Ada is unsure


def test_no_verdicts_have_no_agreement() -> None:
    assert agreements(as_table([])) == []

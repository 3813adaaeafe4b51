"""What a verdict is, and what the verdicts of several readers say together."""

from datetime import datetime
from typing import Any

import pytest
from readings import verdict

from cxrpipe.errors import ConfigError
from cxrpipe.records.verdicts import VERDICT_SCHEMA, Verdict, as_table, each_once, labels_of, newest_of_readers


def labels(*verdicts: Verdict) -> dict[tuple[str, str], tuple[int, int]]:
    rows = labels_of(newest_of_readers(each_once(as_table(verdicts)))).to_pylist()
    return {(row["study_id"], row["finding"]): (row["label"], row["readers"]) for row in rows}


@pytest.mark.parametrize(
    ("word", "prob", "label"),
    [
        ("agree", 0.9, 1),
        ("agree", 0.1, 0),
        ("wrong", 0.9, 0),
        ("wrong", 0.1, 1),
        ("unsure", 0.9, -1),
        ("unsure", 0.1, -1),
    ],
)
def test_the_label_is_the_consensus_or_its_opposite_or_unsure(word: str, prob: float, label: int) -> None:
    assert verdict(word=word, prob=prob).label == label


def test_a_row_holds_what_was_shown_and_who_said_what() -> None:
    written = verdict("s7", "wrong", prob=0.25, note="small, left base", fingerprint="f2")
    row = as_table([written]).to_pylist()[0]
    assert as_table([written]).schema.equals(VERDICT_SCHEMA)
    assert row | {"verdict_id": "", "time": ""} == {
        "verdict_id": "",
        "study_id": "s7",
        "patient_id": "patient_s7",
        "finding": "Pneumonia",
        "fingerprint": "f2",
        "prob": 0.25,
        "consensus": False,
        "verdict": "wrong",
        "label": 1,
        "reader": "Ada",
        "time": "",
        "note": "small, left base",
    }
    assert row["time"] == written.time


def test_the_majority_counts_and_without_one_the_label_is_unsure() -> None:
    words = {
        "two of three": (["agree", "agree", "wrong"], 1),
        "two against one who is unsure": (["wrong", "wrong", "unsure"], 0),
        "a tie": (["agree", "wrong"], -1),
        "one against one who is unsure": (["agree", "unsure"], -1),
        "two of four": (["agree", "agree", "wrong", "unsure"], -1),
        "all unsure": (["unsure", "unsure"], -1),
    }
    given = [
        verdict(study, word, reader=f"reader {number}")
        for study, (of_readers, _) in words.items()
        for number, word in enumerate(of_readers)
    ]
    expected = {(study, "Pneumonia"): (label, len(of_readers)) for study, (of_readers, label) in words.items()}
    assert labels(*given) == expected


def test_a_later_verdict_of_a_reader_replaces_the_earlier_whatever_model_it_was_about() -> None:
    early, late = verdict(word="agree", minute=1), verdict(word="wrong", minute=2, fingerprint="f2")
    assert labels(late, early) == {("s1", "Pneumonia"): (0, 1)}
    assert labels(early, verdict(word="wrong", finding="Mass", minute=2)) == {
        ("s1", "Pneumonia"): (1, 1),
        ("s1", "Mass"): (0, 1),
    }


def test_the_same_submission_twice_counts_once_and_as_it_came_first() -> None:
    first = verdict(word="agree", minute=1, verdict_id="submission-1")
    again = verdict(word="wrong", minute=9, verdict_id="submission-1")
    assert labels(again, first, verdict(word="unsure", minute=5, reader="Bo")) == {("s1", "Pneumonia"): (-1, 2)}
    assert each_once(as_table([again, first]))["verdict"].to_pylist() == ["agree"]


def test_no_verdicts_make_no_labels() -> None:
    assert labels_of(newest_of_readers(each_once(as_table([])))).num_rows == 0


def test_blanks_and_forms_of_letters_make_no_second_reader() -> None:
    assert verdict(reader="  Jose\u0301   Ruiz ").reader == "Jos\u00e9 Ruiz"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"verdict_id": "../../escape"}, "letters, digits and hyphens"),
        ({"verdict_id": "x" * 65}, "letters, digits and hyphens"),
        ({"word": "maybe"}, "agree, wrong, unsure"),
        ({"reader": "  "}, "a reader's name needs 1 to 100 characters"),
        ({"reader": "x" * 101}, "it has 101"),
        ({"reader": "Ada\x00"}, "a reader's name"),
        ({"note": "x" * 2001}, "this one has 2,001"),
        ({"note": "\ud800"}, "characters of text"),
        ({"prob": float("nan")}, "expected 0 to 1"),
        ({"consensus": None}, "s1: no answer on Pneumonia there"),
    ],
)
def test_what_no_form_sends_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        verdict(**settings)


def test_a_label_that_contradicts_the_verdict_and_a_time_without_zone_are_refused() -> None:
    right = vars(verdict())
    with pytest.raises(ConfigError, match="label 0 after 'agree'"):
        Verdict(**right | {"label": 0})
    with pytest.raises(ConfigError, match="no time zone"):
        Verdict(**right | {"time": datetime(2026, 11, 20)})

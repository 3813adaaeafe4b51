"""A filter as SQL over the table `rows`: a condition with its parameters, and an order.

Every value of a person is a parameter. The names of columns come from numbers and from the words of this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from cxrpipe.errors import ConfigError
from cxrpipe.review.filters import Filter
from cxrpipe.review.loading import Loaded
from cxrpipe.review.positions import PLACE

_OF_PATIENT = {"split": "split", "age_from": "patient_age", "age_to": "patient_age", "sex": "patient_sex"}
_OF_FINDING = ("prob", "votes", "disagreement")


class Condition(NamedTuple):
    """What stands after WHERE."""

    text: str
    parameters: list[Any]

    def and_(self, text: str, *parameters: Any) -> Condition:
        return Condition(f"{self.text} AND {text}", [*self.parameters, *parameters])


def condition(filter_: Filter, loaded: Loaded, only: Sequence[str] | None = None) -> Condition:
    """The rows that a filter selects; ConfigError where it asks for what the root does not hold.

    only  study ids: of these studies alone
    """
    asked, empty, of = filter_, Filter(), _suffix(filter_, loaded)
    made = Condition("true", [])
    if (asked.prob_from, asked.prob_to) != (empty.prob_from, empty.prob_to):
        made = made.and_(f"prob_{of} BETWEEN ?::FLOAT AND ?::FLOAT", asked.prob_from, asked.prob_to)
    if asked.decision is not None:
        made = made.and_(f"consensus_{of} = ?", asked.decision == "positive")
    if asked.votes is not None:
        made = made.and_(f"votes_{of} >= ?", asked.votes)
    if asked.disagreement_from != empty.disagreement_from:
        made = made.and_(f"disagreement_{of} >= ?::FLOAT", asked.disagreement_from)
    if asked.flag is not None:
        made = made.and_("list_contains(flags, ?)", asked.flag)
    if asked.status is not None:
        made = made.and_("status = ?", asked.status)
    if asked.reason is not None:
        made = made.and_("reason = ?", asked.reason)
    if asked.run_id is not None:
        made = made.and_("file BETWEEN ? AND ?", *_files_of(asked.run_id, loaded))
    if asked.text is not None:
        part = "contains(lower({}), lower(?))"
        made = made.and_(f"({part.format('study_id')} OR {part.format('patient_id')})", asked.text, asked.text)
    if asked.view_position is not None:
        made = made.and_(f"{PLACE} IN (SELECT place FROM positions WHERE position = ?)", asked.view_position)
    if only is not None:
        made = made.and_("study_id IN (SELECT unnest(?::VARCHAR[]))", list(only))
    return _of_patients(made, asked, loaded)


def _of_patients(made: Condition, asked: Filter, loaded: Loaded) -> Condition:
    """The conditions on what the study table says."""
    needing = [name for name in (*_OF_PATIENT, "label") if getattr(asked, name) is not None]
    if asked.sort == "patient_age":
        needing.append("sort by age")
    if needing and not loaded.has_table:
        raise ConfigError(f"{needing[0]}: scores do not hold it; start cxrpipe review with --studies TABLE")
    for name, column in _OF_PATIENT.items():
        if (value := getattr(asked, name)) is not None:
            relation = {"age_from": ">=", "age_to": "<="}.get(name, "=")
            made = made.and_(f"{column} {relation} ?", value)
    if asked.label is not None:
        made = made.and_(*_label(asked.label, asked.finding, loaded))
    return made


def _label(label: str, finding: str | None, loaded: Loaded) -> tuple[str, *tuple[Any, ...]]:
    wanted = loaded.labelled if finding is None else (finding,)
    if not loaded.labelled or not set(wanted) <= set(loaded.labelled):
        some = ", ".join(loaded.labelled) or "no finding that is scored"
        raise ConfigError(f"label: the study table has no labels of {finding or 'the findings'}; it labels {some}")
    columns = [f"label_{loaded.labelled.index(each)}" for each in wanted]
    if label == "none":
        return (f"({' AND '.join(f'{column} IS NULL' for column in columns)})",)
    return f"({' OR '.join(f'{column} = ?' for column in columns)})", *[int(label)] * len(columns)


def _files_of(run_id: str, loaded: Loaded) -> tuple[int, int]:
    runs = [report.run_id for report in loaded.runs]
    if run_id not in runs:
        raise ConfigError(f"run_id {run_id!r}: no complete run of these models; the newest is {runs[-1]}")
    return loaded.files_of(runs.index(run_id))


def _suffix(filter_: Filter, loaded: Loaded) -> str:
    """`3` of the columns of a finding, such as `prob_3`; `any` of the largest of all findings."""
    if filter_.finding is None:
        return "any"
    if filter_.finding not in loaded.findings:
        raise ConfigError(f"finding {filter_.finding!r}; expected one of {', '.join(loaded.findings)}")
    return str(loaded.findings.index(filter_.finding))


def sort_key(filter_: Filter, loaded: Loaded) -> str:
    """The column, or expression, by which a filter sorts."""
    if filter_.sort in _OF_FINDING:
        return f"{filter_.sort}_{_suffix(filter_, loaded)}"
    return {
        "study_id": "study_id",
        "patient_id": "patient_id",
        "patient_age": "patient_age",
        "run_id": "file",
        "shuffled": "md5(study_id)",
    }[filter_.sort]


def order(key: str, descending: bool) -> str:
    """What stands after ORDER BY: by a column, rows without a value last, and then by study id."""
    return f"{key} {'DESC' if descending else 'ASC'} NULLS LAST, study_id ASC"


def before(key: str, descending: bool, value: Any, study_id: str) -> Condition:
    """The rows that stand before a study whose column `key` holds `value`."""
    nearer = ">" if descending else "<"
    if value is None:
        return Condition(f"({key} IS NOT NULL OR study_id < ?)", [study_id])
    return Condition(f"({key} {nearer} ? OR ({key} = ? AND study_id < ?))", [value, value, study_id])


def after(key: str, descending: bool, value: Any, study_id: str) -> Condition:
    """The rows that stand after a study whose column `key` holds `value`."""
    if value is None:
        return Condition(f"({key} IS NULL AND study_id > ?)", [study_id])
    farther = "<" if descending else ">"
    return Condition(f"({key} IS NULL OR {key} {farther} ? OR ({key} = ? AND study_id > ?))", [value, value, study_id])


def backwards(key: str, descending: bool) -> str:
    """The opposite of `order`."""
    return f"{key} {'ASC' if descending else 'DESC'} NULLS FIRST, study_id DESC"

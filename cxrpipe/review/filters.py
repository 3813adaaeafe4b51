"""The filter of a list of studies: what a page shows and in which order, as its URL says."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import urlencode

from cxrpipe.errors import ConfigError
from cxrpipe.records import REASONS, SPLITS

STATUSES = ("ok", "partial", "rejected", "failed")
DECISIONS = ("positive", "negative")
LABELS = ("1", "0", "-1", "none")
VIEW_POSITIONS = ("PA", "AP", "LL", "RL", "LATERAL", "none")
SORTS = ("prob", "votes", "disagreement", "study_id", "patient_id", "patient_age", "run_id", "shuffled")
_LONGEST = 200
_LAST_PAGE = 10_000_000


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Everything of a list that stands in its URL, so that the URL can be shared. None: no such condition.

    Without a finding `prob`, `votes` and `disagreement` are the largest of all findings, and `decision` and `label`
    hold where they hold for any finding.
    """

    finding: str | None = None
    decision: str | None = None
    """`positive` or `negative`, by the consensus."""
    prob_from: float = 0.0
    prob_to: float = 1.0
    votes: int | None = None
    """At least so many."""
    disagreement_from: float = 0.0
    flag: str | None = None
    status: str | None = None
    reason: str | None = None
    run_id: str | None = None
    split: str | None = None
    label: str | None = None
    """`1`, `0`, `-1` or `none`, which is not mentioned."""
    age_from: float | None = None
    age_to: float | None = None
    """Years, this one included."""
    sex: str | None = None
    view_position: str | None = None
    """Of any view of the study. `none`: a view whose position is unknown."""
    text: str | None = None
    """A part of the study id or of the patient id, in any case."""
    list: str | None = None
    """The name of a reading list."""
    sort: str = "prob"
    """`shuffled` is a random order, always the same: the first studies of a list are a random part of it."""
    descending: bool = True
    page: int = 1
    """Counted from 1."""

    @classmethod
    def of_query(cls, query: Mapping[str, str], findings: Sequence[str]) -> Filter:
        """The filter of a query string; ConfigError names what it does not understand. An empty value is no condition.

        findings  those that may be asked for
        """
        words = {name: text.strip() for name, text in query.items()}
        readers = _READERS | {"finding": _one_of(findings)}
        if unknown := sorted(set(words).difference(readers)):
            word = unknown[0][:_LONGEST]
            raise ConfigError(f"{word!r} is no part of a filter; expected some of {', '.join(readers)}")
        values = {name: readers[name](name, text) for name, text in words.items() if text}
        made = cls(**values)
        _refuse_empty_range("prob", made.prob_from, made.prob_to)
        _refuse_empty_range("age", made.age_from, made.age_to)
        return made

    def query(self) -> str:
        """The canonical query string: what differs from an empty filter, in the order of the fields."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        defaults = {field.name: field.default for field in fields(self)}
        return urlencode([(name, _text(value)) for name, value in values.items() if value != defaults[name]])


def _text(value: Any) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


def _refuse_empty_range(name: str, least: float | None, most: float | None) -> None:
    if least is not None and most is not None and least > most:
        raise ConfigError(f"{name}_from {least} is above {name}_to {most}; exchange them")


# ---- readers: name and text of a parameter → its value ----------------------------------------------------------

Reader = Callable[[str, str], Any]


def _one_of(known: Sequence[str]) -> Reader:
    def read(name: str, text: str) -> str:
        if text not in known:
            raise ConfigError(f"{name} {text[:_LONGEST]!r}; expected one of {', '.join(known)}")
        return text

    return read


def _between(least: float, most: float) -> Reader:
    def read(name: str, text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not least <= number <= most:  # nan is in no range
            raise ConfigError(f"{name} {text[:_LONGEST]!r}; expected a number from {least:g} to {most:g}")
        return number

    return read


def _count(least: int, most: int) -> Reader:
    def read(name: str, text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 10 and least <= int(text) <= most):
            raise ConfigError(f"{name} {text[:_LONGEST]!r}; expected a whole number from {least} to {most}")
        return int(text)

    return read


def _short(name: str, text: str) -> str:
    if len(text) > _LONGEST:
        raise ConfigError(f"{name} has {len(text)} characters; expected at most {_LONGEST}")
    return text


def _switch(name: str, text: str) -> bool:
    return bool(_count(0, 1)(name, text))


_READERS: dict[str, Reader] = {
    "finding": _one_of(()),
    "decision": _one_of(DECISIONS),
    "prob_from": _between(0, 1),
    "prob_to": _between(0, 1),
    "votes": _count(0, 127),
    "disagreement_from": _between(0, 1),
    "flag": _short,
    "status": _one_of(STATUSES),
    "reason": _one_of(tuple(REASONS)),
    "run_id": _short,
    "split": _one_of(SPLITS),
    "label": _one_of(LABELS),
    "age_from": _between(0, 200),
    "age_to": _between(0, 200),
    "sex": _short,
    "view_position": _one_of(VIEW_POSITIONS),
    "text": _short,
    "list": _short,
    "sort": _one_of(SORTS),
    "descending": _switch,
    "page": _count(1, _LAST_PAGE),
}

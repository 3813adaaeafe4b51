"""The page of disagreement: members against members, readers against the ensemble, readers against readers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cxrpipe.evaluation.readers import agreements
from cxrpipe.review.context import Context, list_url
from cxrpipe.review.filters import Filter
from cxrpipe.review.lines import lines_of

_STUDIES = 20
"""Studies on which the members differ most."""
_VERDICTS = 200
"""Most verdicts against the ensemble, and most studies on which readers differ, on one page."""
_LABELS = {1: "present", 0: "absent", -1: "unsure"}

Verdict = Mapping[str, Any]


class Split(NamedTuple):
    """A finding of a study on which readers differ."""

    study_id: str
    finding: str
    said: tuple[tuple[str, str], ...]
    """(reader, label in words)."""


def routes(room: Context) -> list[Route]:
    def page(request: Request) -> Response:
        asked = replace(Filter.of_query(request.query_params, room.rows.findings), sort="disagreement", page=1)
        verdicts = room.reviews.read()
        newest_first = verdicts.to_pylist()[::-1]
        compared = agreements(verdicts)
        return room.page(
            request,
            "disagreement.html.j2",
            nav="disagreement",
            asked=asked,
            lines=lines_of(room, room.rows.disagreeing(asked, _STUDIES).rows, asked),
            more=list_url(asked),
            findings=room.rows.findings,
            with_ensemble=[each for each in compared if each.other is None],
            between_readers=[each for each in compared if each.other is not None],
            against=[said for said in newest_first if said["verdict"] == "wrong"][:_VERDICTS],
            splits=_splits(newest_first)[:_VERDICTS],
        )

    return [Route("/disagreement", page)]


def _splits(verdicts: Iterable[Verdict]) -> Sequence[Split]:
    """The findings of studies with more than one label."""
    labels: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    for said in verdicts:
        labels[said["study_id"], said["finding"]][said["reader"]] = said["label"]
    return [
        Split(*key, tuple((reader, _LABELS[label]) for reader, label in sorted(of_reader.items())))
        for key, of_reader in labels.items()
        if len(set(of_reader.values())) > 1
    ]

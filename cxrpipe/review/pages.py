"""The pages of the reading room that show many studies: tonight, the list, failures."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from cxrpipe.records import FLAGS, SPLITS
from cxrpipe.review.context import Context, list_url
from cxrpipe.review.filters import DECISIONS, LABELS, SORTS, STATUSES, VIEW_POSITIONS, Filter
from cxrpipe.review.lines import lines_of
from cxrpipe.runs import reading_lists

_SORTS = {"prob": "probability", "study_id": "study", "patient_id": "patient", "patient_age": "age", "run_id": "run"}
PAGE = 50
"""Studies of a page of the list."""


def routes(room: Context) -> list[Route]:
    def tonight(request: Request) -> Response:
        return room.page(request, "tonight.html.j2", nav="tonight", summary=room.rows.summary(), flags=FLAGS, link=link)

    def studies(request: Request) -> Response:
        asked = Filter.of_query(request.query_params, room.rows.findings)
        if request.url.query != asked.query():
            return RedirectResponse(list_url(asked), 303)  # one address for one list
        found = room.rows.page(asked, PAGE)
        return room.page(
            request,
            "studies.html.j2",
            nav="studies",
            asked=asked,
            defaults=Filter(),
            page=found,
            lines=lines_of(room, found.rows, asked),
            choices=_choices(room),
            offered=_offered,
            sorts={name: _SORTS.get(name, name.replace("_", " ")) for name in SORTS},
            changed=lambda **changes: list_url(replace(asked, **{"page": 1} | changes)),
        )

    def failures(request: Request) -> Response:
        return room.page(request, "failures.html.j2", nav="failures", groups=room.rows.failures(), link=link)

    return [Route("/", tonight), Route("/studies", studies), Route("/failures", failures)]


def link(**conditions: str) -> str:
    """The list of the studies that meet these conditions; names and values as in `Filter`."""
    return f"/studies?{urlencode(conditions)}"


def _offered(words: tuple[str, ...], asked: str | None) -> tuple[str, ...]:
    """The words of a choice; with the one that is asked for, even where no study has it any more."""
    return words if asked is None or asked in words else (*words, asked)


def _choices(room: Context) -> dict[str, tuple[str, ...]]:
    """The words that the form of the list offers, by condition."""
    has = room.rows.choices()
    of_rows = {
        "finding": tuple(room.rows.findings),
        "decision": DECISIONS,
        "status": STATUSES,
        "reason": has.reasons,
        "flag": has.flags,
        "view_position": VIEW_POSITIONS,
        "run_id": has.run_ids,
        "list": tuple(reading_lists.names(room.root)),
    }
    return of_rows | ({"split": tuple(SPLITS), "label": LABELS, "sex": has.sexes} if room.table else {})
